//! Calls to one node, typed.

use std::time::Duration;

use moult_node::api_types::ErrorBody;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::client::http::{Connection, HttpError, Request};
use crate::client::target::Target;

/// Longer than any timeout of a node.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);

/// Why a call failed.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// There is no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The node refused.
    #[error("{url} refused ({status} {code}): {message}{hint}", code = body.code, message = body.message)]
    Refused {
        /// Of the API.
        url: String,
        /// HTTP's.
        status: u16,
        /// What it said.
        body: ErrorBody,
        /// What to do.
        hint: &'static str,
    },
    /// The answer is none of this version's.
    #[error(
        "{url} answered {status} with something else than expected: {problem}. Are node and program of one version?"
    )]
    Unexpected {
        /// Of the API.
        url: String,
        /// HTTP's.
        status: u16,
        /// What is wrong with it.
        problem: String,
    },
    /// It takes too long.
    #[error("{url} did not answer within {} s; whether the call was carried out is not known", CALL_TIMEOUT.as_secs())]
    Timeout {
        /// Of the API.
        url: String,
    },
}

impl ClientError {
    /// The status that the node answered with.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } | Self::Unexpected { status, .. } => Some(*status),
            Self::Http(_) | Self::Timeout { .. } => None,
        }
    }

    /// Whether the same call may work in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Http(HttpError::Protocol { .. }) => false,
            Self::Http(_) | Self::Timeout { .. } => true,
            Self::Refused { status, .. } | Self::Unexpected { status, .. } => matches!(status, 502..=504),
        }
    }
}

/// A node's API, with the token if there is one.
pub(crate) struct Client {
    target: Target,
    authorization: Option<String>,
    connection: Option<Connection>,
}

impl Client {
    /// Connects at the first call.
    pub(crate) fn new(target: Target, token: Option<&str>) -> Self {
        Self { target, authorization: token.map(|token| format!("Bearer {token}")), connection: None }
    }

    /// Of the API.
    pub(crate) fn url(&self) -> &str {
        &self.target.url
    }

    /// `GET`, with JSON as the answer.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let (status, body) = self.call("GET", path, &[], b"").await?;
        self.decode(status, &body)
    }

    /// Any method; JSON both ways.
    pub(crate) async fn send<B: Serialize, T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.unexpected(0, e.to_string()))?;
        let (status, body) = self.call(method, path, &[("content-type", "application/json")], &body).await?;
        self.decode(status, &body)
    }

    /// Bytes there, JSON back.
    pub(crate) async fn send_bytes<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<T, ClientError> {
        let (status, body) = self.call(method, path, headers, body).await?;
        self.decode(status, &body)
    }

    /// Any call; an answer of 400 and more is an error.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(u16, Vec<u8>), ClientError> {
        let authorization = self.authorization.take();
        let mut all: Vec<(&str, &str)> = headers.to_vec();
        all.extend(authorization.as_deref().map(|value| ("authorization", value)));
        let request = Request { method, path, headers: &all, body };
        let answer = tokio::time::timeout(CALL_TIMEOUT, self.exchange(&request)).await;
        self.authorization = authorization;
        let (status, body) = match answer {
            Ok(answer) => answer?,
            Err(_) => {
                self.connection = None;
                return Err(ClientError::Timeout { url: self.target.url.clone() });
            }
        };
        if status >= 400 {
            return Err(self.refused(status, &body));
        }
        Ok((status, body))
    }

    /// A kept connection may have been closed meanwhile; only what changes nothing is then
    /// asked again.
    async fn exchange(&mut self, request: &Request<'_>) -> Result<(u16, Vec<u8>), HttpError> {
        if let Some(mut kept) = self.connection.take().filter(|_| request.method == "GET")
            && let Ok(status) = kept.call(request).await
        {
            return Ok(self.keep(kept, status));
        }
        let mut fresh = Connection::open(&self.target).await?;
        let status = fresh.call(request).await?;
        Ok(self.keep(fresh, status))
    }

    fn keep(&mut self, connection: Connection, status: u16) -> (u16, Vec<u8>) {
        let body = connection.body().to_vec();
        self.connection = Some(connection).filter(|connection| !connection.is_closing());
        (status, body)
    }

    fn decode<T: DeserializeOwned>(&self, status: u16, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|e| self.unexpected(status, e.to_string()))
    }

    fn refused(&self, status: u16, body: &[u8]) -> ClientError {
        let url = self.target.url.clone();
        match serde_json::from_slice(body) {
            Ok(body) => {
                let hint = match (status, &self.authorization) {
                    (401, None) => {
                        " (give the node's token: --token-file FILE, MOULT_TOKEN_FILE or, for a devnet, --dir DIR)"
                    }
                    (401 | 403, Some(_)) => {
                        " (the token is not this node's: each node has its own `api.token`)"
                    }
                    _ => "",
                };
                ClientError::Refused { url, status, body, hint }
            }
            Err(_) => {
                let text = String::from_utf8_lossy(body).chars().take(200).collect();
                self.unexpected(status, text)
            }
        }
    }

    fn unexpected(&self, status: u16, problem: String) -> ClientError {
        ClientError::Unexpected { url: self.target.url.clone(), status, problem }
    }
}
