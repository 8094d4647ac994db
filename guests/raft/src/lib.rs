//! Raft as a Moult consensus engine, for committees whose authorities crash and do not lie.
//!
//! The protocol is that of Ongaro and Ousterhout (ATC '14) with the pre-vote, check-quorum and
//! leadership transfer of Ongaro's thesis, weighted by stake, over digests of batches instead
//! of commands. [`Raft`] is the engine: a pure state machine whose `step(now, events)` returns
//! everything it wants done, in the order in which it may be done.
//!
//! An entry of the log is a commit of the world: its index is the commit index, its content a
//! list of batches. A quorum is stake of at least `committee.quorum`, as handed in.
//!
//! # Specification
//!
//! Upon silence of the leader for the election timeout (and at once, as the first of the
//! schedule, when an epoch begins):
//! - ask all for a *pre-vote*; with a quorum of them enter the next term, vote for oneself, make
//!   that durable and ask for votes; with a quorum of those lead.
//!
//! Upon a request for a pre-vote or a vote:
//! - refuse who has a log that is less up-to-date, and anybody while the leader was heard
//!   within the lease (unless that leader hands over); vote once a term, durably.
//!
//! Upon leading a term:
//! - append an entry: of what waits, or an empty one. With it, all before it is committed;
//!   the gauge `is_leader` is 1 once all of that is handed to the host.
//!
//! Upon holding batches that are in no entry, as leader:
//! - append the oldest, several an entry and several entries in flight: fewer than `pipeline`
//!   above the commit index and `window` above the last final one.
//!
//! Upon an append:
//! - take its entries over in order, as far as all their batches are held, durably, in place
//!   of what conflicts; fetch what is not held; acknowledge what is taken over.
//!
//! Upon an entry of this term with a quorum, as leader, or upon the leader's commit index:
//! - commit it and all before it.
//!
//! Upon a heartbeat's turn, as leader:
//! - send everybody an append, if only an empty one; step down if no quorum was heard within
//!   the lease. Entries not confirmed within the send timeout are sent again.
//!
//! Upon `draining`, or upon word that it is jailed, as leader:
//! - propose nothing more, and tell the follower that has everything to stand at once.
//!
//! # Reads
//!
//! The host serves linearizable reads for every engine from what a quorum signed, without an
//! entry and without a leader's clock. So this engine has no read index, and its lease decides
//! only who is listened to: no read and no commit depends on a clock.
//!
//! # Deviations from the paper
//!
//! - *Nothing is signed.* The transport authenticates senders, and what is final the host
//!   certifies by votes of its own.
//! - *An entry enters a log only where its batches are held*; until then it is staged, in
//!   memory. A leader so holds the payload of all its log, and a quorum that of every commit.
//! - *No snapshots.* The host brings final blocks to a node that is behind; a leader whose log
//!   begins too late only says at which position it begins (next section).
//! - *Timeouts are not random.* The seed orders the authorities anew in every term and gives
//!   each its own place within half an election timeout. Two candidates at once are then rare
//!   without being impossible, and a run repeats.
//! - *Up to `retained` final entries stay*, in the log and in the records, though final means
//!   that the host has them: a follower a little behind is served from them, and after a loss
//!   of power the host may not know any more that they are final (its mark is not synced).
//!
//! # What `final` may change
//!
//! `final(k)` is a certificate: k and all below are committed, and the host has the content.
//! The engine does not learn the content, nor the term at k. So it changes nothing in term,
//! vote and log. It does three things:
//!
//! 1. Commits at or below k are not handed to the host (any more).
//! 2. Entries that are final *and* known to be committed by the word of a leader leave the log
//!    in the end. The base is then a position, (term, index), that was committed as such.
//! 3. A leader's append whose `prev` is where its log begins, at or below k, is accepted though
//!    this log does not have `prev`: the log becomes empty with `prev` as its base. Indices at
//!    or below the base count as equal from then on, since what is there is final.
//!
//! *A log that ends below k* is therefore an ordinary log that is short. It votes by its own
//! position (last term, last index), which never claims more than it has. It does not stand:
//! somebody committed k, so a quorum has a log that is ahead. Elected nevertheless, by votes of
//! long ago, it does not lead. It acknowledges entries once 3. or an ordinary append has put it
//! in line with the leader.
//!
//! *The election restriction holds.* A voter's position must not fall below that of anything it
//! acknowledged. 1. and 2. do not touch it. 3. is the plain append of the leader's log from
//! index 1 up to `prev`, with content that need not be sent: in Raft a follower that lacks `prev`
//! ends with exactly the leader's log up to there, and so it does here. If `prev` is the
//! committed entry, or the leader's term is at least that in which k was committed, this is
//! all there is to say. The other case is a stale leader, of term s, whose entry at `prev` never
//! was committed, with a follower that was told of k by the host and has not heard of a term
//! above s. Then index `prev` was committed in a term c above s, by a quorum that had entered c
//! before. So (a) nothing of the stale leader gets a quorum any more: in any quorum some member
//! entered c before `prev` was final anywhere, and refuses s from then on, and what it
//! acknowledged before, it had. (b) The follower itself acknowledged nothing in a term above s,
//! so it is none of those on whom the commit in c rests. (c) Its position is of a term at most
//! s, so it wins no election against that quorum. (d) The leader of c, or a later one, finds
//! it with an equal base index, compares the entries above, and replaces them.
//!
//! *Acknowledged indices at or below the base* may be the follower's word for entries that it
//! never saw. They are final, so no leader needs that word to commit them; for a stale one (a)
//! holds.
//!
//! *A log that never had an entry* stands and votes with (0, k): term 0 is below that of every
//! entry, so that is no claim to any. If a quorum is like that, nothing was ever committed
//! through these logs, and its leader begins at k + 1.
//!
//! # Invariants, and why they hold
//!
//! - *One leader a term.* One vote a term; the record is in the durable part of the step that
//!   sends it, and two quorums meet.
//! - *Log matching.* A leader only appends to its log; a follower takes an entry over only
//!   after one that it has compared, or that is at or below its base.
//! - *A leader has all that is committed.* An entry is acknowledged when it is durable, and
//!   counted in its own term only (figure 8); a quorum of voters compares positions.
//! - *A batch is ordered once*, as long as it is in sight: a leader proposes what is in no entry
//!   of its log, and remembers 65,536 that have left it. Batches that waited when the log was
//!   carried past entries unseen are *in doubt*: nobody proposes them for 16 election timeouts.
//! - *Bounded state.* The log and the stage lie within `retained` below and twice `window` above
//!   the last final index; everything else is bounded by the committee or by a constant.
//!
//! # Persistence
//!
//! Records: term and vote; the base; entries from an index on. Each is one change, written in
//! the order of the changes, so any prefix is a state in which the node was. Now and then what
//! still matters is written again, which changes nothing where the former records are still
//! there, and the rest is truncated. The commit index is learnt again.
//!
//! # Failure semantics
//!
//! Safe under any delay, loss, repetition and reordering and under crashes of all nodes at once,
//! as long as records are kept; not safe against liars. Live once a quorum is up, its messages
//! arrive within half of the send timeout, and one of its members is heard by the others. After
//! a leader's death the next commit comes within 1.5 election timeouts and three round trips,
//! if the candidate's messages are not lost. Payloads that do not decode are ignored.
//! Damaged records are an error of `init`. Committees of even size are accepted and shown by a
//! gauge: they tolerate no more faults than with one authority less. A round trip that is too
//! long for the send timeout is refused where the configuration names it (`round_trip_ms`), and
//! shown by a gauge when it is measured.

pub mod codec;
mod config;
mod election;
mod follower;
mod leader;
mod log;
mod pool;
mod progress;
mod raft;
mod records;
mod recovery;
mod timing;
mod types;

#[cfg(feature = "planted")]
pub use config::Planted;
pub use config::{Config, Preset};
pub use raft::Raft;
pub use types::{Batches, Entry, Position, Term};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_engine!(Raft);
