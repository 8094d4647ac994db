//! The list of peers and what is known of each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use moult_types::PublicKey;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::contest::Takeovers;
use crate::limits::NetLimits;
use crate::link::Link;
use crate::stats::{Stats, add};

/// Why a key is refused.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    #[error("peer key {0} not in committee or configured observers")]
    Unlisted(PublicKey),
    #[error("peer key {0} is held off after a penalty")]
    HeldOff(PublicKey),
    #[error("peer key {0} is this node's own")]
    Own(PublicKey),
    #[error("peer key {got} answered where {expected} was dialled")]
    Unexpected { got: PublicKey, expected: PublicKey },
    #[error("what the peer presents is no raw ed25519 key")]
    Malformed,
}

/// rustls tells the peer the reason in this form.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who may connect: the keys of this map and nobody else, replaced as a whole. The TLS
/// verifiers and everything after them read the same map.
#[derive(Debug)]
pub(crate) struct Peers {
    own: PublicKey,
    slots: RwLock<BTreeMap<PublicKey, Arc<Slot>>>,
    stats: Arc<Stats>,
}

impl Peers {
    pub(crate) fn new(own: PublicKey, stats: Arc<Stats>) -> Self {
        Self { own, slots: RwLock::default(), stats }
    }

    /// Whether `key` may be at the other end, where `expected` was dialled if it is given.
    pub(crate) fn check(&self, key: &PublicKey, expected: Option<&PublicKey>) -> Result<(), Refusal> {
        if *key == self.own {
            return Err(Refusal::Own(*key));
        }
        if let Some(expected) = expected
            && key != expected
        {
            return Err(Refusal::Unexpected { got: *key, expected: *expected });
        }
        let slot = self.get(key).ok_or(Refusal::Unlisted(*key))?;
        if slot.state().penalty.hold_off().is_some() { Err(Refusal::HeldOff(*key)) } else { Ok(()) }
    }

    pub(crate) fn count_refusal(&self) {
        add(&self.stats.handshakes_refused, 1);
    }

    pub(crate) fn get(&self, key: &PublicKey) -> Option<Arc<Slot>> {
        self.read().get(key).cloned()
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, BTreeMap<PublicKey, Arc<Slot>>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<PublicKey, Arc<Slot>>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One listed peer.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) key: PublicKey,
    /// Whether this node's key is the smaller of the two, so that it dials.
    pub(crate) we_are_smaller: bool,
    /// The connection in use.
    pub(crate) link: watch::Sender<Option<Arc<Link>>>,
    pub(crate) was_up: AtomicBool,
    state: Mutex<SlotState>,
}

#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// Where to dial, `host:port`.
    pub(crate) address: Option<String>,
    pub(crate) dialler: Option<AbortHandle>,
    pub(crate) removed: bool,
    pub(crate) penalty: Penalty,
    pub(crate) takeovers: Takeovers,
}

impl Slot {
    pub(crate) fn new(key: PublicKey, own: PublicKey) -> Self {
        let link = watch::Sender::new(None);
        Self { key, we_are_smaller: own < key, link, was_up: AtomicBool::new(false), state: Mutex::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection in use. It may be closed already; its queues refuse then.
    pub(crate) fn current(&self) -> Option<Arc<Link>> {
        self.link.borrow().clone()
    }
}

/// A circuit breaker: each trip holds off for twice as long as the one before.
#[derive(Debug, Default)]
pub(crate) struct Penalty {
    trips: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Penalty {
    pub(crate) fn trip(&mut self, limits: &NetLimits) -> Duration {
        let now = Instant::now();
        let memory = Duration::from_millis(limits.penalty_memory_ms);
        if self.last.is_none_or(|last| now.duration_since(last) > memory) {
            self.trips = 0;
        }
        let factor = 1_u64.checked_shl(self.trips).unwrap_or(u64::MAX);
        let held_ms = limits.penalty_min_ms.saturating_mul(factor).min(limits.penalty_max_ms);
        self.trips = self.trips.saturating_add(1).min(63);
        self.last = Some(now);
        self.until = Some(now + Duration::from_millis(held_ms));
        Duration::from_millis(held_ms)
    }

    /// Until when the peer is held off, if it is.
    pub(crate) fn hold_off(&self) -> Option<Instant> {
        self.until.filter(|until| Instant::now() < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_penalty_holds_off_longer_up_to_the_cap() {
        let limits = NetLimits { penalty_min_ms: 100, penalty_max_ms: 500, ..NetLimits::default() };
        let mut penalty = Penalty::default();
        assert_eq!(penalty.hold_off(), None);
        let held: Vec<_> = (0..70).map(|_| penalty.trip(&limits).as_millis()).collect();
        assert_eq!(held[..4], [100, 200, 400, 500]);
        assert!(held[4..].iter().all(|h| *h == 500));
        assert!(penalty.hold_off().is_some());
    }

    #[test]
    fn a_key_is_refused_by_the_reason_that_applies() {
        let (own, listed, other) = (PublicKey([1; 32]), PublicKey([2; 32]), PublicKey([3; 32]));
        let peers = Peers::new(own, Arc::default());
        peers.write().insert(listed, Arc::new(Slot::new(listed, own)));
        assert_eq!(peers.check(&own, None), Err(Refusal::Own(own)));
        assert_eq!(peers.check(&other, None), Err(Refusal::Unlisted(other)));
        assert_eq!(peers.check(&listed, None), Ok(()));
        assert_eq!(peers.check(&listed, Some(&listed)), Ok(()));
        let unexpected = Refusal::Unexpected { got: listed, expected: other };
        assert_eq!(peers.check(&listed, Some(&other)), Err(unexpected));
    }
}
