//! Epoch transitions, from the first sight of a proposal to its end.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use moult_core::governance::{ProposalRecord, ProposalState};
use moult_types::ProposalId;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{Label, add, histogram};

/// A quorum's word on a proposal can come at most this late for its time to be measured.
const SEEN_MAX: usize = 1024;

pub(super) struct Transitions {
    duration: Histogram,
    activation: Histogram,
    success: Counter,
    failure: Family<Label, Counter>,
    votes: Counter,
    quorum_reached: Counter,
    pub(super) policy_faults: Counter,
    seen: Mutex<BTreeMap<ProposalId, Seen>>,
}

/// A proposal that is open, as it was seen by this node's clock.
struct Seen {
    first: Instant,
    approved: Option<Instant>,
    votes: usize,
    decided: bool,
}

impl Transitions {
    pub(super) fn new(r: &mut Registry) -> Self {
        let buckets = || exponential_buckets(0.05, 2.0, 18);
        Self {
            duration: histogram(
                r,
                "epoch_transition_duration_seconds",
                "From proposed (final here) to active here, by this node's clock",
                buckets(),
            ),
            activation: histogram(
                r,
                "epoch_transition_activation_seconds",
                "From approved to active here, by this node's clock",
                buckets(),
            ),
            success: add(r, "epoch_transition_success", "Proposals that became active"),
            failure: add(r, "epoch_transition_failure", "Proposals that ended without effect"),
            votes: add(r, "epoch_transition_votes", "Votes that were counted"),
            quorum_reached: add(
                r,
                "epoch_transition_quorum_reached",
                "Proposals that a quorum approved or rejected",
            ),
            policy_faults: add(
                r,
                "policy_faults",
                "Calls of the approval policy that failed: this node did not vote",
            ),
            seen: Mutex::default(),
        }
    }

    /// A proposal has changed.
    pub(super) fn proposal(&self, record: &ProposalRecord, now: Instant) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Only what is seen from its beginning has a duration.
        let is_new = record.votes.is_empty() && record.state == ProposalState::Proposed;
        if is_new && all.len() < SEEN_MAX {
            all.entry(record.id).or_insert(Seen { first: now, approved: None, votes: 0, decided: false });
        }
        let mut seen = all.get_mut(&record.id);
        let former_votes = seen.as_ref().map_or(0, |seen| seen.votes);
        self.votes.inc_by(record.votes.len().saturating_sub(former_votes) as u64);
        let by_quorum = !matches!(
            record.state,
            ProposalState::Proposed
                | ProposalState::Withdrawn
                | ProposalState::Expired
                | ProposalState::Superseded
                | ProposalState::Cancelled
        );
        if let Some(seen) = seen.as_deref_mut() {
            seen.votes = record.votes.len();
            if by_quorum && !std::mem::replace(&mut seen.decided, true) {
                self.quorum_reached.inc();
            }
            if record.state == ProposalState::Approved {
                seen.approved.get_or_insert(now);
            }
        }
        let failed = match record.state {
            ProposalState::Active => {
                self.success.inc();
                if let Some(seen) = seen {
                    self.duration.observe(now.duration_since(seen.first).as_secs_f64());
                    let approved = seen.approved.unwrap_or(seen.first);
                    self.activation.observe(now.duration_since(approved).as_secs_f64());
                }
                None
            }
            ProposalState::Rejected => Some("rejected"),
            ProposalState::Expired => Some("expired"),
            ProposalState::Withdrawn => Some("withdrawn"),
            ProposalState::Superseded => Some("superseded"),
            ProposalState::Cancelled => Some("cancelled"),
            ProposalState::Proposed | ProposalState::Approved | ProposalState::Scheduled { .. } => None,
        };
        if let Some(reason) = failed {
            self.failure.get_or_create(&[("reason", reason)]).inc();
        }
        if !record.state.is_open() {
            all.remove(&record.id);
        }
    }
}
