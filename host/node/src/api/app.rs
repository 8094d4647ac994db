//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moult_core::execution::{Outcome, Receipt};
use moult_types::TransactionId;
use moult_types::codec::sha256;
use tokio::sync::Semaphore;

use super::error::ApiError;
use super::{body, grpc};
use crate::handle::{NodeHandle, WriteError};
use crate::shared::Shared;

/// Questions to the application that run at once, beside those of the key-value store.
/// Each may take a second; the executor and everything else must not wait behind them.
const QUERIES_MAX: usize = 8;

pub(crate) type App = Arc<Api>;

/// The interface's own state.
pub(crate) struct Api {
    pub(super) shared: Arc<Shared>,
    pub(super) handle: NodeHandle,
    /// Of the token: what is compared has one length and says nothing about the token.
    token: [u8; 32],
    /// Whether data needs the token, too, over HTTP and over gRPC.
    pub(super) is_closed: bool,
    pub(super) is_grpc_closed: bool,
    pub(super) requests: Semaphore,
    /// Streams of gRPC, which last.
    pub(super) streams: Arc<Semaphore>,
    pub(super) bodies: Arc<Semaphore>,
    pub(super) queries: Semaphore,
    /// Of the last proposal put forward here.
    last_proposal_ms: AtomicU64,
}

impl Api {
    pub(crate) fn new(shared: Arc<Shared>, token: &str) -> App {
        Arc::new(Self {
            handle: NodeHandle { shared: shared.clone() },
            token: sha256(token.as_bytes()).0,
            is_closed: !shared.config.api.listen.ip().is_loopback(),
            is_grpc_closed: shared.config.grpc_listen().is_some_and(|listen| !listen.ip().is_loopback()),
            streams: Arc::new(Semaphore::new(grpc::STREAMS_MAX)),
            requests: Semaphore::new(shared.config.limits.requests_max.min(Semaphore::MAX_PERMITS)),
            bodies: Arc::new(body::budget()),
            queries: Semaphore::new(QUERIES_MAX),
            last_proposal_ms: AtomicU64::new(0),
            shared,
        })
    }

    /// Takes the same time for every wrong token.
    pub(super) fn is_token(&self, given: &[u8]) -> bool {
        let given = sha256(given).0;
        let differences = self.token.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differences) == 0
    }

    /// Orders a transaction and waits for its receipt.
    pub(super) async fn write(
        &self,
        named: Option<(Vec<u8>, u64)>,
        payload: Vec<u8>,
    ) -> Result<(TransactionId, Receipt), ApiError> {
        let id = self.handle.transaction_id(named);
        let result = self.handle.write(id.clone(), payload).await;
        self.outcome(&id, result).map(|receipt| (id, receipt))
    }

    /// What became of a write, for its client.
    pub(super) fn outcome(
        &self,
        id: &TransactionId,
        result: Result<Receipt, WriteError>,
    ) -> Result<Receipt, ApiError> {
        match result {
            Ok(Receipt { outcome: Outcome::Stale, .. }) if is_anonymous(id) => {
                self.shared.metrics.rejected("stale");
                Err(ApiError::unavailable("overloaded", "too many transactions overtook this one: try again"))
            }
            Ok(receipt) => Ok(receipt),
            Err(e) => {
                self.shared.metrics.write_failed(&e);
                Err(e.into())
            }
        }
    }

    /// The time for a proposal: the wall clock, but always later than the one before.
    pub(super) fn proposal_time_ms(&self) -> u64 {
        let now = self.shared.now().wall_ms;
        let next = |last: u64| Some(now.max(last + 1));
        // The closure never refuses.
        let (Ok(last) | Err(last)) =
            self.last_proposal_ms.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        now.max(last + 1)
    }
}

/// Whether the node gave the transaction its name: no client's begins with a zero byte.
fn is_anonymous(id: &TransactionId) -> bool {
    id.client.name.first() == Some(&0)
}
