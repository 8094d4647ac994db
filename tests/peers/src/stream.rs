//! Puts over `moult.v1.Consensus/SubmitStream`, the way in which Moult's own client sends many:
//! one stream for each connection, shared by that connection's clients. Each client still has
//! one put in flight and is answered for it alone; what they ask for at the same time travels
//! in one message.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use crate::proto::consensus_client::ConsensusClient;
use crate::proto::{
    Channel, Receipt, SubmitStreamRequest, SubmitStreamResponse, Transaction, receipt, submit_result,
};

/// Most puts of one message.
const MESSAGE_MAX: usize = 1024;
/// Messages on their way into the connection.
const MESSAGES_WAITING: usize = 4;

type Answer = anyhow::Result<Receipt>;

/// A stream; clones share it. It ends with the last of them.
#[derive(Clone)]
pub(crate) struct Stream {
    puts: mpsc::UnboundedSender<(Bytes, oneshot::Sender<Answer>)>,
}

impl Stream {
    /// Opens a stream on a connection.
    pub(crate) async fn open(mut client: ConsensusClient<Channel>) -> anyhow::Result<Self> {
        // Holds at most a put for each client.
        let (puts, asked) = mpsc::unbounded_channel();
        let (messages, outgoing) = mpsc::channel(MESSAGES_WAITING);
        let answers = client.submit_stream(ReceiverStream::new(outgoing)).await;
        let answers = answers.context("no stream is opened")?.into_inner();
        tokio::spawn(run(asked, messages, answers));
        Ok(Self { puts })
    }

    /// Orders a transaction; returns once it was executed.
    pub(crate) async fn put(&self, payload: Bytes) -> anyhow::Result<()> {
        let (sender, answer) = oneshot::channel();
        self.puts.send((payload, sender)).ok().context("the stream has ended")?;
        let receipt = answer.await.context("the stream has ended")??;
        let is_applied = receipt.status() == receipt::Status::Executed && receipt.code == 0;
        ensure!(is_applied, "a put that was not applied: {receipt:?}");
        Ok(())
    }
}

/// Until the clients have gone or the stream has ended; who still waits then learns it by the end
/// of their channel.
async fn run(
    mut asked: mpsc::UnboundedReceiver<(Bytes, oneshot::Sender<Answer>)>,
    messages: mpsc::Sender<SubmitStreamRequest>,
    mut answers: Streaming<SubmitStreamResponse>,
) {
    let mut waiting = BTreeMap::new();
    let mut next: u64 = 0;
    let mut puts = Vec::new();
    loop {
        tokio::select! {
            count = asked.recv_many(&mut puts, MESSAGE_MAX) => {
                if count == 0 {
                    return;
                }
                let mut transactions = Vec::with_capacity(count);
                for (payload, client) in puts.drain(..) {
                    transactions.push(Transaction { payload, ..Transaction::default() });
                    waiting.insert(next, client);
                    next += 1;
                }
                if messages.send(SubmitStreamRequest { transactions }).await.is_err() {
                    return;
                }
            }
            message = answers.message() => {
                let Ok(Some(message)) = message else { return };
                for result in message.results {
                    let Some(client) = waiting.remove(&result.number) else { return };
                    // Who has given up needs no answer.
                    let _ = client.send(outcome(result.outcome));
                }
            }
        }
    }
}

fn outcome(outcome: Option<submit_result::Outcome>) -> Answer {
    match outcome {
        Some(submit_result::Outcome::Receipt(receipt)) => Ok(receipt),
        Some(submit_result::Outcome::Error(error)) => bail!("{}: {}", error.code, error.message),
        None => bail!("a result without an outcome"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_receipt_is_an_answer() {
        let receipt = Receipt { index: 7, ..Receipt::default() };
        let told = outcome(Some(submit_result::Outcome::Receipt(receipt.clone())));
        assert_eq!(told.expect("a receipt"), receipt);
        assert!(outcome(None).is_err());
        let error = crate::proto::Error { code: "overloaded".into(), ..Default::default() };
        let problem = outcome(Some(submit_result::Outcome::Error(error))).expect_err("an error");
        assert!(problem.to_string().starts_with("overloaded"));
    }
}
