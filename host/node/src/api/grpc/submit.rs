//! Transactions: one, or many on a stream.

use moult_types::TransactionId;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::super::app::App;
use super::super::error::ApiError;
use super::super::server::end;
use super::super::{parse, transactions};
use super::{convert, status};
use crate::proto::{
    SubmitRequest, SubmitResponse, SubmitResult, SubmitStreamRequest, SubmitStreamResponse, Transaction,
    submit_result,
};
use crate::submissions::{Ended, Submissions};

/// Messages that wait for the client to read; then the node stops taking more.
const ANSWERS_WAITING: usize = 4;
/// A message with several results is no longer than about this.
const ANSWER_BYTES: usize = 512 << 10;
/// Most transactions of one message.
const TRANSACTIONS_MAX: usize = 4096;

pub(super) async fn one(app: &App, request: SubmitRequest) -> Result<SubmitResponse, ApiError> {
    let transaction =
        request.transaction.ok_or_else(|| ApiError::bad_request("`transaction` is not there"))?;
    let max = transactions::TRANSACTION_BYTES_MAX.min(app.shared.config.limits.request_bytes_max);
    if transaction.payload.len() > max {
        return Err(ApiError::too_large(format!("the transaction is larger than {max} bytes")));
    }
    let named = client_of(&transaction)?;
    let (id, receipt) = app.write(named, transaction.payload.into()).await?;
    Ok(SubmitResponse { id: id.to_string(), receipt: Some(convert::receipt(receipt)) })
}

/// What the client is sent.
pub(super) type Answers = ReceiverStream<Result<SubmitStreamResponse, Status>>;

pub(super) fn many(
    app: &App,
    requests: Streaming<SubmitStreamRequest>,
    stopped: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) -> Answers {
    let (answers, answered) = mpsc::channel(ANSWERS_WAITING);
    let submissions = app.handle.submissions();
    let intake = Intake { app: app.clone(), requests, submissions, answers, stopped };
    tokio::spawn(async move {
        intake.run().await;
        drop(place);
    });
    Answers::new(answered)
}

/// The client has gone: nobody reads any more.
struct Gone;

struct Intake {
    app: App,
    requests: Streaming<SubmitStreamRequest>,
    submissions: Submissions,
    answers: mpsc::Sender<Result<SubmitStreamResponse, Status>>,
    stopped: watch::Receiver<bool>,
}

impl Intake {
    /// Until the client has all it asked for, or has gone, or the node stops.
    async fn run(mut self) {
        let last = match self.serve().await {
            Ok(last) => last,
            Err(Gone) => return,
        };
        if let Some(status) = last {
            // The stream ends with it; whoever has gone misses nothing.
            let _ = self.answers.send(Err(status)).await;
        }
    }

    /// The status that the stream ends with, if not with success.
    async fn serve(&mut self) -> Result<Option<Status>, Gone> {
        let mut broken = None;
        let mut is_open = true;
        while is_open || !self.submissions.is_empty() {
            tokio::select! {
                biased;
                () = end(&mut self.stopped) => {
                    let ended = self.submissions.abandon();
                    self.send(ended).await?;
                    return Ok(Some(draining()));
                }
                () = self.answers.closed() => return Err(Gone),
                ended = self.submissions.ended(), if !self.submissions.is_empty() => {
                    self.send(ended).await?;
                }
                message = self.requests.message(), if is_open && self.submissions.has_room() => match message {
                    Ok(Some(message)) => if let Err(e) = self.take(message).await {
                        (broken, is_open) = (Some(status::of(&e)), false);
                    },
                    Ok(None) => is_open = false,
                    Err(e) => (broken, is_open) = (Some(status::of_message(e)), false),
                },
            }
        }
        Ok(broken)
    }

    /// A message that is wrong in one place is refused whole, and ends the stream once those
    /// before it have their results.
    async fn take(&mut self, message: SubmitStreamRequest) -> Result<(), ApiError> {
        let n = message.transactions.len();
        if n > TRANSACTIONS_MAX {
            let text = format!("a message of {n} transactions; it has at most {TRANSACTIONS_MAX}");
            return Err(ApiError::bad_request(text));
        }
        if n == 0 {
            return Ok(());
        }
        let named = message.transactions.into_iter().map(|transaction| {
            let id: TransactionId = self.app.handle.transaction_id(client_of(&transaction)?);
            Ok((id, transaction.payload.into()))
        });
        let transactions = named.collect::<Result<Vec<_>, ApiError>>()?;
        self.submissions.submit(transactions).await;
        Ok(())
    }

    /// Waits for the client to read.
    async fn send(&self, ended: Vec<Ended>) -> Result<(), Gone> {
        let (mut results, mut bytes) = (Vec::new(), 0);
        for (number, id, result) in ended {
            let outcome = match self.app.outcome(&id, result) {
                Ok(receipt) => submit_result::Outcome::Receipt(convert::receipt(receipt)),
                Err(e) => submit_result::Outcome::Error(status::error(&e)),
            };
            let result = SubmitResult { number, outcome: Some(outcome) };
            let length = result.encoded_len();
            if bytes + length > ANSWER_BYTES && bytes > 0 {
                self.send_message(std::mem::take(&mut results)).await?;
                bytes = 0;
            }
            bytes += length;
            results.push(result);
        }
        if results.is_empty() { Ok(()) } else { self.send_message(results).await }
    }

    async fn send_message(&self, results: Vec<SubmitResult>) -> Result<(), Gone> {
        self.answers.send(Ok(SubmitStreamResponse { results })).await.map_err(|_| Gone)
    }
}

/// What a stream ends with when the node does.
pub(super) fn draining() -> Status {
    status::of(&ApiError::unavailable("draining", "this node is shutting down: go on at another node"))
}

/// Client and number: both, or none.
fn client_of(transaction: &Transaction) -> Result<Option<(Vec<u8>, u64)>, ApiError> {
    if transaction.client.is_empty() {
        let is_anonymous = transaction.seq == 0;
        let wrong = || ApiError::bad_request("give both `client` and `seq`, or none");
        return is_anonymous.then_some(None).ok_or_else(wrong);
    }
    parse::check_client("client", &transaction.client)?;
    Ok(Some((transaction.client.to_vec(), transaction.seq)))
}
