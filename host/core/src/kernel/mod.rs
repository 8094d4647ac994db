//! The finality kernel: what makes blocks final, whatever an engine says.
//!
//! Here live votes, certificates, aborts and the chain they are about, without anything that
//! signs, sends or waits: the signer guard (`guard`) decides what may be signed, and the replica
//! does the rest. The rules are those of `docs/SAFETY.md`, named K1 to K19 here as there.

pub mod abort;
pub mod certificate;
pub mod chain;
pub mod evidence;

pub use abort::{PhaseError, Phases};
pub use certificate::{CertificateError, check_certificate};
pub use chain::{Finality, HeldBlock};
