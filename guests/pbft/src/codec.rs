//! The messages of the protocol in a fixed layout, and the digests that are signed.
//!
//! Integers are big-endian, lists carry a 32-bit count. Decoding is strict: every byte is
//! used, lists are in their one canonical order, and a count is checked against the bytes
//! that are left before anything is reserved for it. So `decode(encode(x)) = x`, and no
//! two byte strings decode to one message.

use std::sync::Arc;

use moult_sdk::{AuthorityIndex, Digest, Slot};
use sha2::{Digest as _, Sha256};

/// A list of batches as proposed; shared by what refers to it.
pub type Batches = Arc<[Digest]>;

/// Slot of a pre-prepare at (view, sequence number).
pub const PRE_PREPARE: u16 = 1;
/// Slot of a prepare at (view, sequence number).
pub const PREPARE: u16 = 2;
/// Slot of a commit at (view, sequence number).
pub const COMMIT: u16 = 3;
/// Slot of a checkpoint at (sequence number, 0).
pub const CHECKPOINT: u16 = 4;
/// Slot of a view-change at (new view, 0).
pub const VIEW_CHANGE: u16 = 5;
/// Slot of a new-view at (view, 0).
pub const NEW_VIEW: u16 = 6;

/// Names a slot.
pub const fn slot(kind: u16, a: u64, b: u64) -> Slot {
    Slot { kind, a, b }
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// A leader's proposal; its pre-prepare comes as a statement.
    Proposal(Proposal),
    /// A replica gives up its view.
    ViewChange(ViewChange),
    /// A new leader opens its view.
    NewView(NewView),
    /// What a replica has, so that others can send what it lacks.
    Status(Status),
    /// Statements alone, more than one.
    Votes,
    /// Batches that wait at the sender and that the leader may not know of.
    Wanted(Batches),
    /// A proposal that a quorum has committed, with its commits.
    Decided(Proposal),
}

/// What the leader of `view` wants at `seq`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// View.
    pub view: u64,
    /// Sequence number: the commit index.
    pub seq: u64,
    /// In order of execution; empty for a hole.
    pub batches: Batches,
}

/// Says that a certificate for `digest` at (`view`, `seq`) is held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Claim {
    /// Sequence number.
    pub seq: u64,
    /// View in which it was prepared.
    pub view: u64,
    /// Digest of the proposal.
    pub digest: Digest,
}

/// The signed part of a view-change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The view to go to.
    pub view: u64,
    /// Last stable checkpoint.
    pub stable: u64,
    /// Its digest; zero for checkpoint 0.
    pub stable_digest: Digest,
    /// What is prepared above it, by rising sequence number.
    pub claims: Vec<Claim>,
}

/// A view-change: the header and, claim by claim, the batches of the proposal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewChange {
    /// What is signed.
    pub header: Header,
    /// As many as there are claims; each is bound by the digest in its claim.
    pub bodies: Vec<Batches>,
}

/// A new-view: a quorum of view-changes and what follows from them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewView {
    /// The view that it opens.
    pub view: u64,
    /// By rising author.
    pub changes: Vec<(AuthorityIndex, Header)>,
    /// The proposals from the highest stable checkpoint of the changes up to the highest
    /// claim, without gaps; empty for a hole.
    pub bodies: Vec<Batches>,
}

/// What a replica has. Not signed: it only makes others send again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// The view it is in or goes to.
    pub view: u64,
    /// The view it last entered.
    pub installed: u64,
    /// Last stable checkpoint.
    pub stable: u64,
    /// Last commit.
    pub executed: u64,
    /// Highest sequence number with a proposal.
    pub high: u64,
}

impl Payload {
    /// The highest view or sequence number in the message.
    pub(crate) fn highest_number(&self) -> u64 {
        match self {
            Self::Proposal(p) | Self::Decided(p) => p.view.max(p.seq),
            Self::ViewChange(change) => change.header.highest_number(),
            Self::NewView(new_view) => {
                let headers = new_view.changes.iter().map(|(_, header)| header.highest_number());
                headers.fold(new_view.view, u64::max)
            }
            Self::Status(s) => s.view.max(s.installed).max(s.stable).max(s.executed).max(s.high),
            Self::Votes | Self::Wanted(_) => 0,
        }
    }
}

/// Digest of a proposal: what pre-prepares, prepares and commits are about.
pub fn proposal_digest(batches: &[Digest]) -> Digest {
    let mut hasher = hasher(b"moult-pbft/proposal/1");
    hasher.update((batches.len() as u64).to_be_bytes());
    batches.iter().for_each(|b| hasher.update(b.0));
    Digest(hasher.finalize().into())
}

/// Digest of a checkpoint at `seq`: the proposals of the interval that ends there.
pub fn checkpoint_digest(seq: u64, proposals: impl Iterator<Item = Digest>) -> Digest {
    let mut hasher = hasher(b"moult-pbft/checkpoint/1");
    hasher.update(seq.to_be_bytes());
    proposals.for_each(|p| hasher.update(p.0));
    Digest(hasher.finalize().into())
}

impl Header {
    fn highest_number(&self) -> u64 {
        let claims = self.claims.iter().map(|claim| claim.view.max(claim.seq));
        claims.fold(self.view.max(self.stable), u64::max)
    }

    /// What a view-change's statement signs.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        put_header(&mut bytes, self);
        let mut hasher = hasher(b"moult-pbft/view-change/1");
        hasher.update(&bytes);
        Digest(hasher.finalize().into())
    }
}

/// What a new-view's statement signs, from the whole payload.
pub fn new_view_digest(payload: &[u8]) -> Digest {
    let mut hasher = hasher(b"moult-pbft/new-view/1");
    hasher.update(payload);
    Digest(hasher.finalize().into())
}

/// Whether the payload is of this epoch, without decoding it.
pub fn is_of_epoch(payload: &[u8], epoch: u64) -> bool {
    payload.get(1..9) == Some(&epoch.to_be_bytes()[..])
}

/// Encodes a message of an epoch.
pub fn encode(epoch: u64, payload: &Payload) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    let tag = match payload {
        Payload::Proposal(_) => 1,
        Payload::ViewChange(_) => 2,
        Payload::NewView(_) => 3,
        Payload::Status(_) => 4,
        Payload::Votes => 5,
        Payload::Wanted(_) => 6,
        Payload::Decided(_) => 7,
    };
    out.push(tag);
    put_u64(&mut out, epoch);
    match payload {
        Payload::Proposal(p) | Payload::Decided(p) => {
            put_u64(&mut out, p.view);
            put_u64(&mut out, p.seq);
            put_batches(&mut out, &p.batches);
        }
        Payload::ViewChange(c) => {
            put_header(&mut out, &c.header);
            c.bodies.iter().for_each(|b| put_batches(&mut out, b));
        }
        Payload::NewView(n) => put_new_view(&mut out, n),
        Payload::Status(s) => {
            [s.view, s.installed, s.stable, s.executed, s.high].iter().for_each(|v| put_u64(&mut out, *v));
        }
        Payload::Votes => {}
        Payload::Wanted(batches) => put_batches(&mut out, batches),
    }
    out
}

/// Decodes a message of an epoch; `None` for anything that [`encode`] does not make.
pub fn decode(epoch: u64, bytes: &[u8]) -> Option<Payload> {
    let mut r = Reader::new(bytes);
    let tag = r.u8()?;
    if r.u64()? != epoch {
        return None;
    }
    let payload = match tag {
        1 => Payload::Proposal(r.proposal()?),
        2 => {
            let header = r.header()?;
            let bodies = r.bodies(header.claims.len())?;
            Payload::ViewChange(ViewChange { header, bodies })
        }
        3 => Payload::NewView(r.new_view()?),
        4 => Payload::Status(Status {
            view: r.u64()?,
            installed: r.u64()?,
            stable: r.u64()?,
            executed: r.u64()?,
            high: r.u64()?,
        }),
        5 => Payload::Votes,
        6 => Payload::Wanted(r.batches()?),
        7 => Payload::Decided(r.proposal()?),
        _ => return None,
    };
    r.done().then_some(payload)
}

fn hasher(domain: &[u8]) -> Sha256 {
    let mut hasher = Sha256::new();
    hasher.update([domain.len() as u8]);
    hasher.update(domain);
    hasher
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Lists are bounded far below this by [`crate::Config`] and the host; the count of one
/// that is not would decode as something else, so it is cut to nothing that decodes.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

pub(crate) fn put_batches(out: &mut Vec<u8>, batches: &[Digest]) {
    put_count(out, batches.len());
    batches.iter().for_each(|b| out.extend_from_slice(&b.0));
}

pub(crate) fn put_header(out: &mut Vec<u8>, header: &Header) {
    put_u64(out, header.view);
    put_u64(out, header.stable);
    out.extend_from_slice(&header.stable_digest.0);
    put_count(out, header.claims.len());
    for claim in &header.claims {
        put_u64(out, claim.seq);
        put_u64(out, claim.view);
        out.extend_from_slice(&claim.digest.0);
    }
}

fn put_new_view(out: &mut Vec<u8>, new_view: &NewView) {
    put_u64(out, new_view.view);
    put_count(out, new_view.changes.len());
    for (author, header) in &new_view.changes {
        out.extend_from_slice(&author.0.to_be_bytes());
        put_header(out, header);
    }
    put_count(out, new_view.bodies.len());
    new_view.bodies.iter().for_each(|b| put_batches(out, b));
}

/// Takes values off the front of bytes that nobody vouches for.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest)
    }

    /// A count of things that take at least `each` bytes.
    pub(crate) fn count(&mut self, each: usize) -> Option<usize> {
        let count = usize::try_from(u32::from_be_bytes(self.array()?)).ok()?;
        (count.checked_mul(each)? <= self.rest.len()).then_some(count)
    }

    fn proposal(&mut self) -> Option<Proposal> {
        Some(Proposal { view: self.u64()?, seq: self.u64()?, batches: self.batches()? })
    }

    pub(crate) fn batches(&mut self) -> Option<Batches> {
        let count = self.count(32)?;
        (0..count).map(|_| self.digest()).collect()
    }

    pub(crate) fn bodies(&mut self, count: usize) -> Option<Vec<Batches>> {
        (0..count).map(|_| self.batches()).collect()
    }

    pub(crate) fn header(&mut self) -> Option<Header> {
        let (view, stable, stable_digest) = (self.u64()?, self.u64()?, self.digest()?);
        if stable == 0 && stable_digest != Digest::ZERO {
            return None;
        }
        let count = self.count(48)?;
        let mut claims = Vec::with_capacity(count);
        let mut last = stable;
        for _ in 0..count {
            let claim = Claim { seq: self.u64()?, view: self.u64()?, digest: self.digest()? };
            if claim.seq <= last {
                return None;
            }
            last = claim.seq;
            claims.push(claim);
        }
        Some(Header { view, stable, stable_digest, claims })
    }

    pub(crate) fn new_view(&mut self) -> Option<NewView> {
        let view = self.u64()?;
        let count = self.count(56)?;
        let mut changes: Vec<(AuthorityIndex, Header)> = Vec::with_capacity(count);
        for _ in 0..count {
            let author = AuthorityIndex(u32::from_be_bytes(self.array()?));
            if changes.last().is_some_and(|(last, _)| *last >= author) {
                return None;
            }
            changes.push((author, self.header()?));
        }
        let count = self.count(4)?;
        Some(NewView { view, changes, bodies: self.bodies(count)? })
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn done(&self) -> bool {
        self.rest.is_empty()
    }
}
