//! What the interfaces (HTTP and others) may do with a node.

use std::sync::Arc;
use std::time::Duration;

use moult_core::Input;
use moult_core::execution::{self, Receipt};
use moult_core::governance::{Present, ProposalError};
use moult_core::io::Refusal;
use moult_types::governance::Decision;
use moult_types::state::Overlay;
use moult_types::{
    ClientId, ClientTransaction, Committee, EpochChangeProposal, GlobalIndex, ProposalId, TransactionId,
};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::shared::{Shared, WriteResult};
use crate::submissions::Submissions;
use crate::view::View;

/// Why a write has no receipt.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum WriteError {
    /// Certainly not applied.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node stopped first.
    #[error(
        "the node stopped before the write was final; it may still be applied. Ask another node for its receipt, or retry with the same client and number"
    )]
    Stopped,
    /// Not known: it may be applied later.
    #[error(
        "the write was not final within {limit_ms} ms; it may still be applied. Ask for its receipt, or retry with the same client and number"
    )]
    Timeout {
        /// The limit.
        limit_ms: u64,
    },
}

/// Why a read cannot be served.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ReadError {
    /// No quorum answered.
    #[error(
        "no quorum of the committee answered within {limit_ms} ms: try again, or read with `consistency=local`"
    )]
    NoQuorum {
        /// The limit.
        limit_ms: u64,
    },
    /// The node is stopping or overloaded.
    #[error("the node takes no more reads: try again")]
    Overloaded,
}

/// Why the application gave no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum QueryError {
    /// It is not loaded yet.
    #[error("the application is not loaded yet: try again")]
    NotReady,
    /// The application refuses the request.
    #[error("{0}")]
    Refused(String),
    /// The application failed.
    #[error("the application failed: {0}")]
    Fault(String),
}

/// A node, for its interfaces. Cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    pub(crate) shared: Arc<Shared>,
}

impl NodeHandle {
    /// A glance at the replica.
    pub fn view(&self) -> View {
        self.shared.view()
    }

    /// The id of a transaction that came in here; without a name and number of its own it
    /// gets one that is never used again.
    pub fn transaction_id(&self, named: Option<(Vec<u8>, u64)>) -> TransactionId {
        let (name, seq) = named.unwrap_or_else(|| self.shared.next_anonymous());
        TransactionId { client: ClientId { ingress: self.shared.authority, name }, seq }
    }

    /// Orders a transaction and waits until it is final and executed on this node.
    ///
    /// # Errors
    /// Refused before it was ordered, or the time ran out.
    pub async fn write(&self, id: TransactionId, payload: Vec<u8>) -> Result<Receipt, WriteError> {
        let limit_ms = self.shared.config.limits.write_timeout_ms;
        let transaction = ClientTransaction { client: id.client.clone(), seq: id.seq, payload };
        let mut waiting = WaitingWrite::new(&self.shared, id);
        self.shared.submit(transaction)?;
        match tokio::time::timeout(Duration::from_millis(limit_ms), &mut waiting.result).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) if self.shared.is_stopping() => Err(WriteError::Stopped),
            Ok(Err(_)) | Err(_) => Err(WriteError::Timeout { limit_ms }),
        }
    }

    /// Many writes at once, for one client.
    pub fn submissions(&self) -> Submissions {
        Submissions::new(self.shared.clone())
    }

    /// Returns once this node's state holds every write that was acknowledged anywhere
    /// before the call.
    ///
    /// # Errors
    /// No quorum answered in time.
    pub async fn catch_up_for_read(&self) -> Result<(), ReadError> {
        if self.shared.is_stopping() {
            return Err(ReadError::Overloaded);
        }
        let limit_ms = self.shared.config.limits.read_timeout_ms;
        let mut waiting = WaitingRead::new(&self.shared);
        if !self.shared.try_input(Input::Read { id: waiting.id }) {
            return Err(ReadError::Overloaded);
        }
        match tokio::time::timeout(Duration::from_millis(limit_ms), &mut waiting.served).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) if self.shared.is_stopping() => Err(ReadError::Overloaded),
            Ok(Err(_)) | Err(_) => Err(ReadError::NoQuorum { limit_ms }),
        }
    }

    /// Asks the application about the state as it is here.
    ///
    /// # Errors
    /// No application, a refusal, or a fault.
    pub fn query(&self, request: &[u8]) -> Result<Vec<u8>, QueryError> {
        self.query_at(request).map(|(_, answer)| answer)
    }

    /// Like [`NodeHandle::query`], with the last block that is in the state that was asked.
    ///
    /// # Errors
    /// No application, a refusal, or a fault.
    pub fn query_at(&self, request: &[u8]) -> Result<(GlobalIndex, Vec<u8>), QueryError> {
        let running = self.shared.running().ok_or(QueryError::NotReady)?;
        let (index, state) = self.shared.state.view();
        let overlay = Overlay::new(state, execution::APPLICATION_PREFIX);
        let answer = running.instance.query(overlay, &running.config, request);
        let answer = answer.map_err(|fault| QueryError::Fault(fault.to_string()))?;
        answer.map(|answer| (index, answer)).map_err(QueryError::Refused)
    }

    /// The receipt of a transaction, as far as its client's window reaches back.
    pub fn receipt(&self, id: &TransactionId) -> Option<Receipt> {
        execution::receipt(&self.shared.state.view().1, id)
    }

    /// Checks a proposal as the ledger will, and puts it forward in this authority's name.
    ///
    /// # Errors
    /// Why it cannot be put forward; nothing was sent.
    pub fn propose(&self, proposal: EpochChangeProposal) -> Result<(), ProposalError> {
        let view = self.view();
        let manifest = &view.epoch.manifest;
        let committee = Committee::new(manifest.members.clone(), manifest.fault_model)?;
        let present = Present { chain: self.shared.chain, manifest, committee: &committee };
        view.ledger.check_unsigned(present, &proposal)?;
        self.shared.internal(Input::Propose(Box::new(proposal)));
        Ok(())
    }

    /// Takes this authority's proposal back; it takes effect when it is final.
    pub fn withdraw(&self, id: ProposalId) {
        self.shared.internal(Input::Withdraw(id));
    }

    /// Tells the approval policy what the operator decided.
    pub fn operator_vote(&self, id: ProposalId, decision: Decision) {
        self.shared.internal(Input::OperatorVote(id, decision));
    }

    /// How far the state is, for local reads.
    pub fn executed(&self) -> GlobalIndex {
        self.shared.peek(|view| view.executed.0)
    }
}

/// A client that waits for a write. Dropping it (the client may have gone) forgets it.
struct WaitingWrite<'a> {
    shared: &'a Shared,
    id: TransactionId,
    result: oneshot::Receiver<WriteResult>,
}

impl<'a> WaitingWrite<'a> {
    fn new(shared: &'a Shared, id: TransactionId) -> Self {
        Self { shared, result: shared.wait_for_write(id.clone()), id }
    }
}

impl Drop for WaitingWrite<'_> {
    fn drop(&mut self) {
        self.result.close();
        if !self.result.is_terminated() {
            self.shared.forget_write(&self.id);
        }
    }
}

/// A client that waits to read.
struct WaitingRead<'a> {
    shared: &'a Shared,
    id: u64,
    served: oneshot::Receiver<()>,
}

impl<'a> WaitingRead<'a> {
    fn new(shared: &'a Shared) -> Self {
        let (id, served) = shared.wait_for_read();
        Self { shared, id, served }
    }
}

impl Drop for WaitingRead<'_> {
    fn drop(&mut self) {
        if !self.served.is_terminated() {
            self.shared.forget_read(self.id);
        }
    }
}

#[cfg(test)]
#[path = "handle_test.rs"]
mod tests;
