//! The promises, each in a file of its own; nodes are judged by what they write, release and
//! execute, with arithmetic that is not the production's.

mod barrier;
mod certificates;
pub(crate) mod chain;
mod commits;
mod failed;
mod governance;
mod model;
mod phases;
pub(crate) mod reads;
mod recovery;
mod roots;
mod signatures;

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_core::Recovery;
use moult_core::execution::Receipt;
use moult_core::io::{Effect, GuardUpdate, Persist};
use moult_types::phase::{Phase, fallback_identity};
use moult_types::{
    BlockRecord, Digest, EpochIdentity, EpochNumber, Genesis, GlobalIndex, HeldBatch, Manifest, Message,
    Round, TransactionId,
};

use crate::clients::Clients;
use crate::node::Node;
use crate::report::Violation;
use crate::signing::Scheme;

/// The epochs that began, with the identities of their phases.
#[derive(Default)]
pub(crate) struct Epochs {
    by_number: BTreeMap<EpochNumber, Manifest>,
    phases: BTreeMap<EpochIdentity, EpochNumber>,
}

impl Epochs {
    pub(crate) fn get(&self, number: EpochNumber) -> Option<&Manifest> {
        self.by_number.get(&number)
    }

    /// The epoch of a phase.
    pub(crate) fn of(&self, identity: EpochIdentity) -> Option<&Manifest> {
        self.by_number.get(self.phases.get(&identity)?)
    }

    pub(crate) fn begin(&mut self, manifest: &Manifest) {
        let mut identity = manifest.identity();
        for phase in 0..PHASES_SEEN_MAX {
            self.phases.insert(identity, manifest.number);
            identity = fallback_identity(identity, phase);
        }
        self.by_number.insert(manifest.number, manifest.clone());
    }
}

/// A run does not get further than this.
const PHASES_SEEN_MAX: Phase = 16;

/// All of them.
pub(crate) struct Checks {
    epochs: Epochs,
    phases: phases::Phases,
    pub(crate) chain: chain::Chain,
    certificates: certificates::Certificates,
    signatures: signatures::Signatures,
    barrier: barrier::Barriers,
    governance: governance::Governance,
    pub(crate) failed: failed::Failed,
    model: model::Model,
    roots: roots::Roots,
    pub(crate) reads: reads::Reads,
}

impl Checks {
    pub(crate) fn new(genesis: &Genesis, nodes: &[Node], scheme: Scheme) -> Self {
        Self {
            epochs: Epochs::default(),
            phases: phases::Phases::default(),
            chain: chain::Chain::default(),
            certificates: certificates::Certificates::new(genesis.chain(), scheme),
            signatures: signatures::Signatures::new(nodes),
            barrier: barrier::Barriers::default(),
            governance: governance::Governance::default(),
            failed: failed::Failed::default(),
            model: model::Model::default(),
            roots: roots::Roots::default(),
            reads: reads::Reads::default(),
        }
    }

    /// A process starts from its disk.
    pub(crate) fn started(&mut self, node: usize, it: &Node, recovery: &Recovery) -> Result<(), Violation> {
        if it.byzantine {
            return Ok(());
        }
        let last = recovery.ledger.as_ref().map_or(GlobalIndex(0), |ledger| ledger.global);
        let blocks = it.disk.now.blocks.range(..=last).map(|(_, record)| record);
        self.chain.started(node, blocks, &self.epochs)?;
        if it.disk.is_replaced() {
            // Its store is a new one: it knows less than its guard, and signs nothing.
            return Ok(());
        }
        recovery::check(node, recovery)
    }

    /// A process is gone.
    pub(crate) fn crashed(&mut self, node: usize) {
        self.reads.crashed(node);
        self.failed.crashed(node);
    }

    /// A replica answered: what it will write and release.
    pub(crate) fn stepped(
        &mut self,
        node: usize,
        it: &Node,
        durable: &[Persist],
        release: &[Effect],
    ) -> Result<(), Violation> {
        if it.byzantine {
            return Ok(());
        }
        // Blocks first: what was decided is counted in them.
        for effect in release {
            if let Effect::Execute { record, batches } = effect
                && self.chain.is_new(record)
            {
                self.governance.block(record, batches)?;
            }
        }
        for persist in durable {
            match persist {
                Persist::Final { proof, ledger, .. } => {
                    let certificate = proof.certificate();
                    let manifest = self.epochs.of(certificate.identity);
                    self.certificates.check(node, certificate, Round::Commit, manifest)?;
                    self.barrier.ledger(node, ledger)?;
                    if let Some(manifest) = manifest {
                        self.governance.ledger(node, manifest, ledger)?;
                        self.failed.ledger(node, manifest.number, ledger)?;
                    }
                }
                Persist::PhaseResumed { record, ledger, .. } => {
                    let manifest = self.epochs.get(record.number);
                    self.phases.resumed(node, record, ledger)?;
                    if let Some(manifest) = manifest {
                        self.failed.resumed(node, record, manifest, ledger);
                        self.failed.ledger(node, record.number, ledger)?;
                    }
                    if let Some(resumption) = &record.resumption {
                        self.certificates.check(node, &resumption.certificate, Round::Commit, manifest)?;
                    }
                }
                Persist::History(record) => self.failed.closed(record),
                Persist::Epoch { start, ledger, .. } => {
                    self.chain.epoch(node, start)?;
                    self.barrier.epoch(node, start)?;
                    self.epochs.begin(&start.manifest);
                    self.failed.ledger(node, start.manifest.number, ledger)?;
                }
                Persist::Guard(GuardUpdate::Committed(claim)) => {
                    let manifest = self.epochs.of(claim.certificate.identity);
                    self.certificates.check(node, &claim.certificate, Round::Prepare, manifest)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A block is handed to execution: what the step wrote is synced.
    pub(crate) fn handed_over(
        &mut self,
        node: usize,
        it: &Node,
        record: &Arc<BlockRecord>,
    ) -> Result<(), Violation> {
        if it.byzantine {
            return Ok(());
        }
        self.chain.final_block(node, record, &self.epochs)?;
        self.barrier.block(node, record)
    }

    /// An honest node sends a message.
    pub(crate) fn sent(&mut self, node: usize, nodes: &[Node], message: &Message) -> Result<(), Violation> {
        if nodes[node].byzantine {
            return Ok(());
        }
        let disk = &nodes[node].disk;
        let unfit = [
            (disk.is_lost(), "a lost folder signs nothing"),
            (disk.is_replaced(), "a replaced store signs nothing"),
        ];
        let unfit = unfit.into_iter().find_map(|(is_so, promise)| is_so.then_some(promise));
        let is_signed = match message {
            Message::Votes { .. } | Message::Abort { .. } | Message::StateRoot(_) => true,
            // Those of others are shown to who may lack them, and so are its own of before.
            Message::Batches(batches) => {
                disk.is_lost() && self.signatures.has_new(&nodes[node].public, batches, &self.epochs)
            }
            _ => false,
        };
        if let Some(promise) = unfit.filter(|_| is_signed) {
            return Err(Violation::new(promise, format!("node {node} votes, or makes batches")));
        }
        if let Message::Votes { identity, votes, certificate } = message {
            for vote in votes {
                self.barrier.vote(node, *identity, vote.statement.slot.a)?;
                self.certificates.made(*identity, vote);
                commits::sent(node, &nodes[node], *identity, vote)?;
                self.phases.voted(node, *identity, vote)?;
            }
            if let Some(certificate) = certificate {
                let manifest = self.epochs.of(*identity);
                self.certificates.check(node, certificate, Round::Prepare, manifest)?;
            }
        }
        if let Message::StateRoot(said) = message {
            if nodes[node].is_spoilt {
                return Ok(());
            }
            self.roots.stated(node, said)?;
        }
        if let Message::Abort { identity, abort, .. } = message {
            self.phases.aborted(node, *identity, abort)?;
        }
        self.signatures.sent(node, message, &self.epochs)
    }

    /// A node executed a block.
    pub(crate) fn executed(
        &mut self,
        node: usize,
        it: &Node,
        record: &BlockRecord,
        batches: &[Arc<HeldBatch>],
        receipts: &[(TransactionId, Receipt)],
        root: Digest,
    ) -> Result<(), Violation> {
        if it.byzantine || it.is_spoilt {
            return Ok(());
        }
        self.model.executed(node, record.global, batches, receipts)?;
        self.roots.executed(node, record.global, root)
    }

    /// At the end: everything that was promised is there.
    pub(crate) fn finish(&self, nodes: &[Node], clients: &Clients) -> Result<usize, Violation> {
        self.model.finish(clients)?;
        let undecided = clients.check_history()?;
        for (i, node) in nodes.iter().enumerate().filter(|(_, node)| !node.byzantine) {
            if node.is_spoilt {
                let signs = node.process.as_ref().is_some_and(|process| !process.has_forked);
                let what = || format!("node {i} goes on signing with a state of its own");
                if signs {
                    return Err(Violation::new("a wrong state is noticed", what()));
                }
                continue;
            }
            if node.disk.now.applied < clients.acked_max {
                return Err(Violation::new("durability", format!("node {i} lacks acknowledged blocks")));
            }
            self.model.compare(i, node.disk.now.applied, &node.disk.now.state)?;
        }
        Ok(undecided)
    }
}
