//! Plain data of the host and its canonical encoding.
//!
//! Here live the committee, the statement, batches, blocks, certificates, manifests,
//! proposals and the messages between nodes. One value has one encoding (borsh, strict:
//! trailing bytes refused, [`codec`]). Nothing here verifies a signature, decides anything
//! or does I/O. The units: stake is a count, times end in `_ms`, sizes in `_bytes`.

pub mod batch;
pub mod block;
pub mod certification;
pub mod codec;
pub mod committee;
pub mod governance;
pub mod ids;
pub mod manifest;
pub mod message;
pub mod phase;
pub mod state;
pub mod state_root;
pub mod statement;

pub use batch::{
    Batch, ClientId, ClientTransaction, HeldBatch, SignedBatch, SystemTransaction, Transaction, TransactionId,
};
pub use block::{Block, BlockRecord, Certificate, CertificateVote, Round};
pub use certification::{CertificationReport, SignedReport};
pub use codec::{DecodeError, decode, encode};
pub use committee::{Committee, CommitteeError, Member};
pub use governance::{Activation, EpochChangeProposal, ProposalId, SignedProposal};
pub use ids::{
    AuthorityId, ChainId, EpochIdentity, EpochNumber, GlobalIndex, ModuleHash, ParseError, PublicKey,
    Signature, TraceHash,
};
pub use manifest::{EpochLimits, Finality, Follows, Genesis, Manifest, ModulePin, Origin, World};
pub use message::Message;
pub use moult_sdk::{AuthorityIndex, CommitIndex, Digest, FaultModel, Slot, Stake, Statement};
pub use state_root::StateRoot;
pub use statement::{Scope, Signed, SlotKind};
