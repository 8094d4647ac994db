//! `StreamBlocks`: the final chain, from a block on.

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tonic::Status;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use super::super::app::App;
use super::super::chain::certified;
use super::super::error::ApiError;
use super::super::server::end;
use super::submit::draining;
use super::{convert, status};
use crate::modules::blocking;
use crate::proto::{Block, StreamBlocksResponse};

/// Most blocks of one message.
const BLOCKS_MAX: u64 = 16;
/// Messages that wait for the client to read; then nothing more is read from the store.
const ANSWERS_WAITING: usize = 2;

/// What the client is sent.
pub(super) type Answers = ReceiverStream<Result<StreamBlocksResponse, Status>>;

pub(super) fn follow(
    app: &App,
    from: u64,
    mut stopped: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) -> Answers {
    let (answers, answered) = mpsc::channel(ANSWERS_WAITING);
    let app = app.clone();
    tokio::spawn(async move {
        let reason = tokio::select! {
            biased;
            () = end(&mut stopped) => Some(draining()),
            () = answers.closed() => None,
            reason = send_blocks(&app, from, &answers) => reason,
        };
        if let Some(reason) = reason {
            // Whoever has gone misses nothing.
            let _ = answers.send(Err(reason)).await;
        }
        drop(place);
    });
    Answers::new(answered)
}

/// Ends where the client has gone or a block cannot be read.
async fn send_blocks(
    app: &App,
    from: u64,
    answers: &mpsc::Sender<Result<StreamBlocksResponse, Status>>,
) -> Option<Status> {
    let mut executed = app.shared.executed.subscribe();
    let mut next = if from == 0 { executed.borrow().0 + 1 } else { from };
    loop {
        let last = executed.borrow_and_update().0;
        while next <= last {
            let to = last.min(next.saturating_add(BLOCKS_MAX - 1));
            let blocks = match read(app, next, to).await {
                Ok(blocks) => blocks,
                Err(e) => return Some(status::of(&e)),
            };
            next = to + 1;
            answers.send(Ok(StreamBlocksResponse { blocks })).await.ok()?;
        }
        // The sender is the node's.
        executed.changed().await.ok()?;
    }
}

async fn read(app: &App, from: u64, to: u64) -> Result<Vec<Block>, ApiError> {
    let store = app.shared.store.clone();
    let work = move || {
        let block = |global| match certified(&store, global) {
            Ok(Some((record, proof))) => Ok(convert::block(&record, proof.certificate())),
            Ok(None) => Err(ApiError::unavailable(
                "not-ready",
                format!("block {global} is not in the store: this node fetches it from its peers"),
            )),
            Err(e) => Err(ApiError::internal(e.to_string())),
        };
        (from..=to).map(block).collect()
    };
    blocking(work).await.map_err(ApiError::internal)?
}
