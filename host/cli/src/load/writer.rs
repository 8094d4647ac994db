//! One connection of a load.

use std::time::Duration;

use crate::client::{Connection, Request, Target};

/// Longer than a node's own limit for writes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What came of a request.
pub(crate) enum Answer {
    /// The node answered with this status; the body is in [`Writer::body`].
    Status(u16),
    /// It was not sent: there is no connection.
    NotSent(String),
    /// It was sent and there is no answer.
    Unknown(String),
}

/// A connection to one node that is made again when it breaks.
pub(crate) struct Writer {
    target: Target,
    connection: Option<Connection>,
}

impl Writer {
    /// Connects at the first request.
    pub(crate) fn new(target: Target) -> Self {
        Self { target, connection: None }
    }

    /// Sends one request and waits for the answer.
    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Answer {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match tokio::time::timeout(CONNECT_TIMEOUT, Connection::open(&self.target)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => return Answer::NotSent(error.to_string()),
                Err(_) => return Answer::NotSent(format!("{} takes no connection", self.target.url)),
            },
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, connection.call(request)).await {
            Ok(Ok(status)) => {
                self.connection = Some(connection);
                Answer::Status(status)
            }
            Ok(Err(error)) => Answer::Unknown(error.to_string()),
            Err(_) => Answer::Unknown(format!(
                "{} gave no answer within {} s",
                self.target.url,
                ANSWER_TIMEOUT.as_secs()
            )),
        }
    }

    /// The body of the last answer; the connection is given up if the node wants that.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        let body = self.connection.as_ref().map(|connection| connection.body().to_vec()).unwrap_or_default();
        self.connection.take_if(|connection| connection.is_closing());
        body
    }

    /// To be called between requests where the body is not wanted.
    pub(crate) fn tidy(&mut self) {
        self.connection.take_if(|connection| connection.is_closing());
    }
}
