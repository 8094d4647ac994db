//! The transport as its users and its attackers see it: real sockets on loopback, waiting
//! for events and never for time to pass.

mod abuse;
mod exchange;
mod flow;
mod hostile;
mod identity;
mod load;
mod raw;
mod reconnect;
mod replay;
mod support;
