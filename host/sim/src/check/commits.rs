//! A commit leaves a node only once the certificate that it rests on is durable there, in the
//! guard's file: what a quorum committed to, one honest node can show after any crash.

use moult_types::{EpochIdentity, Round, Signed};

use crate::node::Node;
use crate::report::Violation;

pub(crate) fn sent(node: usize, it: &Node, identity: EpochIdentity, vote: &Signed) -> Result<(), Violation> {
    if Round::of(&vote.statement) != Some(Round::Commit) {
        return Ok(());
    }
    let guard = it.disk.durable_guard();
    let certified = guard.certified.as_ref().map(|claim| &claim.certificate);
    let certified = certified.filter(|certificate| certificate.identity == identity);
    // A later epoch's guard has let go of it.
    let is_over = guard.identity != identity;
    if is_over || certified.is_some_and(|certificate| certificate.index.0 >= vote.statement.slot.a) {
        return Ok(());
    }
    let what = format!("node {node}: commit {:?}, durable is {certified:?}", vote.statement);
    Err(Violation::new("durable certificate", what))
}
