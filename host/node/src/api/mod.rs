//! The HTTP interface, and gRPC beside it. `docs/API.md` is their manual.
//!
//! A request passes the gate (token, limits, metrics), then one handler: it reads what it
//! needs of the request, calls the node's handle and puts the answer into words. Nothing
//! here decides anything that another node must share.
//!
//! The status says what became of a call: 2xx done, 4xx and 503 certainly not applied, 504
//! not known. Every refusal is an [`ErrorBody`](crate::api_types::ErrorBody).

mod app;
mod backup;
mod body;
mod chain;
mod convert;
mod error;
mod gate;
mod grpc;
mod kv;
mod modules;
mod parse;
mod proposal_body;
mod proposals;
mod routes;
mod server;
mod status;
mod tls;
mod transactions;

pub(crate) use app::Api;
pub(crate) use server::{Protocol, Server};
