//! Talking to nodes: a small HTTP/1.1 client, and the API on top of it.
//!
//! One request at a time a connection, connections kept open, no other features: a load
//! generator beside four nodes on one machine must leave the processor to them.

mod api;
mod args;
mod http;
mod target;
mod tls;

pub(crate) use api::{Client, ClientError};
pub(crate) use args::ApiArgs;
pub(crate) use http::{Connection, Request, connect};
pub(crate) use target::{Target, path_segment};
