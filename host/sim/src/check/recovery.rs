//! What is found on a disk fits together.

use moult_core::Recovery;

use crate::report::Violation;

/// The guard never knows of a prepare further ahead of the final chain than its node was
/// allowed to sign: the answer to a read is built on that.
pub(crate) fn check(node: usize, recovery: &Recovery) -> Result<(), Violation> {
    let identity = recovery.epoch.manifest.identity();
    let last_final = recovery.ledger.as_ref().map_or(0, |ledger| ledger.commit.0);
    let (prepared, window) = (recovery.guard.prepared.0.0, recovery.epoch.manifest.limits.window_blocks);
    if recovery.guard.identity == identity && prepared > last_final + window {
        let what = format!("node {node}: prepared {prepared}, final {last_final}, window {window}");
        return Err(Violation::new("guard behind the store", what));
    }
    let phase = recovery.phases.last().map_or(0, |record| record.phase);
    let has_same_epoch = recovery.guard.epoch == recovery.epoch.manifest.number.0;
    if has_same_epoch && recovery.guard.phase > phase {
        let what = format!("node {node}: guard in phase {}, store in {phase}", recovery.guard.phase);
        return Err(Violation::new("guard behind the store", what));
    }
    if recovery.guard.epoch > recovery.epoch.manifest.number.0 {
        let what = format!(
            "node {node}: guard in epoch {}, store in {}",
            recovery.guard.epoch, recovery.epoch.manifest.number
        );
        return Err(Violation::new("guard behind the store", what));
    }
    Ok(())
}
