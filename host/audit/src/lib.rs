//! Re-checks a chain from nothing but its genesis, and keeps the record of who did what.
//!
//! Sans-IO: somebody hands over stretches of final blocks in order, wherever they come from;
//! nothing of them is believed. Hash chain, block times, batches and their signatures,
//! certificates, and governance, from which the manifests of later epochs follow. What is not
//! checked: state roots, which only running the application can (they are certified, and
//! reported), and that nothing final lies beyond the last stretch.

mod auditor;
mod error;
mod report;

pub use auditor::Auditor;
pub use error::AuditError;
pub use report::{
    Audit, AuthorityReport, BlockPlace, EpochReport, FallbackReport, ModuleReport, OriginReport,
    ProposalReport, ReadyReport, VoteReport,
};
