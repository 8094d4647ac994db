//! Timers, and who waits how long.

use moult_sdk::engine::{Action, Recipients};
use moult_sdk::{AuthorityIndex, Digest, NowMs};

use crate::codec::{BATCH_BYTES, Payload, WANTED_BYTES};
use crate::raft::{Raft, Role};
use crate::types::Term;

/// Runs out when the leader is given up.
pub(crate) const ELECTION_TIMER: u64 = 1;
/// Heartbeats of a leader; a candidate asks again.
pub(crate) const TICK_TIMER: u64 = 2;
/// Runs while a follower waits for batches, or batches wait for the leader.
pub(crate) const RETRY_TIMER: u64 = 3;
/// The leader has gathered batches for long enough.
pub(crate) const PACE_TIMER: u64 = 4;
/// Most batches named to the leader, or asked for anew, at once.
const RETRIED_MAX: usize = 64;

/// The timers that run.
#[derive(Default)]
pub(crate) struct Timers {
    /// When the election timer fires.
    election_ms: Option<NowMs>,
    tick: bool,
    retry: bool,
    /// When the pace timer fires.
    pub(crate) pace_ms: Option<NowMs>,
}

impl Raft {
    /// How long this node waits for a leader in this term. Every node has a turn of its own
    /// in every term, so that no two of them rise at once and none is always first; who
    /// should not lead waits longer than all others.
    pub(crate) fn election_timeout_ms(&self) -> NowMs {
        let base = self.config.election_timeout_ms;
        let authorities = self.committee.stakes.len() as u64;
        let me = self.me.unwrap_or(AuthorityIndex(0));
        let turn = turn(self.settings_seed, self.term, me, authorities as u32);
        let yields = self.is_draining || self.shunned.contains(&me);
        base + base * turn / (2 * authorities) + if yields { 2 * base } else { 0 }
    }

    /// Word from a leader, a vote given, or a new attempt: the patience begins anew.
    pub(crate) fn reset_deadline(&mut self) {
        self.deadline_ms = self.now.saturating_add(self.election_timeout_ms());
    }

    /// Sets the timers that are needed and not running. A deadline that moved away is not
    /// worth a timer of its own: the old one fires early and is set again.
    pub(crate) fn arm(&mut self) {
        if self.me.is_none() {
            return;
        }
        let leads = matches!(self.role, Role::Leader(_));
        if !leads && self.timers.election_ms.is_none_or(|at| at > self.deadline_ms) {
            self.timers.election_ms = Some(self.deadline_ms);
            let after_ms = self.deadline_ms.saturating_sub(self.now).max(1);
            self.out.release.push(Action::SetTimer { id: ELECTION_TIMER, after_ms });
        }
        let ticks = !matches!(self.role, Role::Follower) && self.committee.stakes.len() > 1;
        if ticks && !self.timers.tick {
            let after_ms = self.config.heartbeat_ms;
            self.out.release.push(Action::SetTimer { id: TICK_TIMER, after_ms });
        } else if !ticks && self.timers.tick {
            self.out.release.push(Action::CancelTimer(TICK_TIMER));
        }
        self.timers.tick = ticks;
        let has_waiting = !leads && self.pool.waiting() > 0;
        let waits = has_waiting || !self.stage.is_empty();
        if waits && !self.timers.retry {
            self.timers.retry = true;
            self.retry_mark = self.pool.mark();
            let after_ms = self.config.election_timeout_ms;
            self.out.release.push(Action::SetTimer { id: RETRY_TIMER, after_ms });
        }
    }

    /// Upon a timer.
    pub(crate) fn on_timer(&mut self, id: u64) {
        match id {
            ELECTION_TIMER => {
                self.timers.election_ms = None;
                if !matches!(self.role, Role::Leader(_)) && self.deadline_ms <= self.now {
                    self.poll();
                }
            }
            TICK_TIMER => {
                self.timers.tick = false;
                match self.role {
                    Role::Leader(_) => self.on_heartbeat(),
                    Role::Polling(_) | Role::Candidate { .. } => self.ask_again(),
                    Role::Follower => {}
                }
            }
            RETRY_TIMER => {
                self.timers.retry = false;
                self.retry();
            }
            PACE_TIMER => self.timers.pace_ms = None,
            _ => {}
        }
    }

    /// Batches that have not come are asked for again; batches that the leader has left
    /// waiting are named to it: it may never have been sent them.
    fn retry(&mut self) {
        let Some(leader) = self.leader.filter(|leader| Some(*leader) != self.me) else { return };
        let lists = self.stage.iter().flat_map(|entry| entry.batches.iter());
        let mut missing: Vec<Digest> =
            lists.filter(|b| !self.pool.holds(b)).take(RETRIED_MAX).copied().collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            self.out.release.push(Action::Fetch { batches: missing, likely_holder: Some(leader) });
        }
        let wanted = self.pool.oldest(self.wanted_max(), self.retry_mark);
        if !wanted.is_empty() {
            self.send(Recipients::One(leader), &Payload::Wanted(wanted.into()));
        }
    }

    fn wanted_max(&self) -> usize {
        (self.message_bytes_max.saturating_sub(WANTED_BYTES) / BATCH_BYTES).min(RETRIED_MAX)
    }

    /// Upon word of batches that wait elsewhere: get them, so as to propose them.
    pub(crate) fn on_wanted(&mut self, sender: AuthorityIndex, batches: &[Digest]) {
        let mut batches: Vec<Digest> = batches.iter().take(RETRIED_MAX).copied().collect();
        batches.retain(|b| !self.pool.holds(b) && !self.pool.is_known(b));
        batches.sort_unstable();
        batches.dedup();
        if matches!(self.role, Role::Leader(_)) && !batches.is_empty() {
            self.out.release.push(Action::Fetch { batches, likely_holder: Some(sender) });
        }
    }
}

/// The place of `me` in the order of a term: a permutation that every node knows.
fn turn(seed: Digest, term: Term, me: AuthorityIndex, authorities: u32) -> u64 {
    let [a, b, ..] = seed.to_words();
    let key = |i: u32| (mix(mix(a ^ term.0) ^ b ^ u64::from(i)), i);
    let own = key(me.0);
    (0..authorities).filter(|i| key(*i) < own).count() as u64
}

/// The finaliser of SplitMix64.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::turn;
    use crate::types::Term;
    use moult_sdk::{AuthorityIndex, Digest};

    #[test]
    fn every_node_has_its_turn_and_no_node_is_always_first() {
        let mut first = [0; 5];
        for term in 0..1_000 {
            let mut turns: Vec<u64> =
                (0..5).map(|i| turn(Digest([7; 32]), Term(term), AuthorityIndex(i), 5)).collect();
            first[turns.iter().position(|t| *t == 0).unwrap()] += 1;
            turns.sort_unstable();
            assert_eq!(turns, [0, 1, 2, 3, 4]);
        }
        assert!(first.iter().all(|count| (150..250).contains(count)), "{first:?}");
    }
}
