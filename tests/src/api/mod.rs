//! Calls to one node, as its users make them (`docs/API.md`).

mod types;

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::http::{Answer, Http, HttpError};

pub use types::{Block, Certificate, CertificateVote, Epoch, Proposal, Receipt, Status, Written};

/// Why a call failed.
#[derive(Clone, PartialEq, Debug)]
pub enum Failure {
    /// There was no connection.
    NotSent(String),
    /// The answer was lost.
    Lost(String),
    /// The node refused.
    Refused {
        /// HTTP's.
        status: u16,
        /// For programs.
        code: String,
        /// For people.
        message: String,
        /// Certainly not applied.
        not_applied: bool,
    },
}

impl Failure {
    /// Whether the call certainly changed nothing.
    pub fn is_without_effect(&self) -> bool {
        match self {
            Self::NotSent(_) => true,
            Self::Lost(_) => false,
            Self::Refused { not_applied, .. } => *not_applied,
        }
    }

    /// The status, if the node answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(text) | Self::Lost(text) => f.write_str(text),
            Self::Refused { status, code, message, .. } => write!(f, "{status} {code}: {message}"),
        }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
    applied: String,
}

/// Who repeats a call; the node carries each number out once.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Of the client.
    pub name: &'a str,
    /// Of the call.
    pub seq: u64,
}

/// A node's interface.
#[derive(Debug)]
pub struct Api {
    http: Http,
    authorization: Option<String>,
}

impl Api {
    /// Connects at the first call.
    pub fn new(address: SocketAddr, token: Option<&str>) -> Self {
        Self { http: Http::new(address), authorization: token.map(|t| format!("Bearer {t}")) }
    }

    /// Waits no longer than this for an answer.
    #[must_use]
    pub fn patience(mut self, limit: Duration) -> Self {
        self.http = self.http.patience(limit);
        self
    }

    /// Where the node stands.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn status(&mut self) -> Result<Status, Failure> {
        self.get("/v1/status")
    }

    /// A block by its global index.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn block(&mut self, index: u64) -> Result<Block, Failure> {
        self.get(&format!("/v1/blocks/{index}"))
    }

    /// All epochs.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn epochs(&mut self) -> Result<Vec<Epoch>, Failure> {
        self.get("/v1/epochs")
    }

    /// A proposal by its number.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn proposal(&mut self, id: u64) -> Result<Proposal, Failure> {
        self.get(&format!("/v1/proposals/{id}"))
    }

    /// Puts a change forward.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn propose(&mut self, change: &Value) -> Result<Proposal, Failure> {
        self.send("POST", "/v1/proposals", change)
    }

    /// Votes by hand.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn vote(&mut self, id: u64, approve: bool, reason: &str) -> Result<(), Failure> {
        let body = serde_json::json!({ "approve": approve, "reason": reason });
        self.call("POST", &format!("/v1/proposals/{id}/vote"), &[JSON], body.to_string().as_bytes()).map(drop)
    }

    /// Takes a proposal back.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn withdraw(&mut self, id: u64) -> Result<(), Failure> {
        self.call("DELETE", &format!("/v1/proposals/{id}"), &[], b"").map(drop)
    }

    /// A linearizable read.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn read(&mut self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.read_at(&format!("/v1/kv/{key}"))
    }

    /// A read of what this node has executed.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn read_local(&mut self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.read_at(&format!("/v1/kv/{key}?consistency=local"))
    }

    fn read_at(&mut self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        match self.call("GET", path, &[], b"") {
            Ok(answer) => Ok(Some(answer.body)),
            Err(failure) if failure.status() == Some(404) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Sets a key.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn put(&mut self, key: &str, value: &[u8], caller: Option<Caller<'_>>) -> Result<Written, Failure> {
        let answer = self.call_as(caller, "PUT", &format!("/v1/kv/{key}"), value)?;
        decode(&answer)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn delete(&mut self, key: &str, caller: Option<Caller<'_>>) -> Result<Written, Failure> {
        let answer = self.call_as(caller, "DELETE", &format!("/v1/kv/{key}"), b"")?;
        decode(&answer)
    }

    /// Any transaction.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn transact(&mut self, payload: &[u8], caller: Option<Caller<'_>>) -> Result<Receipt, Failure> {
        let answer = self.call_as(caller, "POST", "/v1/tx", payload)?;
        decode(&answer)
    }

    /// Metrics as text.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn metrics(&mut self) -> Result<String, Failure> {
        self.call("GET", "/metrics", &[], b"").map(|answer| answer.text())
    }

    /// A counter or gauge without labels, by its name in the metrics.
    ///
    /// # Errors
    /// What went wrong, in words: no answer, or no such number.
    pub fn number(&mut self, name: &str) -> Result<u64, String> {
        let text = self.metrics().map_err(|e| e.to_string())?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no number {name} in the metrics"))
    }

    /// JSON from a path.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        decode(&self.call("GET", path, &[], b"")?)
    }

    /// JSON both ways.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn send<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<T, Failure> {
        decode(&self.call(method, path, &[JSON], body.to_string().as_bytes())?)
    }

    fn call_as(
        &mut self,
        caller: Option<Caller<'_>>,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Answer, Failure> {
        match caller {
            None => self.call(method, path, &[], body),
            Some(Caller { name, seq }) => {
                self.call(method, path, &[("moult-client", name), ("moult-seq", &seq.to_string())], body)
            }
        }
    }

    /// Any call; an answer of 400 or more is a failure.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let mut all = headers.to_vec();
        all.extend(self.authorization.as_deref().map(|value| ("authorization", value)));
        let answer = self.http.call(method, path, &all, body).map_err(|e| match e {
            HttpError::NotSent(_) => Failure::NotSent(e.to_string()),
            HttpError::Lost(_) => Failure::Lost(e.to_string()),
        })?;
        if answer.status < 400 {
            return Ok(answer);
        }
        let ErrorBody { code, message, applied } = decode(&answer)?;
        Err(Failure::Refused { status: answer.status, code, message, not_applied: applied == "no" })
    }
}

/// # Panics
/// The answer is not what the manual says: no test can go on from there.
fn decode<T: DeserializeOwned>(answer: &Answer) -> Result<T, Failure> {
    match serde_json::from_slice(&answer.body) {
        Ok(value) => Ok(value),
        Err(e) => {
            panic!("an answer of status {} is not as documented: {e}\n{}", answer.status, answer.text())
        }
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// Transactions of the key-value application, by its manual.
pub mod kv {
    /// A compare-and-swap.
    pub fn swap(key: &str, expect: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
        let mut out = vec![3];
        bytes(&mut out, key.as_bytes());
        option(&mut out, expect);
        option(&mut out, value);
        out
    }

    fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(bytes);
    }

    fn option(out: &mut Vec<u8>, value: Option<&[u8]>) {
        match value {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                bytes(out, value);
            }
        }
    }
}
