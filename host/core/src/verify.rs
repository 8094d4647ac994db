//! What of a peer's message must hold before the replica sees it.
//!
//! Pure and `Send`: the shell runs it on the peer's own task, off the replica's thread.
//! Engine statements, the kernel's votes, state roots and batches are verified here; blocks and governance carry
//! their own proofs, which the replica checks against its chain.

use std::sync::Arc;

use moult_crypto::Keyring;
use moult_types::phase::Phase;
use moult_types::{
    Certificate, ChainId, Committee, EpochIdentity, EpochLimits, EpochNumber, GlobalIndex, HeldBatch,
    Message, Round, Scope, Signed, SignedBatch, SlotKind,
};
use thiserror::Error;

use crate::kernel::{CertificateError, Phases, check_certificate};

/// A message that passed [`VerifyContext::check`].
#[derive(Clone, Debug)]
pub struct VerifiedMessage {
    message: Message,
    held: Vec<Arc<HeldBatch>>,
}

impl VerifiedMessage {
    /// The message; batches stand apart, with their digests, and not in the message.
    pub fn into_parts(self) -> (Message, Vec<Arc<HeldBatch>>) {
        (self.message, self.held)
    }
}

/// Why a message is not handed on.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Unverified {
    /// Of an epoch after this node's: it may be good later.
    #[error("the message is of an epoch that has not begun here")]
    Early(Box<Message>),
    /// Of an epoch that is over: harmless.
    #[error("the message is of an epoch that is over")]
    Stale,
    /// The sender's fault.
    #[error("{0}")]
    Bad(String),
}

/// What messages are verified against.
#[derive(Clone, Debug)]
pub struct VerifyContext {
    /// The chain.
    pub chain: ChainId,
    /// Number of the present epoch.
    pub number: EpochNumber,
    /// Identity of the present epoch in phase 0, and the block before it.
    pub first: EpochIdentity,
    /// See `first`.
    pub base: GlobalIndex,
    /// The phase that this node votes in, with its identity.
    pub phase: Phase,
    /// See `phase`.
    pub identity: EpochIdentity,
    /// Keys of the present committee.
    pub keyring: Keyring,
    /// The present committee.
    pub committee: Committee,
    /// The former epoch: its batches may still be ordered.
    pub former: Option<(EpochIdentity, Keyring)>,
    /// Sizes.
    pub limits: EpochLimits,
    /// A bug planted for the simulator.
    #[cfg(feature = "planted")]
    pub planted: Option<crate::replica::Planted>,
}

impl VerifyContext {
    /// Checks a message.
    ///
    /// # Errors
    /// Why it may not be handed on.
    pub fn check(&self, message: Message) -> Result<VerifiedMessage, Unverified> {
        if let Message::Batches(batches) = message {
            let held = self.check_batches(batches)?;
            return Ok(VerifiedMessage { message: Message::Batches(Vec::new()), held });
        }
        match &message {
            Message::Engine { identity, payload, statements } => {
                if let Some(early) = self.epoch_of(*identity, &message) {
                    return Err(early);
                }
                if payload.as_ref().is_some_and(|p| p.len() > self.limits.engine_message_bytes_max as usize) {
                    return Err(Unverified::Bad("an engine message larger than the epoch allows".into()));
                }
                for signed in statements {
                    if signed.statement.slot.kind >= SlotKind::HOST_FIRST {
                        return Err(Unverified::Bad("an engine statement of a kind of the host's".into()));
                    }
                    self.verify(signed)?;
                }
            }
            Message::Votes { identity, votes, certificate } => {
                if let Some(early) = self.epoch_of(*identity, &message) {
                    return Err(early);
                }
                self.check_votes(votes, certificate.as_deref())?;
            }
            Message::Waiting { identity, .. } | Message::Suspect { identity } => {
                if let Some(early) = self.epoch_of(*identity, &message) {
                    return Err(early);
                }
            }
            Message::Abort { identity, abort, claim } => {
                if let Some(early) = self.epoch_of(*identity, &message) {
                    return Err(early);
                }
                self.phases()
                    .check_abort(self.phase, abort, claim.as_deref())
                    .map_err(|e| Unverified::Bad(format!("an abort: {e}")))?;
            }
            Message::Opening { epoch, phase, bundle } => {
                match epoch.cmp(&self.number) {
                    std::cmp::Ordering::Less => return Err(Unverified::Stale),
                    std::cmp::Ordering::Greater => return Err(Unverified::Early(Box::new(message))),
                    std::cmp::Ordering::Equal if *phase <= self.phase => return Err(Unverified::Stale),
                    std::cmp::Ordering::Equal => {}
                }
                self.phases()
                    .check_bundle(*phase, bundle)
                    .map_err(|e| Unverified::Bad(format!("a bundle: {e}")))?;
            }
            Message::StateRoot(said) => {
                match said.epoch.cmp(&self.number) {
                    std::cmp::Ordering::Less => return Err(Unverified::Stale),
                    std::cmp::Ordering::Greater => return Err(Unverified::Early(Box::new(message))),
                    std::cmp::Ordering::Equal => {}
                }
                self.keyring.verify(said.scope(), &said.statement(), &said.signature).map_err(|e| {
                    Unverified::Bad(format!("a state root of authority {}: {e}", said.author.0))
                })?;
            }
            Message::FetchPrepared { .. }
            | Message::Prepared(_)
            | Message::Batches(_)
            | Message::Status(_)
            | Message::System(_)
            | Message::FetchBatches(_)
            | Message::FetchBlocks { .. }
            | Message::Blocks(_)
            | Message::ReadQuery { .. }
            | Message::ReadReply { .. }
            | Message::FetchModule { .. }
            | Message::ModulePart { .. } => {}
        }
        Ok(VerifiedMessage { message, held: Vec::new() })
    }

    fn check_votes(&self, votes: &[Signed], certificate: Option<&Certificate>) -> Result<(), Unverified> {
        if votes.len() > Round::ALL.len() {
            return Err(Unverified::Bad("more votes than there are rounds".into()));
        }
        for vote in votes {
            if Round::of(&vote.statement).is_none() {
                return Err(Unverified::Bad("a vote with another statement".into()));
            }
            self.verify(vote)?;
        }
        let Some(certificate) = certificate else { return Ok(()) };
        self.check_certificate(certificate, Round::Prepare)
            .map_err(|e| Unverified::Bad(format!("a certificate does not hold: {e}")))
    }

    /// A certificate of the present epoch.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn check_certificate(&self, certificate: &Certificate, round: Round) -> Result<(), CertificateError> {
        let window = self.limits.window_blocks;
        check_certificate(certificate, round, self.identity, &self.committee, &self.keyring, window)
    }

    /// The phases of the present epoch.
    pub fn phases(&self) -> Phases<'_> {
        Phases {
            first: self.first,
            base: self.base,
            committee: &self.committee,
            keyring: &self.keyring,
            window_blocks: self.limits.window_blocks,
            #[cfg(feature = "planted")]
            planted: self.planted,
        }
    }

    fn check_batches(&self, batches: Vec<SignedBatch>) -> Result<Vec<Arc<HeldBatch>>, Unverified> {
        if batches.iter().any(|signed| signed.batch.number > self.number) {
            return Err(Unverified::Early(Box::new(Message::Batches(batches))));
        }
        let mut held = Vec::with_capacity(batches.len());
        for signed in batches {
            let number = signed.batch.number;
            let keyring = match &self.former {
                _ if number == self.number => &self.keyring,
                Some((_, keyring)) if number.next() == self.number => keyring,
                _ => return Err(Unverified::Stale),
            };
            let batch = HeldBatch::new(signed);
            if batch.encoded.len() > self.limits.batch_bytes_max as usize {
                return Err(Unverified::Bad("a batch larger than the epoch allows".into()));
            }
            let statement = batch.batch().statement(batch.digest);
            keyring
                .verify(Scope::Number(number), &statement, &batch.signed.signature)
                .map_err(|e| Unverified::Bad(format!("a batch of authority {}: {e}", statement.author.0)))?;
            held.push(Arc::new(batch));
        }
        Ok(held)
    }

    fn epoch_of(&self, identity: EpochIdentity, message: &Message) -> Option<Unverified> {
        let is_former = || self.former.as_ref().is_some_and(|(former, _)| *former == identity);
        let is_earlier_phase = || self.phases().phase_of(identity).is_some_and(|phase| phase < self.phase);
        if identity == self.identity {
            None
        } else if is_former() || is_earlier_phase() {
            Some(Unverified::Stale)
        } else {
            // Identities cannot be ordered by looking at them; the buffer for these is small.
            Some(Unverified::Early(Box::new(message.clone())))
        }
    }

    fn verify(&self, signed: &Signed) -> Result<(), Unverified> {
        let (statement, scope) = (&signed.statement, Scope::Epoch(self.identity));
        self.keyring
            .verify(scope, statement, &signed.signature)
            .map_err(|e| Unverified::Bad(format!("a statement of authority {}: {e}", statement.author.0)))
    }
}
