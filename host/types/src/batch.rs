//! Transactions and the batches they travel in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{AuthorityIndex, Digest, Slot, Statement};

use crate::codec::{encode, hash_of};
use crate::governance::{ReadyNotice, SignedProposal, Vote, Withdrawal};
use crate::ids::{AuthorityId, EpochNumber, ParseError, Signature};
use crate::phase::Bundle;
use crate::statement::SlotKind;

/// Longest name of a client, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

/// A client: a name within the namespace of the node that took its transactions, since an
/// unsigned name proves nothing beyond that node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, BorshSerialize, BorshDeserialize)]
pub struct ClientId {
    /// The authority at whose node the transaction came in.
    pub ingress: AuthorityId,
    /// 1 to 64 bytes.
    pub name: Vec<u8>,
}

/// A transaction for the application.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct ClientTransaction {
    /// Who sent it.
    pub client: ClientId,
    /// Chosen by the client; executed at most once for a client.
    pub seq: u64,
    /// The application's own encoding.
    pub payload: Vec<u8>,
}

/// Governance, ordered like any other transaction.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum SystemTransaction {
    /// A proposal for an epoch change.
    Propose(Box<SignedProposal>),
    /// Its author takes it back.
    Withdraw(Withdrawal),
    /// A vote on it.
    Vote(Vote),
    /// An authority of the new committee is ready for it.
    Ready(ReadyNotice),
    /// What opened the present phase: the first block of its chain that holds a valid one is its
    /// resume block. Anywhere else it means nothing.
    Open(Box<Bundle>),
}

/// What a batch is made of.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum Transaction {
    /// For the application.
    Client(ClientTransaction),
    /// For the host.
    System(SystemTransaction),
}

/// Names a transaction: whose it is, and which of that client's.
/// Written `<authority>.<name in hex>.<seq>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TransactionId {
    /// Who sent it.
    pub client: ClientId,
    /// The client's number for it.
    pub seq: u64,
}

impl ClientTransaction {
    /// Names the transaction.
    pub fn id(&self) -> TransactionId {
        TransactionId { client: self.client.clone(), seq: self.seq }
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.client.ingress, hex::encode(&self.client.name), self.seq)
    }
}

impl FromStr for TransactionId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = |reason: &str| ParseError {
            what: "transaction id",
            text: text.chars().take(80).collect(),
            reason: reason.to_owned(),
        };
        let parts: Vec<&str> = text.split('.').collect();
        let [ingress, name, seq] = parts.as_slice() else {
            return Err(fail("expected <authority>.<client name in hex>.<seq>"));
        };
        let name = hex::decode(name).map_err(|_| fail("the client name is not hex"))?;
        if name.is_empty() || name.len() > CLIENT_NAME_BYTES_MAX {
            return Err(fail("the client name is not of 1 to 64 bytes"));
        }
        let seq = seq.parse().map_err(|_| fail("the sequence number is not a number"))?;
        Ok(Self { client: ClientId { ingress: ingress.parse()?, name }, seq })
    }
}

/// Transactions that one node collected. One without transactions is a tick: it carries
/// only the time.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Batch {
    /// The epoch it was made in; valid in the blocks of that epoch and the next.
    pub number: EpochNumber,
    /// Who made it; an index into that epoch's committee.
    pub author: AuthorityIndex,
    /// How often its author's node had started.
    pub start: u64,
    /// Rises within a start.
    pub seq: u64,
    /// The author's wall clock, milliseconds since 1970.
    pub time_ms: u64,
    /// In order.
    pub transactions: Vec<Transaction>,
}

impl Batch {
    /// Names the batch.
    pub fn digest(&self) -> Digest {
        hash_of("moult batch", self)
    }

    /// The bundles in it.
    pub fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.transactions.iter().filter_map(|transaction| match transaction {
            Transaction::System(SystemTransaction::Open(bundle)) => Some(bundle.as_ref()),
            Transaction::System(_) | Transaction::Client(_) => None,
        })
    }

    /// Bytes of its transactions, without the names of clients: the same for who sends it and
    /// who receives it.
    pub fn payload_bytes(&self) -> usize {
        let bytes = |transaction: &Transaction| match transaction {
            Transaction::Client(client) => client.payload.len(),
            Transaction::System(system) => encode(system).len(),
        };
        self.transactions.iter().map(bytes).sum()
    }

    /// What its author signs, in the scope of the epoch's number.
    pub fn statement(&self, digest: Digest) -> Statement {
        Statement {
            author: self.author,
            slot: Slot { kind: SlotKind::BATCH, a: self.start, b: self.seq },
            digest,
        }
    }
}

/// A batch with its author's signature.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct SignedBatch {
    /// The batch.
    pub batch: Batch,
    /// Over [`Batch::statement`].
    pub signature: Signature,
}

/// A batch whose digest is known; the signature was checked by whoever made this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldBatch {
    /// Names the batch.
    pub digest: Digest,
    /// The canonical encoding of `signed`, kept so that it is made once.
    pub encoded: Arc<[u8]>,
    /// The batch.
    pub signed: SignedBatch,
}

impl HeldBatch {
    /// Computes digest and encoding.
    pub fn new(signed: SignedBatch) -> Self {
        Self { digest: signed.batch.digest(), encoded: encode(&signed).into(), signed }
    }

    /// The batch without its signature.
    pub fn batch(&self) -> &Batch {
        &self.signed.batch
    }
}
