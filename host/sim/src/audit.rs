//! At the end of a run with real signatures: the chain of a node's disk, audited from the genesis
//! alone, as who does not trust that node would.

use moult_audit::Auditor;
use moult_types::phase::Phase;
use moult_types::{EpochNumber, GlobalIndex};

use crate::report::Violation;
use crate::world::World;

impl World {
    /// Audits one honest node's chain: it holds, and says of epochs and fallbacks what the
    /// nodes made of them.
    pub(crate) fn audit(&mut self) -> Result<(), Violation> {
        let readable = |node: &usize| {
            let it = &self.nodes[*node];
            // A start does not read every batch: a damaged one may lie there unnoticed.
            !it.byzantine && Some(*node) != self.rotten_node && it.reads_fail_until_us <= self.now_us
        };
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(readable).collect();
        let longest = nodes.into_iter().max_by_key(|node| self.nodes[*node].disk.now.last_final);
        let Some(node) = longest.filter(|_| self.scheme.is_real()) else { return Ok(()) };
        let wrong = |what: String| Violation::new("the chain is auditable", format!("node {node}: {what}"));
        let mut auditor = Auditor::new(&self.genesis).map_err(|e| wrong(e.to_string()))?;
        while let Some(stretch) = self.blocks(node, auditor.next(), auditor.phase()) {
            auditor.feed(&stretch).map_err(|e| wrong(e.to_string()))?;
        }
        let image = &self.nodes[node].disk.now;
        if auditor.next() != image.last_final.next() {
            let GlobalIndex(last) = image.last_final;
            return Err(wrong(format!(
                "its last block is {last}, the audit ended before {}",
                auditor.next()
            )));
        }
        for start in &image.epochs {
            auditor.check_stored_epoch(start).map_err(|e| wrong(e.to_string()))?;
        }
        let audit = auditor.audit();
        let epochs = audit.epochs.iter();
        let told: Vec<(EpochNumber, Phase)> = epochs
            .flat_map(|epoch| epoch.fallbacks.iter().map(|it| (EpochNumber(epoch.number), it.phase)))
            .collect();
        let resumed = image.phases.iter().filter(|(_, record)| record.resumption.is_some());
        let resumed: Vec<_> = resumed.map(|(phase, _)| *phase).collect();
        // A fallback that was itself given up before it resumed, or one that closed its epoch, may
        // have left no trace in the executed chain.
        if let Some(phase) = told.iter().find(|phase| !resumed.contains(phase)) {
            return Err(wrong(format!("no fallback {phase:?} resumed there: {resumed:?}")));
        }
        self.report.note("chain audited");
        if !told.is_empty() {
            self.report.note("chain audited across aborts");
        }
        Ok(())
    }
}
