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
//!   above the commit index and `window` above the last final one; while one is not committed, not
//!   before `pace_ms` have passed since the last, unless there is enough for a full one; and
//!   the first batch waits a little for as many as the last entry had.
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
//!    in the end; the position of the last of them becomes its base.
//! 3. A leader's append whose `prev` is the base of its log, at or below k, is accepted though
//!    this log does not have `prev`: the log becomes empty, with `prev` as its base. Above k it
//!    is refused like any other append that does not fit, until the host has caught up.
//!
//! *A log that ends below k* is therefore an ordinary log that is short. It votes by its own
//! position (last term, last index), and never claims what it does not have. It does not stand:
//! k was committed, so a quorum is ahead of it. Elected nevertheless, by votes that were long on
//! their way, it does not lead. It acknowledges entries once an append, or 3., has put it in
//! line with the leader.
//!
//! *The election restriction holds*, since no base is made up from k. By 2. a base (term, index)
//! was committed as such; by 3. it is the base of another log. So 3. is the installation of a
//! snapshot of which the host brings the content, and nothing is said of a term that only
//! `final` told of. Whoever has a base has entered the term in which it was committed, or a
//! later one, and so have all leaders that it listens to: their logs contain the base, and to
//! count all at or below it as equal is right. Positions rise and fall as in Raft: `final` moves
//! none, and after 3. a node has what the leader has up to `prev`.
//!
//! *A log that never had an entry* stands and votes with (0, k), and leads from k + 1 on. That
//! claims no entry: term 0 is below that of each. Elected by a quorum of such logs, its leader
//! knows that nothing was committed through them up to its term. If it was in a later term, by
//! then, its followers are not of the quorum on which that rests and win no election against
//! it; the later leader finds their base to be final, and replaces what is above.
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
//!   of its log and not final, by the host's word; of those it remembers 65,536. After a start
//!   it proposes nothing until the host has named what is final up to the base.
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
