//! One replica on the bench, committees under attacks that know the protocol, and the
//! messages that a replica must refuse. What every engine must pass is in
//! `tests/conformance`.

mod attack;
mod bench;
mod hostile;
mod runs;
mod views;
mod votes;
