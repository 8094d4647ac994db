//! Letting others in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moult_types::PublicKey;
use quinn::{Connection, Incoming, ServerConfig};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::error::CloseCode;
use crate::identity::key_of_spki;
use crate::link::{Candidate, admit};
use crate::network::Shared;
use crate::stats::add;

/// Runs until the endpoint is closed. `local` are the settings for nodes of this machine.
pub(crate) async fn run(shared: Arc<Shared>, local: Arc<ServerConfig>) {
    let gate = Arc::new(Gate::default());
    while let Some(incoming) = shared.endpoint.accept().await {
        let proven = incoming.remote_address_validated();
        if !proven && incoming.may_retry() && gate.pending() >= shared.limits.handshakes_before_retry {
            add(&shared.stats.retries_sent, 1);
            // Fails only where `may_retry` is false.
            let _ = incoming.retry();
            continue;
        }
        let ip = incoming.remote_address().ip().to_canonical();
        let Some(pass) = gate.enter(ip, shared.limits.handshakes_max, shared.limits.handshakes_per_ip_max)
        else {
            add(&shared.stats.handshakes_shed, 1);
            incoming.ignore();
            continue;
        };
        let (shared, local) = (Arc::clone(&shared), Arc::clone(&local));
        tokio::spawn(async move {
            handshake(&shared, local, incoming).await;
            drop(pass);
        });
    }
}

async fn handshake(shared: &Arc<Shared>, local: Arc<ServerConfig>, incoming: Incoming) {
    let address = incoming.remote_address();
    let accepted = if address.ip().to_canonical().is_loopback() {
        incoming.accept_with(local)
    } else {
        incoming.accept()
    };
    let Ok(connecting) = accepted else {
        add(&shared.stats.handshakes_failed, 1);
        return;
    };
    let connection = match timeout(shared.limits.handshake_timeout(), connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            add(&shared.stats.handshakes_failed, 1);
            tracing::debug!(target: "network", %address, %error, "handshake failed");
            return;
        }
        Err(_) => {
            add(&shared.stats.handshakes_failed, 1);
            tracing::debug!(target: "network", %address, "handshake timed out");
            return;
        }
    };
    let Some(key) = peer_key(&connection) else {
        // The verifier lets nobody pass without a key.
        connection.close(CloseCode::NotAllowed.into(), b"no key");
        return;
    };
    // If it does not stay, another one does.
    let _ = admit(shared, Candidate { key, connection, dialled_here: false, first_stream: None });
}

fn peer_key(connection: &Connection) -> Option<PublicKey> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match identity.as_slice() {
        [only] => key_of_spki(only),
        _ => None,
    }
}

/// Counts handshakes in progress.
#[derive(Debug, Default)]
struct Gate(Mutex<BTreeMap<IpAddr, usize>>);

impl Gate {
    fn pending(&self) -> usize {
        self.lock().values().sum()
    }

    fn enter(self: &Arc<Self>, ip: IpAddr, total_max: usize, per_ip_max: usize) -> Option<Pass> {
        let mut pending = self.lock();
        let total: usize = pending.values().sum();
        let of_ip = pending.get(&ip).copied().unwrap_or(0);
        if total >= total_max || of_ip >= per_ip_max {
            return None;
        }
        pending.insert(ip, of_ip + 1);
        Some(Pass { gate: Arc::clone(self), ip })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One handshake's place; free again when it is dropped.
struct Pass {
    gate: Arc<Gate>,
    ip: IpAddr,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut pending = self.gate.lock();
        if let Some(count) = pending.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_total_and_by_address_and_come_back() {
        let gate = Arc::new(Gate::default());
        let ip = |n| IpAddr::from([127, 0, 0, n]);
        let first = gate.enter(ip(1), 3, 2).expect("free");
        let _second = gate.enter(ip(1), 3, 2).expect("free");
        assert!(gate.enter(ip(1), 3, 2).is_none());
        let _third = gate.enter(ip(2), 3, 2).expect("free");
        assert!(gate.enter(ip(3), 3, 2).is_none());
        drop(first);
        assert_eq!(gate.pending(), 2);
        assert!(gate.enter(ip(3), 3, 2).is_some());
        assert_eq!(gate.lock().len(), 2);
    }
}
