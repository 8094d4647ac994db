//! Practical Byzantine fault tolerance as a Moult consensus engine.
//!
//! The protocol is that of Castro and Liskov (OSDI '99, TOCS '02), weighted by stake, over
//! digests of batches instead of requests. [`Pbft`] is the engine; [`Replica`] is generic
//! over the [`Rotation`] of leaders. It is a pure state machine: `step(now, events)`
//! returns everything it wants done, in the order in which it may be done.
//!
//! A commit index is PBFT's sequence number. Quorums come with the committee: *quorum*
//! stake is such that two quorums share an honest authority, *validity* stake always holds
//! one. The leader of view v is `schedule[v mod length]`.
//!
//! # Specification
//!
//! Slots are `(kind, a, b)`: 1 pre-prepare, 2 prepare and 3 commit at (view, sequence
//! number), 4 checkpoint at (sequence number, 0 or 1), 5 view-change and 6 new-view at
//! (view, 0). Digests of proposals, checkpoints, view-changes and new-views are SHA-256
//! under a domain of their own ([`codec`]).
//!
//! Upon holding batches, as leader:
//! - propose the oldest at the next sequence number, while that is within the window and
//!   fewer than `pipeline` proposals are not executed; while one is, not before `pace_ms`
//!   after the last, unless there is enough for a full one.
//!
//! Upon a pre-prepare of this view, in the window, with batches that are in no other slot:
//! - follow it; fetch what is not held;
//! - once everything in it is held, make it durable and send a prepare.
//!
//! Upon a pre-prepare and prepares, together of quorum stake:
//! - it is *prepared*: make the certificate durable and send a commit.
//!
//! Upon commits of quorum stake for what is prepared:
//! - it is *committed*: commit it once all before it are, and everything in it is held.
//!
//! Upon finality of the last sequence number of an interval:
//! - sign a checkpoint over the interval's proposals; a quorum makes it *stable*: the
//!   window moves up, and entries, records and slots below it are let go.
//!
//! Upon no progress for the timeout while there is work, upon word that the leader is
//! jailed, or upon a leader's refusal to sign:
//! - stop voting, make durable and send a view-change with the stable checkpoint and all
//!   certificates above it; the timeout doubles, up to 32-fold, until something commits.
//!
//! Upon view-changes to higher views of validity stake:
//! - go along, to the highest view that so much stake has reached.
//!
//! Upon view-changes of quorum stake to its view, as the leader of that view:
//! - open it with a new-view: from the highest stable checkpoint to the highest claim each
//!   sequence number gets the proposal certified in the highest view, or none.
//!
//! Upon a new-view, from whomever:
//! - check that it follows from a quorum of view-changes and that what it claims is
//!   certified, enter it, and prepare its proposals.
//!
//! Upon the retransmission timer, which runs while there is work:
//! - send the open proposals or votes again, ask again for missing batches, name to the
//!   leader what waits here, and tell all what this replica has; who hears that sends what
//!   is missing: what is decided with the commits of a quorum, whatever view it is in.
//!
//! Upon `final(k)`:
//! - propose none of the batches that it names; if k is above the last commit, go on from
//!   k: the host has brought the blocks.
//!
//! # Deviations from the paper
//!
//! - *Authentication is the host's.* Only signed statements are counted, so there are no
//!   MACs and no view-change acknowledgements (this is the signature variant).
//! - *A new-view carries headers.* It proves only the claims that win. A claim that loses
//!   needs no proof, since it changes nothing.
//! - *Checkpoints follow finality.* A replica signs one when the host has certified all up
//!   to it, not when it has executed it: what a stable checkpoint lets go can then be
//!   found with the hosts of a quorum even if every node loses its power at once.
//! - *Checkpoints without content.* A replica that was carried past part of an interval
//!   does not know its digest. It signs `(4, n, 1)`, "all up to n is final", and others
//!   join in; a quorum of either kind makes n stable.
//! - *Joining* goes to the highest view that validity stake has reached, not to the lowest
//!   one named: both are above an honest authority's, and this one is there sooner.
//! - *A leader that gives up its own view is followed at once*, to the next view only. It
//!   could stall its view anyway.
//! - *While it changes view a replica still learns* what others commit in the view that
//!   it left, also from a quorum's commits of any view. It votes for nothing, and keeps no
//!   certificate of it. (Otherwise a replica that changes view alone stays behind for good
//!   where a faulty one helped the others on and then fell silent.)
//! - *The timeout of a view change starts with quorum stake at or above the view*, so that
//!   replicas at different views meet again.
//!
//! # Invariants, and why they hold
//!
//! - *One digest a slot.* A view's pre-prepare is accepted once per sequence number and
//!   the record is durable before the prepare leaves; a checkpoint's digest is a function
//!   of what is committed; a view-change is written before it is sent, and sent again from
//!   what was written.
//! - *Agreement within a view.* Two certificates of a view for one sequence number share
//!   an honest author in pre-prepare and prepares, and it made one choice.
//! - *Agreement across views.* If something is committed in view v, quorum stake has its
//!   certificate durable. Every new-view above v rests on view-changes of quorum stake, so
//!   an honest one claims it (or a stable checkpoint above it), and by induction no higher
//!   view has a certificate for anything else. Hence a certificate is let go only for one
//!   of a higher view, or below a stable checkpoint, and only a durable one is claimed.
//! - *Bounded state.* Entries lie within the window; of each peer there is one
//!   view-change, eight checkpoint votes, 64 early votes and eight early proposals; a
//!   proposal is short enough that a new-view over a full window fits a message.
//!
//! # Persistence
//!
//! Records: proposals as accepted, certificates, the stable checkpoint, executed digests,
//! this replica's view-change, the new-view by which it entered its view. Each adds to
//! what came before, so any prefix is a state the replica was in. At each stable
//! checkpoint what still matters is written again and the rest is truncated. After a
//! restart a replica is in the same view, votes again as before, tells all what it has,
//! and repeats commits above the final one with equal content.
//!
//! # Failure semantics
//!
//! Safe with faulty stake up to total - quorum under any delay, loss and reordering, and
//! under crashes of all nodes at once; live once messages arrive within the timeout. A
//! vote that the host refuses to sign counts for nothing and is not asked for again; a
//! leader so refused gives up its view. Payloads that do not decode are ignored. Damaged
//! records are an error of `init`. Sequence numbers and times come from the host and are
//! taken to stay below 2^63.

mod checkpoint;
pub mod codec;
mod config;
mod log;
mod normal;
mod pool;
mod records;
mod recovery;
mod replica;
mod retransmit;
mod rotation;
mod view_change;

pub use config::Config;
#[cfg(feature = "planted")]
pub use config::Planted;
pub use replica::{Pbft, Replica};
pub use rotation::{Forward, Rotation};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_engine!(Pbft);
#[cfg(feature = "planted")]
pub mod planted;
