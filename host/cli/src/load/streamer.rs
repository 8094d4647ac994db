//! One stream of writes over gRPC: many in flight, as many as are due in one message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use moult_kv::Command;
use moult_node::proto::consensus_client::ConsensusClient;
use moult_node::proto::{Channel, SubmitStreamRequest, SubmitStreamResponse, Transaction};
use moult_node::proto::{receipt::Status, submit_result::Outcome};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tonic::Streaming;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use crate::client::{Target, connect};
use crate::load::{Pace, Random, Recorder};

const BROKEN_PAUSE: Duration = Duration::from_millis(100);
const OVERLOADED_PAUSE: Duration = Duration::from_millis(10);
/// Most writes of one message; a node takes messages of 1 MiB.
const MESSAGE_WRITES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 512 << 10;
/// Messages that wait for the connection.
const MESSAGES_WAITING: usize = 4;

/// Puts under random keys; what fails is counted, not repeated.
pub(crate) struct Streamer {
    pub(crate) target: Target,
    /// Most writes that wait for an answer.
    pub(crate) in_flight: usize,
    /// How many different keys.
    pub(crate) keys: u64,
    pub(crate) value: Vec<u8>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) recorder: Arc<Recorder>,
}

/// What both directions of a stream know.
struct Flight {
    /// When each write without an answer was due, by its number on the stream.
    due: Mutex<BTreeMap<u64, Instant>>,
    room: Semaphore,
}

impl Streamer {
    /// Until the pace is stopped; a stream that breaks is opened again.
    pub(crate) async fn run(self, seed: u64) {
        let mut random = Random::new(seed + 1);
        while !self.pace.is_stopped() {
            let flight = Flight { due: Mutex::default(), room: Semaphore::new(self.in_flight) };
            if let Err(problem) = self.stream(&flight, &mut random).await {
                // What was in flight has no answer, and what became of it is not known.
                let lost = flight.due.lock().unwrap_or_else(PoisonError::into_inner).len().max(1);
                (0..lost).for_each(|_| self.recorder.failed(format!("{problem:#}")));
                sleep(BROKEN_PAUSE).await;
            }
        }
    }

    async fn stream(&self, flight: &Flight, random: &mut Random) -> anyhow::Result<()> {
        let stream = connect(&self.target, b"h2").await?;
        let channel = Channel::connect(stream).await.context("no HTTP/2")?;
        let scheme = if self.target.tls.is_some() { "https" } else { "http" };
        let origin = format!("{scheme}://{}", self.target.authority()).parse().context("no address")?;
        let (messages, sent) = mpsc::channel(MESSAGES_WAITING);
        let mut client = ConsensusClient::with_origin(channel, origin);
        let answers = client.submit_stream(ReceiverStream::new(sent)).await?.into_inner();
        let (sending, receiving) = (self.send(flight, messages, random), self.receive(flight, answers));
        // The end of sending is the stream's: the node answers the rest and ends its side.
        tokio::try_join!(sending, receiving).map(|_| ())
    }

    async fn send(
        &self,
        flight: &Flight,
        messages: mpsc::Sender<SubmitStreamRequest>,
        random: &mut Random,
    ) -> anyhow::Result<()> {
        let mut next = 0;
        let most = MESSAGE_WRITES_MAX.min((MESSAGE_BYTES_MAX / self.value.len().max(1)).max(1));
        loop {
            // It is never closed.
            flight.room.acquire().await?.forget();
            let Some(first) = self.pace.ticket().await else { return Ok(()) };
            let mut due = vec![first];
            while due.len() < most
                && let Ok(room) = flight.room.try_acquire()
                && let Some(ticket) = self.pace.due_ticket()
            {
                room.forget();
                due.push(ticket);
            }
            let put = |_: &Instant| {
                let key = format!("bench-{}", random.below(self.keys)).into_bytes();
                let payload = Command::Put { key, value: self.value.clone() }.encode();
                Transaction { payload: payload.into(), ..Transaction::default() }
            };
            let transactions = due.iter().map(put).collect();
            let numbers = next..;
            next += due.len() as u64;
            flight.due.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers.zip(due));
            if messages.send(SubmitStreamRequest { transactions }).await.is_err() {
                // The other direction says why.
                return Ok(());
            }
        }
    }

    async fn receive(
        &self,
        flight: &Flight,
        mut answers: Streaming<SubmitStreamResponse>,
    ) -> anyhow::Result<()> {
        while let Some(answer) = answers.message().await? {
            let count = answer.results.len();
            let mut is_overloaded = false;
            for result in answer.results {
                let due = flight.due.lock().unwrap_or_else(PoisonError::into_inner).remove(&result.number);
                let due = due.with_context(|| format!("an answer without a write: {}", result.number))?;
                match result.outcome.context("an answer without an outcome")? {
                    Outcome::Receipt(receipt)
                        if receipt.status() == Status::Executed && receipt.code == 0 =>
                    {
                        self.recorder.acknowledged(due);
                    }
                    Outcome::Receipt(receipt) => self.recorder.failed(format!("{receipt:?}")),
                    Outcome::Error(error) if error.code == "overloaded" => {
                        is_overloaded = true;
                        self.recorder.refused();
                    }
                    Outcome::Error(error) => {
                        self.recorder.failed(format!("{}: {}", error.code, error.message))
                    }
                }
            }
            if is_overloaded {
                sleep(OVERLOADED_PAUSE).await;
            }
            flight.room.add_permits(count);
        }
        Ok(())
    }
}
