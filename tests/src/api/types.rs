//! The JSON of the interface, as far as the tests look.

use serde::Deserialize;
use serde_json::Value;

/// `GET /v1/status`, as far as the tests look.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's manual says it")]
pub struct Status {
    pub node: String,
    pub authority: String,
    pub epoch: u64,
    pub phase: u32,
    pub identity: String,
    pub role: String,
    pub authority_index: Option<u32>,
    pub signing_stopped: Option<String>,
    pub engine: String,
    pub engine_hash: String,
    pub modules: Value,
    pub global_exec_index: u64,
    pub global_final_index: u64,
    pub state_root: String,
    pub leader: Option<u32>,
    pub round: u64,
    pub barrier: Option<u64>,
    pub commit_index: u64,
    pub block_time_ms: u64,
    pub peers: Vec<Value>,
    #[serde(default)]
    pub failed_engines: Vec<Value>,
}

impl Status {
    /// What matters in a message.
    pub fn line(&self) -> String {
        let Self { epoch, phase, role, engine, global_exec_index: done, global_final_index: last, .. } = self;
        let Self { leader, round, barrier, signing_stopped: stopped, state_root: root, .. } = self;
        let peers = self.peers.len();
        format!(
            "{role} in epoch {epoch} phase {phase}, executed {done} of {last}, barrier {barrier:?}, engine `{engine}` \
             round {round} leader {leader:?}, {peers} peers, root {root:.8}, stopped: {stopped:?}"
        )
    }
}

/// `GET /v1/blocks/{index}`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's manual says it")]
pub struct Block {
    pub global_exec_index: u64,
    pub epoch: u64,
    pub index: u64,
    pub hash: String,
    pub parent: String,
    pub time_ms: u64,
    pub batches: Vec<String>,
    pub state_root: Option<String>,
    pub certificate: Certificate,
}

/// A block's certificate.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's manual says it")]
pub struct Certificate {
    pub identity: String,
    pub index: u64,
    pub hash: String,
    pub votes: Vec<CertificateVote>,
    pub bodies: Vec<String>,
}

/// A vote of a certificate.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's manual says it")]
pub struct CertificateVote {
    pub authority_index: u32,
    pub index: u64,
}

/// `GET /v1/epochs`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's manual says it")]
pub struct Epoch {
    pub number: u64,
    pub identity: String,
    pub base: u64,
    pub committee: Vec<Value>,
    pub stake: u64,
    pub quorum: u64,
    pub fault_model: String,
    pub finality: String,
    pub modules: Value,
    pub aborts: Vec<Value>,
    pub state_root: Option<String>,
}

/// `GET /v1/proposals/{id}`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's manual says it")]
pub struct Proposal {
    pub id: u64,
    pub hash: String,
    pub state: String,
    pub explanation: String,
    pub new_epoch: u64,
    pub proposed_index: u64,
    pub barrier: Option<u64>,
    pub deadline: u64,
    pub not_before_ms: Option<u64>,
    pub votes: Vec<Value>,
    pub ready: Vec<u32>,
    pub changed_time_ms: u64,
}

/// Answer of a transaction.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's manual says it")]
pub struct Receipt {
    pub id: String,
    pub index: u64,
    pub status: String,
    pub code: Option<u32>,
    pub output_hex: Option<String>,
}

/// Answer of a write.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's manual says it")]
pub struct Written {
    pub index: u64,
    pub id: String,
}
