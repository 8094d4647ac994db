//! Peers: frames into verified messages for the replica, and answers from the store.

use std::sync::Arc;

use bytes::Bytes;
use moult_core::Input;
use moult_core::verify::Unverified;
use moult_net::{BoxFuture, Class, Handler, Network, PeerEvent};
use moult_types::phase::Phase;
use moult_types::{
    Digest, EpochNumber, GlobalIndex, Message, ModuleHash, PublicKey, SignedBatch, decode, encode,
};

use crate::modules::{Ask, blocking};
use crate::shared::Shared;

/// Most digests that one question may name.
const FETCH_MAX: usize = 256;

/// Batches of so many bytes of transactions, at most, travel with the engine's messages, so
/// that a proposal does not overtake the batches that it names.
const SMALL_BATCHES_BYTES: usize = 16 << 10;

/// Which stream a message travels in.
pub(crate) fn class_of(message: &Message) -> Class {
    match message {
        Message::Engine { .. }
        | Message::Votes { .. }
        | Message::Waiting { .. }
        | Message::Suspect { .. }
        | Message::Abort { .. }
        | Message::Opening { .. }
        | Message::Status(_)
        | Message::StateRoot(_)
        | Message::System(_)
        | Message::ReadQuery { .. }
        | Message::ReadReply { .. } => Class::Consensus,
        Message::Batches(batches) => {
            let bytes: usize = batches.iter().map(|signed| signed.batch.payload_bytes()).sum();
            if bytes <= SMALL_BATCHES_BYTES { Class::Consensus } else { Class::Batches }
        }
        Message::FetchBatches(_)
        | Message::FetchBlocks { .. }
        | Message::Blocks(_)
        | Message::FetchPrepared { .. }
        | Message::Prepared(_)
        | Message::FetchModule { .. }
        | Message::ModulePart { .. } => Class::Sync,
    }
}

/// Sends to one peer; a message that cannot be queued is lost, as on a link.
pub(crate) fn send(network: &Network, to: &PublicKey, class: Class, frame: Bytes) {
    // Full and unconnected are counted by the network; everything is said again above.
    let _ = network.send(to, class, frame);
}

impl Ask for Network {
    fn peers(&self) -> Vec<PublicKey> {
        self.connected().into_iter().map(|peer| peer.key).collect()
    }

    fn ask(&self, peer: &PublicKey, message: &Message) {
        send(self, peer, class_of(message), encode(message).into());
    }
}

/// The network's handler.
pub(crate) struct Peers(pub(crate) Arc<Shared>);

impl Handler for Peers {
    fn on_frame(&self, from: PublicKey, class: Class, frame: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(self.frame(from, class, frame))
    }

    fn on_peer(&self, key: PublicKey, event: PeerEvent) {
        match event {
            PeerEvent::Up { rtt, address } => {
                tracing::info!(target: "network", peer = %key, %address, rtt_us = rtt.as_micros() as u64, "peer connected");
                let rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
                self.0.internal(Input::Peer { key, up: true, rtt_us });
            }
            PeerEvent::Down { reason } => {
                tracing::info!(target: "network", peer = %key, %reason, "peer disconnected");
                self.0.internal(Input::Peer { key, up: false, rtt_us: 0 });
            }
            PeerEvent::DuplicateIdentity { addresses } => {
                self.0.metrics.duplicate_identity();
                tracing::error!(target: "network", peer = %key, ?addresses, "two live nodes use one key: stop one of them");
            }
        }
    }
}

impl Peers {
    async fn frame(&self, from: PublicKey, class: Class, frame: Bytes) {
        let message: Message = match decode(&frame) {
            Ok(message) => message,
            Err(e) => return self.penalize(&from, &e.to_string()),
        };
        drop(frame);
        if class_of(&message) != class {
            return self.penalize(&from, "a message in the stream of another class");
        }
        match message {
            Message::FetchBatches(digests) if digests.len() <= FETCH_MAX => {
                self.serve_batches(from, digests).await
            }
            Message::FetchBatches(_) => self.penalize(&from, "a question for too many batches"),
            Message::FetchBlocks { from: first, epoch, phase } => {
                self.serve_blocks(from, first, (epoch, phase)).await;
            }
            Message::FetchModule { hash, offset } => self.serve_module(from, hash, offset).await,
            Message::ModulePart { hash, total_bytes, offset, bytes } => {
                self.0.modules.on_part(from, hash, total_bytes, offset, bytes);
            }
            message => self.verify(from, message).await,
        }
    }

    pub(crate) async fn verify(&self, from: PublicKey, message: Message) {
        let Some(context) = self.0.verify_context() else { return };
        match context.check(message) {
            Ok(message) => self.0.input(Input::Message { from, message }).await,
            Err(Unverified::Early(message)) => self.0.input(Input::Early { from, message: *message }).await,
            Err(Unverified::Stale) => {}
            Err(Unverified::Bad(reason)) => self.penalize(&from, &reason),
        }
    }

    fn penalize(&self, peer: &PublicKey, reason: &str) {
        self.0.metrics.bad_message();
        tracing::warn!(target: "network", %peer, reason, "a peer broke the protocol: connection closed for a while");
        if let Some(network) = self.0.network.get() {
            network.penalize(peer, reason);
        }
    }

    /// Answers in frames of bounded size; what is not here is left out.
    async fn serve_batches(&self, to: PublicKey, digests: Vec<Digest>) {
        let (store, limit) = (self.0.store.clone(), self.0.config.limits.serve_bytes_max);
        let found = blocking(move || {
            let (mut messages, mut batches, mut bytes) = (Vec::new(), Vec::new(), 0);
            for digest in digests {
                let Ok(Some(encoded)) = store.batch(digest) else { continue };
                let Ok(batch) = decode::<SignedBatch>(&encoded) else { continue };
                bytes += encoded.len();
                batches.push(batch);
                if bytes >= limit {
                    messages.push(Message::Batches(std::mem::take(&mut batches)));
                    bytes = 0;
                }
            }
            if !batches.is_empty() {
                messages.push(Message::Batches(batches));
            }
            messages.iter().map(|message| (class_of(message), encode(message))).collect::<Vec<_>>()
        });
        let (Ok(frames), Some(network)) = (found.await, self.0.network.get()) else { return };
        for (class, frame) in frames {
            send(network, &to, class, frame.into());
        }
    }

    async fn serve_blocks(&self, to: PublicKey, first: GlobalIndex, after: (EpochNumber, Phase)) {
        let (store, limit) = (self.0.store.clone(), self.0.config.limits.serve_bytes_max);
        let found = blocking(move || store.stretch(first, after, limit)).await;
        match found {
            Ok(Ok(Some(blocks))) => self.answer(&to, &Message::Blocks(Box::new(blocks))),
            Ok(Ok(None)) => {}
            Ok(Err(e)) => {
                tracing::error!(target: "network", error = %e, first = first.0, "blocks cannot be served")
            }
            Err(e) => tracing::error!(target: "network", error = e, "blocks cannot be served"),
        }
    }

    async fn serve_module(&self, to: PublicKey, hash: ModuleHash, offset: u64) {
        let shared = self.0.clone();
        if let Ok(part) = blocking(move || shared.modules.part(hash, offset)).await {
            self.answer(&to, &part);
        }
    }

    fn answer(&self, to: &PublicKey, message: &Message) {
        if let Some(network) = self.0.network.get() {
            network.ask(to, message);
        }
    }
}
