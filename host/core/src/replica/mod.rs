//! One node's replica: [`Replica::step`] takes what happened and answers with a [`Step`].
//!
//! ```text
//! submit -> batching -> (pending batches) -> ordering (engine) -> chain (assemble) -> votes
//! (prepare, commit) -> Execute;  final blocks -> ledger -> duties (check, vote, ready) -> batching
//!                                              \-> epoch (barrier, switch)
//! ```
//! One file a concern; this one holds the state they share and the order in which they run.

mod batching;
mod chain;
mod duties;
mod epoch;
mod ordering;
mod phases;
mod reads;
mod roots;
mod settings;
mod signatures;
mod stall;
mod stop;
mod sync;
mod votes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moult_crypto::{Keyring, Signer};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Slot};
use moult_types::phase::Phase;
use moult_types::{
    ChainId, Committee, EpochIdentity, GlobalIndex, HeldBatch, Manifest, Message, ProposalId, PublicKey,
    Scope, Signature, Signed, Statement,
};

use crate::governance::Ledger;
use crate::guard::{Guard, GuardRefusal, GuardState};
use crate::io::{Effect, EpochStart, Event, GuardUpdate, Input, Now, Persist, Step, Target};
use crate::kernel::Finality;
use crate::stop::StopCause;
use crate::verify::VerifyContext;

pub use batching::Wanted;
#[cfg(feature = "planted")]
pub use settings::Planted;
pub use settings::{Recovery, Settings};

use batching::{Batching, InFlight};
use duties::Duties;
use ordering::Ordering;
use phases::{Fallback, Side};
use reads::Reads;
use roots::Roots;
use stall::Stall;
use sync::Sync;
use votes::Voting;

/// How often timers of the host itself are looked at, in milliseconds.
const HOUSEKEEPING_MS: u64 = 100;

/// The present epoch.
struct Epoch {
    start: EpochStart,
    /// Of phase 0, and of the phase that this node votes in.
    first: EpochIdentity,
    identity: EpochIdentity,
    committee: Committee,
    keyring: Keyring,
    me: Option<AuthorityIndex>,
    former: Option<(EpochIdentity, Keyring)>,
}

/// The replica. See the module's documentation.
pub struct Replica {
    chain: ChainId,
    settings: Settings,
    signer: Arc<dyn Signer>,
    now: Now,
    next_housekeeping_ms: u64,
    epoch: Epoch,
    ledger: Ledger,
    finality: Finality,
    /// Latest batch times up to the top of the chain held here.
    top_times_ms: Vec<u64>,
    voting: Voting,
    fallback: Fallback,
    stall: Stall,
    guard: Guard,
    pending: BTreeMap<Digest, Arc<HeldBatch>>,
    pending_bytes: BTreeMap<AuthorityIndex, usize>,
    /// Digests that became final lately, so that a late copy is not ordered again.
    done: BTreeSet<Digest>,
    done_order: std::collections::VecDeque<Digest>,
    ordering: Ordering,
    batching: Batching,
    duties: Duties,
    sync: Sync,
    reads: Reads,
    roots: Roots,
    /// The last block that the executor reported, and its root.
    executed: (GlobalIndex, Option<Digest>),
    draining: bool,
    halted: bool,
    out: Step,
}

/// How many digests of final batches are remembered.
const DONE_MAX: usize = 65_536;

impl Replica {
    /// Takes up a node's state. The step that comes with it is carried out first.
    ///
    /// # Errors
    /// The manifest's committee or keys are invalid: text for the operator.
    pub fn new(
        recovery: Recovery,
        settings: Settings,
        signer: Arc<dyn Signer>,
        now: Now,
    ) -> Result<(Self, Step), String> {
        let former = recovery.former.as_ref();
        let former =
            former.map(|manifest| keyring_of(recovery.chain, manifest, signer.as_ref())).transpose()?;
        let epoch =
            Epoch::new(recovery.chain, recovery.epoch, signer.as_ref(), former.map(|(i, _, k)| (i, k)))?;
        let ledger = recovery.ledger.unwrap_or_else(|| {
            Ledger::at_start(&epoch.start.manifest, epoch.start.base, epoch.start.time_ms, ProposalId(1))
        });
        let fallback = Fallback::recovered(recovery.phases, recovery.guard.identity);
        let finality = Epoch::main_chain(&epoch, &fallback, &ledger);
        let stop = recovery.guard.stopped.clone();
        let stopped = recovery.signing_stopped.or_else(|| stop.as_ref().map(ToString::to_string));
        let mut replica = Self {
            chain: recovery.chain,
            now,
            next_housekeeping_ms: now.mono_ms + HOUSEKEEPING_MS,
            finality,
            top_times_ms: ledger.author_times_ms.clone(),
            voting: Voting::recovered(recovery.prepared_on_chain),
            fallback,
            stall: Stall::default(),
            guard: Guard::new(recovery.guard, stopped.is_none()),
            pending: BTreeMap::new(),
            pending_bytes: BTreeMap::new(),
            done: BTreeSet::new(),
            done_order: std::collections::VecDeque::new(),
            ordering: Ordering::default(),
            batching: Batching::default(),
            duties: Duties::default(),
            sync: Sync::default(),
            reads: Reads::default(),
            roots: Roots::default(),
            executed: (GlobalIndex(0), None),
            draining: false,
            halted: false,
            out: Step::default(),
            epoch,
            ledger,
            settings,
            signer,
        };
        replica.take_up_phase()?;
        #[cfg(feature = "planted")]
        replica.plant();
        replica.roots.is_forked = stop.is_some_and(|stop| stop.cause == StopCause::State);
        if let Some(reason) = stopped {
            replica.event(Event::SigningStopped(reason));
        }
        if recovery.fresh {
            let start = Box::new(replica.epoch.start.clone());
            let ledger = Arc::new(replica.ledger.clone());
            replica.out.durable.push(Persist::Epoch { start, expired: Vec::new(), ledger });
        }
        let start = &replica.epoch.start;
        replica.roots.begin(start.base, start.state_root);
        replica.enter_guard_epoch();
        // Above whatever is on disk: a batch of a start may be there whose count was not synced.
        let own = recovery.batches.iter().filter(|batch| replica.made(batch, recovery.former.as_ref()));
        let known = own.map(|batch| batch.batch().start).fold(replica.guard.state().start_count, u64::max);
        let count = known.saturating_add(1);
        #[cfg(feature = "planted")]
        let count = if replica.has(Planted::StartCountKept) { 1 } else { count };
        replica.note_guard(GuardUpdate::Started { count });
        for batch in recovery.batches {
            if replica.made(&batch, recovery.former.as_ref()) {
                let transactions = batch.batch().transactions.len();
                replica.batching.in_flight.insert(batch.digest, InFlight { pushed_ms: 0, transactions });
            }
            replica.hold(batch);
        }
        replica.recover_tail(recovery.tail);
        replica.recover_side(recovery.side);
        replica.announce_epoch();
        replica.propose_opening();
        replica.after_inputs();
        let step = replica.close_step();
        Ok((replica, step))
    }

    /// Batches of final blocks, oldest first, so that a late copy is not ordered again. Called
    /// after [`Replica::new`], before the first [`Replica::step`], with what the store has
    /// from the present epoch and the former one (65,536 are kept).
    pub fn remember_final(&mut self, batches: impl IntoIterator<Item = Digest>) {
        for digest in batches {
            if !self.pending.contains_key(&digest) {
                self.remember_done(digest);
            }
        }
    }

    /// The phase that this node voted in last is that of its disk.
    fn take_up_phase(&mut self) -> Result<(), String> {
        let phase = self.fallback.phase;
        self.epoch.identity = self.phases().identity(phase).map_err(|e| format!("phase {phase}: {e}"))?;
        if phase > self.fallback.main_phase {
            let (identity, window) = (self.epoch.identity, self.epoch.start.manifest.limits.window_blocks);
            let finality = Finality::new(identity, window, CommitIndex(0), identity.digest());
            self.fallback.side = Some(Side::new(finality));
        }
        Ok(())
    }

    /// Takes what happened, in order, and answers with everything that follows from it.
    pub fn step(&mut self, now: Now, inputs: Vec<Input>) -> Step {
        self.now = Now { mono_ms: self.now.mono_ms.max(now.mono_ms), wall_ms: now.wall_ms };
        if self.halted {
            return Step::default();
        }
        for input in inputs {
            self.input(input);
        }
        self.after_inputs();
        self.close_step()
    }

    /// When `step` wants to be called with [`Input::Wake`] at the latest (monotonic).
    pub fn next_wake_ms(&self) -> u64 {
        let next_ask_ms = self.ordering.asks.first_key_value().map(|((at, _), _)| *at);
        let own = [self.next_close_ms(), self.next_tick_ms(), self.next_prepare_ms(), next_ask_ms];
        let timers = own.into_iter().chain([self.ordering.next_timer_ms()]);
        timers.flatten().fold(self.next_housekeeping_ms, u64::min)
    }

    /// Replicated state after the last final block.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The present epoch.
    pub fn epoch_start(&self) -> &EpochStart {
        &self.epoch.start
    }

    /// The phase of the present epoch that this node votes in, and that of the chain that it
    /// executes.
    pub fn phase(&self) -> (Phase, Phase) {
        (self.fallback.phase, self.fallback.main_phase)
    }

    /// Identity of the present epoch, in the phase that this node votes in.
    pub fn identity(&self) -> EpochIdentity {
        self.epoch.identity
    }

    /// This node's place in the present committee.
    pub fn me(&self) -> Option<AuthorityIndex> {
        self.epoch.me
    }

    /// The signer guard's memory.
    pub fn guard_state(&self) -> &GuardState {
        self.guard.state()
    }

    /// Own batches that are not final yet and transactions that wait for one: nothing of
    /// this node's clients is under way when both are 0.
    pub fn under_way(&self) -> (usize, usize) {
        (self.batching.in_flight.len(), self.batching.queued())
    }

    /// Whether the next step waits for [`Input::Executed`]: the epoch's last block is final.
    /// Otherwise that is only passed on to peers, and may come along with the next input.
    pub fn awaits_execution(&self) -> bool {
        self.closing()
    }

    /// Whether transactions are refused, upon [`Input::Drain`].
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Message { from, message } => {
                let (message, held) = message.into_parts();
                self.message(from, message, held);
            }
            Input::Early { from, message } => self.on_early(from, message),
            Input::Peer { key, up, rtt_us } => self.peer(key, up, rtt_us),
            Input::Submit(transactions) => self.submit(transactions),
            Input::Stored(batches) => batches.into_iter().for_each(|batch| self.receive_batch(batch)),
            Input::Read { id } => self.reads.waiting.push(id),
            Input::Executed { global, state_root } => self.on_executed(global, state_root),
            Input::Engine { identity, engine, records } => self.start_engine(identity, engine, records),
            Input::ModulesChecked { proposal, checks } => self.duties.on_checked(proposal, checks),
            Input::Verdict { proposal, verdict } => self.on_verdict(proposal, verdict),
            Input::Propose(proposal) => self.propose(*proposal),
            Input::Withdraw(id) => self.withdraw(id),
            Input::OperatorVote(id, decision) => self.duties.on_operator_vote(id, decision),
            Input::Wake => {}
            Input::Drain => {
                self.draining = true;
                self.ordering.events.push(moult_sdk::engine::Event::Draining);
            }
        }
    }

    fn message(&mut self, from: PublicKey, message: Message, held: Vec<Arc<HeldBatch>>) {
        self.note_heard(&from);
        match message {
            Message::Engine { identity, payload, statements } => {
                self.on_engine_message(from, identity, payload, statements);
            }
            Message::Batches(_) => held.into_iter().for_each(|batch| self.receive_batch(batch)),
            Message::Votes { identity, votes, certificate } => self.on_votes(identity, votes, certificate),
            Message::Status(status) => self.on_status(from, status),
            Message::System(system) => self.relay(system),
            Message::Blocks(blocks) => self.on_blocks(from, *blocks),
            Message::ReadQuery { nonce } => self.on_read_query(from, nonce),
            Message::ReadReply { nonce, epoch, phase, index } => {
                self.on_read_reply(from, nonce, (epoch, phase), index);
            }
            Message::Waiting { identity, batch, is_question } => {
                self.on_waiting(from, identity, batch, is_question);
            }
            Message::Suspect { identity } => self.on_suspect(from, identity),
            Message::Abort { identity, abort, claim } => self.on_abort(identity, abort, claim.map(|c| *c)),
            Message::Opening { epoch, phase, bundle } => self.on_opening(epoch, phase, bundle),
            Message::FetchPrepared { from: first, to } => self.on_fetch_prepared(from, first, to),
            Message::Prepared(answer) => self.on_prepared(from, *answer),
            Message::StateRoot(said) => self.on_state_root(&said),
            // Served by the node from its store.
            Message::FetchBatches(_)
            | Message::FetchBlocks { .. }
            | Message::FetchModule { .. }
            | Message::ModulePart { .. } => {}
        }
    }

    /// What follows from the inputs taken, until nothing follows any more.
    fn after_inputs(&mut self) {
        self.run_timers();
        self.advance_chain();
        self.do_duties();
        self.place_read_marker();
        self.close_batches();
        for _ in 0..ordering::ROUNDS_MAX {
            if !self.run_engine() {
                break;
            }
            self.advance_chain();
            self.do_duties();
            self.place_read_marker();
            self.close_batches();
        }
        self.mind_roots();
        self.send_votes_signed();
        self.ask_missing();
        self.ask_reads();
        self.tell_status();
    }

    fn run_timers(&mut self) {
        self.fire_engine_timers();
        if self.now.mono_ms >= self.next_housekeeping_ms {
            self.next_housekeeping_ms = self.now.mono_ms + HOUSEKEEPING_MS;
            self.resend_votes();
            self.resend_batches();
            self.ordering.told_again.clear();
            self.housekeep_stall();
            self.ask_point();
            self.housekeep_sync();
            self.housekeep_reads();
            self.housekeep_roots();
        }
    }

    /// Whether the epoch's last block is final and only the executor is waited for.
    fn closing(&self) -> bool {
        #[cfg(feature = "planted")]
        if self.has(Planted::PastBarrier) {
            return false;
        }
        self.ledger.is_at_barrier()
    }

    #[cfg(feature = "planted")]
    fn plant(&mut self) {
        let (is_short, is_counting_heads) =
            (self.has(Planted::QuorumMinusOne), self.has(Planted::QuorumOfHeads));
        let main = &mut self.finality;
        (main.is_short_of_quorum, main.is_counting_heads) = (is_short, is_counting_heads);
        let voted = self.voted_mut();
        (voted.is_short_of_quorum, voted.is_counting_heads) = (is_short, is_counting_heads);
        self.guard.signs_after_abort = self.has(Planted::CommitAfterAbort);
        self.ledger.planted = self.settings.planted;
    }

    #[cfg(feature = "planted")]
    fn has(&self, bug: Planted) -> bool {
        self.settings.planted == Some(bug)
    }

    fn event(&mut self, event: Event) {
        self.out.release.push(Effect::Event(event));
    }

    fn send(&mut self, to: Target, message: Message) {
        self.out.release.push(Effect::Send { to, message: Arc::new(message) });
    }

    /// Whether this node made a batch: in the present epoch or in the former one.
    fn made(&self, batch: &HeldBatch, former: Option<&Manifest>) -> bool {
        let number = batch.batch().number;
        let present = &self.epoch.start.manifest;
        let manifest =
            [Some(present), former].into_iter().flatten().find(|manifest| manifest.number == number);
        let author = manifest.and_then(|manifest| manifest.members.get(batch.batch().author.as_usize()));
        author.is_some_and(|member| member.key == self.signer.public_key())
    }

    /// Every member but this node.
    fn members(&self) -> Target {
        Target::Keys(self.keys_of(self.epoch.committee.indices()))
    }

    fn keys_of(&self, indices: impl Iterator<Item = AuthorityIndex>) -> Vec<PublicKey> {
        let me = self.signer.public_key();
        indices
            .filter_map(|i| self.epoch.committee.member(i))
            .map(|m| m.key)
            .filter(|key| *key != me)
            .collect()
    }

    fn note_guard(&mut self, update: GuardUpdate) {
        let update = self.guard.note(update);
        self.out.durable.push(Persist::Guard(update));
    }

    /// Signs a slot of the host's that is kept one by one.
    fn sign_host(&mut self, scope: Scope, statement: &Statement) -> Result<Signature, GuardRefusal> {
        let update = self.guard.slot(scope, statement.slot, statement.digest)?;
        self.out.durable.extend(update.map(Persist::Guard));
        Ok(self.signer.sign_statement(self.chain, scope, statement))
    }

    /// Signs a slot of the engine's.
    fn sign_engine(&mut self, slot: Slot, digest: Digest) -> Result<Signed, GuardRefusal> {
        let author = self.epoch.me.ok_or(GuardRefusal::Disabled)?;
        if self.guard.state().identity != self.epoch.identity {
            return Err(GuardRefusal::Disabled);
        }
        let update = self.guard.engine_slot(slot, digest)?;
        self.out.durable.extend(update.map(Persist::Guard));
        let statement = Statement { author, slot, digest };
        let scope = Scope::Epoch(self.epoch.identity);
        let signature = self.signer.sign_statement(self.chain, scope, &statement);
        Ok(Signed { statement, signature })
    }

    fn verify_context(&self) -> VerifyContext {
        VerifyContext {
            chain: self.chain,
            number: self.epoch.start.manifest.number,
            first: self.epoch.first,
            base: self.epoch.start.base,
            phase: self.fallback.phase,
            identity: self.epoch.identity,
            keyring: self.epoch.keyring.clone(),
            committee: self.epoch.committee.clone(),
            former: self.epoch.former.clone(),
            limits: self.epoch.start.manifest.limits.clone(),
            #[cfg(feature = "planted")]
            planted: self.settings.planted,
        }
    }

    /// What the step comes to. Where the key could not sign, some signature in it is none: nothing
    /// of it is written or sent, and what was made durable before has its signatures.
    fn close_step(&mut self) -> Step {
        if let Some(reason) = self.signer.failure() {
            self.out = Step::default();
            self.halt(format!("the key cannot sign: {reason}"));
        }
        std::mem::take(&mut self.out)
    }

    /// Stops for good: going on could break a promise.
    fn halt(&mut self, reason: String) {
        self.halted = true;
        self.guard.disable();
        self.out.release.push(Effect::Halt(reason));
    }
}

impl Epoch {
    fn new(
        chain: ChainId,
        start: EpochStart,
        signer: &dyn Signer,
        former: Option<(EpochIdentity, Keyring)>,
    ) -> Result<Self, String> {
        let (identity, committee, keyring) = keyring_of(chain, &start.manifest, signer)?;
        let me = committee.index_of_key(&signer.public_key());
        Ok(Self { start, first: identity, identity, committee, keyring, me, former })
    }

    /// The chain whose blocks are executed, after its last final block.
    fn main_chain(epoch: &Self, fallback: &Fallback, ledger: &Ledger) -> Finality {
        let window = epoch.start.manifest.limits.window_blocks;
        match fallback.resume_block() {
            // No block of the fallback is final yet.
            Some(block) if block.identity != ledger.identity => {
                Finality::new(block.identity, window, block.block.index, block.hash)
            }
            _ => Finality::new(ledger.identity, window, ledger.commit, ledger.hash),
        }
    }
}

fn keyring_of(
    chain: ChainId,
    manifest: &Manifest,
    signer: &dyn Signer,
) -> Result<(EpochIdentity, Committee, Keyring), String> {
    let number = manifest.number;
    let committee = manifest.committee().map_err(|e| format!("the committee of epoch {number}: {e}"))?;
    let keyring =
        signer.keyring(chain, &committee).map_err(|e| format!("the committee of epoch {number}: {e}"))?;
    Ok((manifest.identity(), committee, keyring))
}
