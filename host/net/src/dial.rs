//! Keeping a connection to each peer that has an address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use crate::error::{DownReason, NetError};
use crate::link::{Candidate, Link, admit};
use crate::network::Shared;
use crate::peers::Slot;
use crate::stats::add;
use crate::{quic, tls};

/// Addresses tried of those a name stands for.
const ADDRESSES_MAX: usize = 4;

#[derive(Debug, Error)]
enum DialError {
    #[error("cannot resolve: {0}")]
    Resolve(std::io::Error),
    #[error("the name stands for no address")]
    NoAddress,
    #[error("timed out")]
    Timeout,
    #[error("{0}")]
    Start(#[from] quinn::ConnectError),
    #[error("{0}")]
    Ended(DownReason),
    #[error(transparent)]
    Setup(#[from] NetError),
}

/// Runs until it is aborted, which `set_peers` does when the address changes or the key
/// goes.
pub(crate) async fn keep_connected(shared: Arc<Shared>, slot: Arc<Slot>, address: String) {
    let limits = &shared.limits;
    let mut backoff = Backoff::new(limits.backoff_min_ms, limits.backoff_max_ms);
    let mut links = slot.link.subscribe();
    loop {
        let current = links.borrow_and_update().clone();
        if let Some(link) = current {
            // Errors when the slot is gone, and this task with it.
            if links.changed().await.is_err() {
                return;
            }
            if link.since.elapsed() >= Duration::from_millis(limits.stable_ms) {
                backoff.reset();
            }
            continue;
        }
        let fallback = if slot.we_are_smaller { 0 } else { limits.dial_fallback_ms };
        let wait = backoff.next() + Duration::from_millis(fallback);
        if appeared(&mut links, sleep(wait)).await {
            continue;
        }
        let held_until = slot.state().penalty.hold_off();
        if let Some(until) = held_until
            && appeared(&mut links, sleep_until(until)).await
        {
            continue;
        }
        if let Err(error) = dial(&shared, &slot, &address).await {
            add(&shared.stats.dials_failed, 1);
            tracing::debug!(target: "network", key = %slot.key, %address, %error, "dial failed");
        }
    }
}

/// Waits; `true` if a connection appeared meanwhile.
async fn appeared(links: &mut watch::Receiver<Option<Arc<Link>>>, wait: impl Future<Output = ()>) -> bool {
    tokio::select! {
        found = links.wait_for(Option::is_some) => found.is_ok(),
        () = wait => false,
    }
}

async fn dial(shared: &Arc<Shared>, slot: &Arc<Slot>, address: &str) -> Result<(), DialError> {
    let limit = shared.limits.handshake_timeout();
    let resolved = timeout(limit, lookup_host(address)).await.map_err(|_| DialError::Timeout)?;
    let mut outcome = Err(DialError::NoAddress);
    for target in resolved.map_err(DialError::Resolve)?.take(ADDRESSES_MAX) {
        let attempt = timeout(limit, connect(shared, slot, target)).await;
        outcome = attempt.unwrap_or(Err(DialError::Timeout));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn connect(shared: &Arc<Shared>, slot: &Arc<Slot>, target: SocketAddr) -> Result<(), DialError> {
    let tls = tls::client_config(&shared.provider, &shared.certified, &shared.peers, slot.key)?;
    let config = quic::client(tls, &shared.limits, target.ip().to_canonical().is_loopback())?;
    let ended = |e: quinn::ConnectionError| DialError::Ended(DownReason::from_quinn(&e));
    // The name goes nowhere: there is no SNI, and the key says who answers.
    let connecting = shared.endpoint.connect_with(config, target, "moult")?;
    let connection = connecting.await.map_err(ended)?;
    // In TLS 1.3 the dialler is done before the other side has checked its key. The first
    // stream of the other side proves that it has.
    let first = connection.accept_uni().await.map_err(ended)?;
    let candidate = Candidate { key: slot.key, connection, dialled_here: true, first_stream: Some(first) };
    // If it does not stay, another one does.
    let _ = admit(shared, candidate);
    Ok(())
}

/// Exponential delays with full jitter, so that nodes that lost each other at the same time
/// do not come back at the same time.
#[derive(Debug)]
struct Backoff {
    min_ms: u64,
    max_ms: u64,
    bound_ms: u64,
}

impl Backoff {
    fn new(min_ms: u64, max_ms: u64) -> Self {
        Self { min_ms, max_ms, bound_ms: 0 }
    }

    /// The first delay after a start or a stable connection is none.
    fn next(&mut self) -> Duration {
        let bound_ms = self.bound_ms;
        self.bound_ms = bound_ms.saturating_mul(2).clamp(self.min_ms, self.max_ms);
        // Without randomness the delay is the longest one.
        let random = getrandom::u64().unwrap_or(u64::MAX);
        Duration::from_millis(scale(random, bound_ms))
    }

    fn reset(&mut self) {
        self.bound_ms = 0;
    }
}

/// Maps a random number evenly to `0..=bound`.
fn scale(random: u64, bound: u64) -> u64 {
    let product = u128::from(random) * (u128::from(bound) + 1);
    // The quotient is at most `bound`.
    u64::try_from(product >> 64).unwrap_or(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_start_anew_after_a_reset() {
        let mut backoff = Backoff::new(50, 400);
        let bounds = |backoff: &mut Backoff| -> Vec<u64> {
            (0..6)
                .map(|_| {
                    let bound = backoff.bound_ms;
                    let delay = backoff.next();
                    assert!(delay <= Duration::from_millis(bound));
                    bound
                })
                .collect()
        };
        assert_eq!(bounds(&mut backoff), [0, 50, 100, 200, 400, 400]);
        backoff.reset();
        assert_eq!(bounds(&mut backoff), [0, 50, 100, 200, 400, 400]);
    }

    #[test]
    fn jitter_covers_the_whole_span() {
        assert_eq!(scale(0, 100), 0);
        assert_eq!(scale(u64::MAX / 2, 100), 50);
        assert_eq!(scale(u64::MAX, 100), 100);
        assert_eq!(scale(u64::MAX, 0), 0);
    }
}
