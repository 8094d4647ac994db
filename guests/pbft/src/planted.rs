//! Engines that are wrong on purpose: what the tests must catch.
//!
//! [`Broken`] is [`Pbft`] with one bug, named in the first line of its configuration. The
//! bugs are put around the replica and not into it, so that the shipped code is the same
//! line for line whether or not this module is built. Never in a build that votes.

use std::sync::atomic::{AtomicU64, Ordering};

use moult_sdk::engine::{Action, Engine, Event, Info, InitError, Message, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, NowMs};

use crate::codec::{Payload, Proposal, decode, proposal_digest};
use crate::log::Committed;
use crate::replica::Pbft;
use crate::retransmit::{RETRANSMIT_TIMER, VIEW_TIMER};

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Certificates are accepted one unit of stake short of a quorum.
    QuorumMinusOne,
    /// View changes leave out what was prepared.
    LosePrepared,
    /// Nothing is written before a vote leaves.
    NoRecords,
    /// What is prepared counts as committed.
    CommitOnPrepare,
    /// Proposals are voted for and committed before their batches are held.
    CommitUnheld,
    /// A second proposal for a sequence number replaces the first.
    FollowTwo,
    /// After a restart commits are numbered anew.
    RenumberCommits,
    /// Being carried over commits is not taken note of.
    IgnoreFinal,
    /// What is committed here is taken to be final.
    AssumeFinal,
    /// Odd authorities make two blocks of one.
    SplitBlocks,
    /// Nothing is sent again.
    NoRetransmission,
    /// No leader is given up.
    NoViewChange,
    /// The order of what is sent depends on something that is not an input.
    Nondeterminism,
    /// A message that does not decode is an impossible state.
    TrapOnNoise,
    /// A record's number is used again after a restart.
    ReuseRecordIds,
    /// A timer may run for no time at all.
    TimerOfZero,
}

/// All bugs, by the name that a configuration has for them.
pub const BUGS: [(&str, Bug); 16] = [
    ("quorum-minus-one", Bug::QuorumMinusOne),
    ("lose-prepared", Bug::LosePrepared),
    ("no-records", Bug::NoRecords),
    ("commit-on-prepare", Bug::CommitOnPrepare),
    ("commit-unheld", Bug::CommitUnheld),
    ("follow-two", Bug::FollowTwo),
    ("renumber-commits", Bug::RenumberCommits),
    ("ignore-final", Bug::IgnoreFinal),
    ("assume-final", Bug::AssumeFinal),
    ("split-blocks", Bug::SplitBlocks),
    ("no-retransmission", Bug::NoRetransmission),
    ("no-view-change", Bug::NoViewChange),
    ("nondeterminism", Bug::Nondeterminism),
    ("trap-on-noise", Bug::TrapOnNoise),
    ("reuse-record-ids", Bug::ReuseRecordIds),
    ("timer-of-zero", Bug::TimerOfZero),
];

/// PBFT with one bug.
pub struct Broken {
    inner: Pbft,
    bug: Bug,
    /// Where this life went on from; 0 in the first.
    resumed_at: u64,
    /// Commits added by splitting.
    split: u64,
}

/// Not an input of any engine.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Engine for Broken {
    fn describe() -> Info {
        Pbft::describe()
    }

    fn init(settings: Settings, recovered: Option<Recovered>) -> Result<(Self, Outcome), InitError> {
        let (bug, config) = bug_of(&settings.config).map_err(InitError::BadConfig)?;
        let resumed_at = recovered.as_ref().map_or(0, |recovered| recovered.last_final.0);
        let (inner, outcome) = Pbft::init(Settings { config, ..settings }, recovered)?;
        let mut broken = Self { inner, bug, resumed_at, split: 0 };
        if bug == Bug::ReuseRecordIds {
            broken.inner.record_id = 0;
        }
        let outcome = broken.twist(outcome);
        Ok((broken, outcome))
    }

    fn step(&mut self, now: NowMs, mut events: Vec<Event>) -> Outcome {
        events.retain(|event| self.hears(event));
        for event in &events {
            if let Event::Message(message) = event {
                self.prepare_for(message);
            }
        }
        let mut outcome = self.inner.step(now, events);
        match self.bug {
            Bug::CommitOnPrepare => self.commit_prepared(&mut outcome),
            Bug::AssumeFinal if self.inner.executed > self.inner.last_final => {
                let executed = moult_sdk::CommitIndex(self.inner.executed);
                let more = self.inner.step(now, vec![Event::Final { index: executed, batches: Vec::new() }]);
                add(&mut outcome, more);
            }
            _ => {}
        }
        self.twist(outcome)
    }

    fn judge(committee: &Committee, proof: &[u8]) -> Option<AuthorityIndex> {
        Pbft::judge(committee, proof)
    }
}

impl Broken {
    fn hears(&self, event: &Event) -> bool {
        match event {
            Event::Final { index, .. } => self.bug != Bug::IgnoreFinal || index.0 <= self.inner.executed,
            Event::Timer(RETRANSMIT_TIMER) => self.bug != Bug::NoRetransmission,
            Event::Timer(VIEW_TIMER) => self.bug != Bug::NoViewChange,
            _ => true,
        }
    }

    fn prepare_for(&mut self, message: &Message) {
        let payload = decode(self.inner.committee.epoch, &message.payload);
        assert!(self.bug != Bug::TrapOnNoise || payload.is_some(), "a message that does not decode");
        let Some(Payload::Proposal(Proposal { view, seq, batches })) = payload else { return };
        match self.bug {
            Bug::CommitUnheld => batches.iter().for_each(|batch| {
                self.inner.pool.hold(*batch);
            }),
            Bug::FollowTwo if view == self.inner.installed => {
                if let Some(entry) = self.inner.entries.get_mut(&seq)
                    && entry.digest().is_some_and(|digest| digest != proposal_digest(&batches))
                {
                    entry.reset();
                }
            }
            _ => {}
        }
    }

    fn commit_prepared(&mut self, outcome: &mut Outcome) {
        let view = self.inner.installed;
        for (_, entry) in self.inner.entries.range_mut(self.inner.executed + 1..) {
            if let Some(accepted) = &entry.accepted
                && accepted.prepared
                && entry.committed.is_none()
            {
                let batches = accepted.batches.clone();
                entry.committed =
                    Some(Committed { view, digest: accepted.digest, batches, commits: Vec::new() });
            }
        }
        let more = self.inner.finish();
        add(outcome, more);
    }

    fn twist(&mut self, mut outcome: Outcome) -> Outcome {
        match self.bug {
            Bug::NoRecords => outcome.durable.clear(),
            Bug::RenumberCommits => {
                for action in &mut outcome.release {
                    if let Action::Commit(commit) = action {
                        commit.index.0 -= self.resumed_at;
                    }
                }
            }
            Bug::SplitBlocks if self.inner.me.is_some_and(|me| me.0 % 2 == 1) => {
                let actions = std::mem::take(&mut outcome.release);
                outcome.release = actions.into_iter().flat_map(|action| self.split(action)).collect();
            }
            Bug::Nondeterminism if CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(7) => {
                outcome.release.reverse();
            }
            Bug::TimerOfZero => {
                for action in &mut outcome.release {
                    if let Action::SetTimer { id: VIEW_TIMER, after_ms } = action {
                        *after_ms -= 1;
                    }
                }
            }
            _ => {}
        }
        outcome
    }

    fn split(&mut self, action: Action) -> Vec<Action> {
        let Action::Commit(mut first) = action else { return vec![action] };
        first.index.0 += self.split;
        if first.batches.len() < 2 {
            return vec![Action::Commit(first)];
        }
        self.split += 1;
        let mut second = first.clone();
        second.batches = first.batches.split_off(1);
        second.index = first.index.next();
        vec![Action::Commit(first), Action::Commit(second)]
    }
}

fn add(outcome: &mut Outcome, more: Outcome) {
    outcome.durable.extend(more.durable);
    outcome.release.extend(more.release);
}

/// The bug in the first line, `broken=NAME`, and what the replica is configured with.
fn bug_of(config: &[u8]) -> Result<(Bug, Vec<u8>), String> {
    let text = std::str::from_utf8(config).map_err(|_| "the configuration is not UTF-8".to_owned())?;
    let (name, rest) = text
        .strip_prefix("broken=")
        .and_then(|text| text.split_once('\n'))
        .ok_or("the first line is not `broken=NAME`")?;
    let found = BUGS.iter().find(|(known, _)| *known == name);
    let (_, bug) = found.ok_or_else(|| format!("no such bug: `{name}`"))?;
    // These two are inside of the replica.
    let inside = matches!(bug, Bug::QuorumMinusOne | Bug::LosePrepared);
    let config = if inside { format!("{rest}planted={name}\n") } else { rest.to_owned() };
    Ok((*bug, config.into_bytes()))
}
