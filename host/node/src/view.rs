//! What the API, metrics and logs may know of the replica, kept beside its thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_core::governance::{Ledger, ProposalRecord};
use moult_core::io::EpochStart;
use moult_replay::ShadowView;
use moult_sdk::approval::ModuleCheck;
use moult_types::phase::Phase;
use moult_types::{AuthorityIndex, Digest, EpochIdentity, GlobalIndex, ProposalId};

/// Proposals that are remembered until the store has them for certain.
const CLOSED_MAX: usize = 64;

/// A glance at the replica; older than the replica by moments.
#[derive(Clone, Debug)]
pub struct View {
    /// The present epoch.
    pub epoch: Arc<EpochStart>,
    /// Its phase, and the identity of that.
    pub phase: Phase,
    /// See `phase`.
    pub identity: EpochIdentity,
    /// This node's place in the committee.
    pub me: Option<AuthorityIndex>,
    /// Replicated state after the last final block.
    pub ledger: Arc<Ledger>,
    /// The last proposals that left the ledger: they reach the store a moment later.
    pub closed: BTreeMap<ProposalId, Arc<ProposalRecord>>,
    /// Last block executed here, and the state root after it.
    pub executed: (GlobalIndex, Digest),
    /// Name and version of the running engine.
    pub engine: String,
    /// Who leads, as the engine here sees it.
    pub leader: Option<u32>,
    /// Its round or view.
    pub round: u64,
    /// Why this node signs nothing, if so.
    pub signing_stopped: Option<String>,
    /// Highest final block that a peer told of.
    pub highest_seen: GlobalIndex,
    /// What was found out about the modules of open proposals, by proposal hash.
    pub checks: BTreeMap<Digest, Vec<ModuleCheck>>,
    /// Shadow runs of proposed engines, by proposal hash; the last ones stay when they are over.
    pub shadows: BTreeMap<Digest, Arc<ShadowView>>,
    /// Own batches not final, and transactions that wait for a batch.
    pub under_way: (usize, usize),
    /// Nothing new is ordered for this node's clients: it is about to stop.
    pub is_draining: bool,
    /// Name of the application and the interfaces it serves.
    pub application: (String, Vec<String>),
}

impl View {
    /// Before the replica has said anything.
    pub fn new(epoch: EpochStart, ledger: Ledger, executed: (GlobalIndex, Digest)) -> Self {
        Self {
            phase: 0,
            identity: epoch.manifest.identity(),
            epoch: Arc::new(epoch),
            me: None,
            ledger: Arc::new(ledger),
            closed: BTreeMap::new(),
            executed,
            engine: String::new(),
            leader: None,
            round: 0,
            signing_stopped: None,
            highest_seen: GlobalIndex(0),
            checks: BTreeMap::new(),
            shadows: BTreeMap::new(),
            under_way: (0, 0),
            is_draining: false,
            application: (String::new(), Vec::new()),
        }
    }

    /// News of a shadow run. Of too many, those of proposals that are neither open nor among
    /// the last go first.
    pub(crate) fn note_shadow(&mut self, proposal: Digest, run: ShadowView) {
        self.shadows.insert(proposal, Arc::new(run));
        if self.shadows.len() > CLOSED_MAX {
            let known: std::collections::BTreeSet<_> = self
                .ledger
                .open
                .values()
                .map(|record| record.hash)
                .chain(self.closed.values().map(|record| record.hash))
                .collect();
            self.shadows.retain(|hash, _| known.contains(hash));
        }
    }

    /// A proposal came to its end.
    pub(crate) fn close(&mut self, record: &ProposalRecord) {
        self.closed.insert(record.id, Arc::new(record.clone()));
        while self.closed.len() > CLOSED_MAX {
            self.closed.pop_first();
        }
    }
}
