//! What Byzantine nodes do beyond running twice with one key: they sign two things for one
//! slot, say different things to different peers, withhold, lie about certificates, send what
//! is old, and flood. They have their own keys and the whole view of the run, and no key of
//! anybody else.
//!
//! They run the same code as the others, so that most of what they say is right; what is wrong
//! is made here, on its way out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use moult_crypto::Signer as _;
use moult_types::block::{link, vote_statement};
use moult_types::codec::hash_of;
use moult_types::governance::Decision;
use moult_types::message::Blocks;
use moult_types::phase::FinalityProof;
use moult_types::{
    AuthorityIndex, Block, BlockRecord, Certificate, CertificateVote, CommitIndex, Digest, EpochIdentity,
    EpochNumber, GlobalIndex, Message, Round, Scope, Signature, Signed, SignedBatch, Slot, Statement,
    SystemTransaction, Transaction,
};

use crate::queue::Event;
use crate::report::BYZANTINE_KINDS;
use crate::rng::Rng;
use crate::world::World;

/// Messages that a node keeps to send them again.
const OLD_MAX: usize = 256;
/// Messages of one flood.
const FLOOD: u64 = 60;

/// What one Byzantine node is given to.
#[derive(Default)]
pub(crate) struct Vices {
    kinds: BTreeSet<&'static str>,
    /// Peers that hear nothing of some kinds of message.
    starved: BTreeSet<usize>,
    withheld: BTreeSet<usize>,
    /// Which half of the peers hears the other thing.
    side: usize,
    old: VecDeque<Arc<Message>>,
}

impl Vices {
    /// Each with an even chance, at least one.
    pub(crate) fn draw(rng: &mut Rng, nodes: usize, is_on: impl Fn(&str) -> bool) -> Self {
        let mut kinds: BTreeSet<_> = BYZANTINE_KINDS.into_iter().filter(|_| rng.chance(500)).collect();
        kinds.extend(rng.pick(&BYZANTINE_KINDS));
        kinds.retain(|kind| is_on(kind));
        Self {
            kinds,
            starved: (0..nodes).filter(|_| rng.chance(400)).collect(),
            withheld: (0..12).filter(|_| rng.chance(400)).collect(),
            side: rng.below(2) as usize,
            old: VecDeque::new(),
        }
    }
}

impl World {
    /// What a Byzantine sender lets a peer have in place of a message.
    pub(crate) fn twist(&mut self, from: usize, to: usize, message: Arc<Message>) -> Option<Arc<Message>> {
        let vices = &mut self.nodes[from].vices;
        if vices.kinds.contains("replay") && vices.old.back().is_none_or(|last| !Arc::ptr_eq(last, &message))
        {
            vices.old.push_back(message.clone());
            if vices.old.len() > OLD_MAX {
                vices.old.pop_front();
            }
        }
        let vices = &self.nodes[from].vices;
        if vices.kinds.contains("withholding")
            && vices.starved.contains(&to)
            && vices.withheld.contains(&kind_of(&message))
        {
            self.report.fault("withholding");
            return None;
        }
        let (equivocates, is_other_side) = (vices.kinds.contains("equivocation"), to % 2 == vices.side);
        let (errs, forges) = (vices.kinds.contains("wrong-digest"), vices.kinds.contains("forged-message"));
        if equivocates
            && is_other_side
            && let Some(other) = self.contradiction(from, &message, &Digest([0xe1; 32]))
        {
            self.report.fault("equivocation");
            return Some(Arc::new(other));
        }
        if errs && self.rng.chance(50) {
            let salt = Digest([self.rng.below(250) as u8; 32]);
            if let Some(other) = self.contradiction(from, &message, &salt) {
                self.report.fault("wrong-digest");
                return Some(Arc::new(other));
            }
        }
        if forges && self.rng.chance(100) {
            self.report.fault("forged-message");
            return Some(Arc::new(forge(&message, &mut self.rng)));
        }
        Some(message)
    }

    /// The same message with another content, signed by its sender as the first one is.
    fn contradiction(&self, from: usize, message: &Message, salt: &Digest) -> Option<Message> {
        let it = &self.nodes[from];
        let signer = self.scheme.signer(&it.keys);
        let replica = &it.process.as_ref()?.replica;
        let sign = |scope: Scope, statement: Statement| Signed {
            statement,
            signature: signer.sign_statement(self.chain, scope, &statement),
        };
        let other = |digest: &Digest| hash_of("another digest", &(salt, digest));
        let mut message = message.clone();
        match &mut message {
            Message::Engine { identity, statements, .. } => {
                let me = replica.me().filter(|_| *identity == replica.identity())?;
                let own = statements.iter_mut().find(|signed| signed.statement.author == me)?;
                let statement = Statement { digest: other(&own.statement.digest), ..own.statement };
                *own = sign(Scope::Epoch(*identity), statement);
            }
            Message::Votes { identity, votes, .. } => {
                for vote in votes {
                    let statement = Statement { digest: other(&vote.statement.digest), ..vote.statement };
                    *vote = sign(Scope::Epoch(*identity), statement);
                }
            }
            Message::Abort { identity, abort, .. } => {
                // Another claim for the same slot.
                abort.claim.1 = other(&abort.claim.1);
                abort.signature = sign(Scope::Epoch(*identity), abort.statement()).signature;
            }
            Message::Batches(batches) => {
                let me = replica.me()?;
                let number = replica.epoch_start().manifest.number;
                let own = batches.iter_mut().find(|b| b.batch.author == me && b.batch.number == number)?;
                own.batch.time_ms += 1;
                for transaction in &mut own.batch.transactions {
                    if let Transaction::System(SystemTransaction::Vote(vote)) = transaction {
                        vote.decision = match vote.decision {
                            Decision::Approve => Decision::Reject("no".into()),
                            Decision::Reject(_) => Decision::Approve,
                        };
                        vote.signature = sign(Scope::Number(number), vote.statement()).signature;
                    }
                }
                let statement = own.batch.statement(own.batch.digest());
                own.signature = sign(Scope::Number(number), statement).signature;
            }
            Message::Status(status) => status.hash = other(&status.hash),
            Message::StateRoot(said) => {
                said.root = other(&said.root);
                said.signature = sign(said.scope(), said.statement()).signature;
            }
            // The lie that would hurt: less than was signed.
            Message::ReadReply { index, .. } => *index = CommitIndex(0),
            Message::Blocks(blocks) => {
                let record = blocks.blocks.last_mut()?;
                record.block.time_ms += 1;
                record.hash = link(record.parent, record.block.body());
                if let FinalityProof::Committed(certificate) = &mut blocks.proof {
                    certificate.hash = record.hash;
                }
            }
            _ => return None,
        }
        Some(message)
    }

    /// Byzantine nodes act of their own accord, now and then.
    pub(crate) fn mischief(&mut self) {
        let next_us = self.now_us + self.rng.range(20_000, 300_000);
        self.queue.push(next_us, Event::Mischief);
        let liars: Vec<_> = self.running().into_iter().filter(|node| self.nodes[*node].byzantine).collect();
        let Some(node) = self.rng.pick(&liars) else { return };
        let kinds: Vec<_> = self.nodes[node].vices.kinds.iter().copied().collect();
        match self.rng.pick(&kinds) {
            Some("replay") => self.replay_old(node),
            Some("false-certificate") => self.push_false_blocks(node),
            Some("flooding") if !self.is_calm || self.rng.chance(100) => self.flood(node),
            _ => {}
        }
    }

    fn peers_of(&self, node: usize) -> Vec<usize> {
        self.nodes[node]
            .process
            .as_ref()
            .map_or(Vec::new(), |process| process.linked.iter().copied().collect())
    }

    fn identity_at(&self, node: usize) -> Option<EpochIdentity> {
        self.nodes[node].process.as_ref().map(|process| process.replica.identity())
    }

    /// What was said before, perhaps in an earlier epoch; sometimes as if it were of this one.
    fn replay_old(&mut self, node: usize) {
        let old = &self.nodes[node].vices.old;
        let Some(message) = old.get(self.rng.below(old.len() as u64) as usize).cloned() else { return };
        let mut message = message.as_ref().clone();
        if self.rng.chance(500)
            && let Some(present) = self.identity_at(node)
        {
            match &mut message {
                Message::Engine { identity, .. }
                | Message::Votes { identity, .. }
                | Message::Abort { identity, .. } => *identity = present,
                Message::Blocks(blocks) => {
                    if let FinalityProof::Committed(certificate) = &mut blocks.proof {
                        certificate.identity = present;
                    }
                }
                _ => {}
            }
        }
        self.report.fault("replay");
        let message = Arc::new(message);
        for peer in self.peers_of(node) {
            self.send_as_is(node, peer, &message);
        }
    }

    /// Another next block for a peer, with the best certificate that can be had for it.
    fn push_false_blocks(&mut self, node: usize) {
        let peers = self.peers_of(node);
        let Some(peer) = self.rng.pick(&peers) else { return };
        let Some(blocks) = self.false_blocks(node, peer) else { return };
        self.report.fault("false-certificate");
        self.send_as_is(node, peer, &Arc::new(Message::Blocks(Box::new(blocks))));
    }

    fn false_blocks(&mut self, node: usize, peer: usize) -> Option<Blocks> {
        let replica = &self.nodes[peer].process.as_ref()?.replica;
        let (start, ledger) = (replica.epoch_start().clone(), replica.ledger().clone());
        let (identity, index) = (replica.identity(), ledger.index.next());
        let block = Block {
            index,
            time_ms: ledger.time_ms + 1,
            batches: Vec::new(),
            state_root: start.state_root.filter(|_| index.0 == 1),
            resumed: None,
        };
        let hash = link(ledger.hash, block.body());
        let record = BlockRecord {
            epoch: start.manifest.number,
            identity,
            global: GlobalIndex(start.base.0 + index.0),
            parent: ledger.hash,
            hash,
            block,
        };
        let me = self.nodes[node].process.as_ref()?.replica.me();
        let signer = self.scheme.signer(&self.nodes[node].keys);
        let own = |author| {
            let statement = vote_statement(Round::Commit, author, index, hash);
            signer.sign_statement(self.chain, Scope::Epoch(identity), &statement)
        };
        let true_one =
            self.nodes[node].disk.now.proofs.last_key_value().map(|(_, p)| p.certificate().clone());
        let repeats_own = self.rng.chance(300);
        let votes = (0..start.manifest.members.len() as u32).map(AuthorityIndex).map(|author| {
            let borrowed = true_one.as_ref().and_then(|c| c.votes.iter().find(|vote| vote.author == author));
            let signature = match borrowed {
                _ if Some(author) == me => own(author),
                Some(vote) if !repeats_own => vote.signature,
                _ => me.map_or(Signature([0; 64]), own),
            };
            // A liar that signs alone, many times over.
            let author = if repeats_own { me.unwrap_or(author) } else { author };
            CertificateVote { author, index, signature }
        });
        let votes = votes.collect();
        let certificate =
            Certificate { round: Round::Commit, identity, index, hash, votes, bodies: Vec::new() };
        let proof = FinalityProof::Committed(certificate);
        Some(Blocks { blocks: vec![record], batches: Vec::new(), proof })
    }

    fn flood(&mut self, node: usize) {
        self.report.fault("flooding");
        let Some(identity) = self.identity_at(node) else { return };
        let me = self.nodes[node].process.as_ref().and_then(|process| process.replica.me());
        let signer = self.scheme.signer(&self.nodes[node].keys);
        let peers = self.peers_of(node);
        for _ in 0..FLOOD {
            let message = match self.rng.below(6) {
                0 => {
                    let bytes = (0..self.rng.below(200)).map(|_| self.rng.below(256) as u8).collect();
                    Message::Engine { identity, payload: Some(bytes), statements: Vec::new() }
                }
                1 => Message::FetchBlocks {
                    from: GlobalIndex(1 + self.rng.below(100)),
                    epoch: EpochNumber(self.rng.below(4)),
                    phase: 0,
                },
                2 => Message::ReadQuery { nonce: self.rng.number() },
                3 => Message::FetchBatches(vec![Digest([self.rng.below(256) as u8; 32]); 8]),
                _ => {
                    let Some(author) = me else { continue };
                    let slot = Slot {
                        kind: 1 + self.rng.below(6) as u16,
                        a: self.rng.below(1 << 20),
                        b: self.rng.below(1 << 10),
                    };
                    let statement = Statement { author, slot, digest: Digest([self.rng.below(4) as u8; 32]) };
                    let signature = signer.sign_statement(self.chain, Scope::Epoch(identity), &statement);
                    let statements = vec![Signed { statement, signature }];
                    Message::Engine { identity, payload: None, statements }
                }
            };
            let message = Arc::new(message);
            for peer in &peers {
                self.send_as_is(node, *peer, &message);
            }
        }
    }
}

/// For withholding by kind.
fn kind_of(message: &Message) -> usize {
    match message {
        Message::Engine { payload: Some(_), .. } => 0,
        Message::Engine { payload: None, .. } => 1,
        Message::Batches(_) => 2,
        Message::Votes { .. } => 3,
        Message::Status(_) | Message::StateRoot(_) => 4,
        Message::System(_) => 5,
        Message::FetchBatches(_) | Message::FetchBlocks { .. } => 6,
        Message::Blocks(_) => 7,
        Message::ReadQuery { .. } | Message::ReadReply { .. } => 8,
        Message::Suspect { .. } | Message::Abort { .. } | Message::Opening { .. } => 9,
        Message::FetchPrepared { .. } | Message::Prepared(_) => 10,
        _ => 11,
    }
}

/// Damages a message, without a new signature.
fn forge(message: &Message, rng: &mut Rng) -> Message {
    let mut message = message.clone();
    let flip = |bytes: &mut [u8], rng: &mut Rng| {
        let at = rng.below(bytes.len() as u64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << rng.below(8);
        }
    };
    match &mut message {
        Message::Engine { payload, statements, .. } => {
            if let Some(payload) = payload.as_mut().filter(|_| rng.chance(500)) {
                flip(payload, rng);
            }
            if let Some(signed) = statements.first_mut().filter(|_| rng.chance(500)) {
                flip(&mut signed.statement.digest.0, rng);
            }
        }
        Message::Votes { votes, certificate, .. } => match certificate {
            Some(certificate) if rng.chance(500) => certificate.index.0 += rng.range(1, 3),
            _ => {
                if let Some(vote) = votes.first_mut() {
                    vote.statement.slot.a += rng.range(1, 3);
                }
            }
        },
        Message::Status(status) => {
            status.last_final = GlobalIndex(status.last_final.0 + rng.range(1, 50));
            status.hash = Digest([7; 32]);
        }
        Message::Batches(batches) => {
            if let Some(SignedBatch { batch, .. }) = batches.first_mut() {
                batch.time_ms += 1;
            }
        }
        Message::Blocks(blocks) => match rng.below(4) {
            0 => {
                certificate_of(&mut blocks.proof).votes.pop();
            }
            1 => {
                let certificate = certificate_of(&mut blocks.proof);
                if let Some(vote) = certificate.votes.first().copied() {
                    certificate.votes.push(vote);
                }
            }
            2 => {
                blocks.blocks.pop();
            }
            _ => {
                if let Some(record) = blocks.blocks.last_mut() {
                    record.block.batches.pop();
                }
            }
        },
        Message::Abort { abort, claim, .. } => match claim {
            Some(_) if rng.chance(300) => *claim = None,
            _ => abort.claim.0.0 += rng.range(1, 3),
        },
        Message::Opening { bundle, .. } => {
            if let Some(aborted) = bundle.aborted.first_mut() {
                match rng.below(3) {
                    0 => drop(aborted.aborts.pop()),
                    1 => aborted.claim = None,
                    _ => bundle.aborted.clear(),
                }
            }
        }
        Message::Waiting { batch, .. } => flip(&mut batch.0, rng),
        Message::StateRoot(said) => flip(&mut said.root.0, rng),
        Message::ReadReply { index, .. } => *index = CommitIndex(rng.below(index.0 + 40)),
        _ => {}
    }
    message
}

fn certificate_of(proof: &mut FinalityProof) -> &mut Certificate {
    match proof {
        FinalityProof::Committed(certificate) => certificate,
        FinalityProof::Resumed { resumption, .. } => &mut resumption.certificate,
    }
}
