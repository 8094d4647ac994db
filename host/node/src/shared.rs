//! What the node's threads and tasks share: channels, the view, and who waits for what.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moult_core::execution::Receipt;
use moult_core::io::Refusal;
use moult_core::verify::VerifyContext;
use moult_core::{Input, Now};
use moult_crypto::NodeKey;
use moult_net::Network;
use moult_replay::{Recorder, Taps};
use moult_store::{Store, WorkingState, WriterStats};
use moult_types::{AuthorityId, ChainId, ClientTransaction, Digest, GlobalIndex, TransactionId};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::backup::Backups;
use crate::config::NodeConfig;
use crate::executor::Running;
use crate::intake::{Full, Intake};
use crate::metrics::Metrics;
use crate::modules::Modules;
use crate::view::View;

/// Sessions for clients without a name.
const ANONYMOUS_SESSIONS: u64 = 16;
/// Numbers in a row that one of them gives: what comes in together shares few pages of receipts,
/// each of which is read, hashed and written whole.
const ANONYMOUS_RUN: u64 = 64;

/// The end of a write as its client is told.
pub(crate) type WriteResult = Result<Receipt, Refusal>;

/// The end of one write of many, by its number; nothing where nobody will be told.
pub(crate) type Told = (u64, Option<WriteResult>);

/// Who waits for a write.
enum Waiter {
    One(oneshot::Sender<WriteResult>),
    Many(mpsc::UnboundedSender<Told>, u64),
}

impl Waiter {
    /// Nothing: what became of the write is not known here.
    fn tell(self, result: Option<WriteResult>) {
        // Whoever has gone needs no answer.
        match (self, result) {
            (Self::One(sender), Some(result)) => drop(sender.send(result)),
            (Self::One(_), None) => {}
            (Self::Many(sender, number), result) => drop(sender.send((number, result))),
        }
    }
}

pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) keys: NodeKey,
    pub(crate) authority: AuthorityId,
    pub(crate) chain: ChainId,
    pub(crate) store: Store,
    /// What the executor executed; changed by it alone.
    pub(crate) state: Arc<WorkingState>,
    pub(crate) modules: Modules,
    pub(crate) backups: Backups,
    /// Records what the engine is fed, if the configuration says so.
    pub(crate) recorder: Option<Recorder>,
    /// Shadow runs beside the engine.
    pub(crate) taps: Arc<Taps>,
    pub(crate) metrics: Metrics,
    pub(crate) network: OnceLock<Network>,
    pub(crate) verify: RwLock<Option<Arc<VerifyContext>>>,
    /// Bounded: peers and clients wait while it is full.
    inputs: mpsc::Sender<Input>,
    /// Transactions that come one by one.
    pub(crate) intake: Intake,
    /// Answers to the replica's own questions: their number is bounded by the questions.
    answers: mpsc::UnboundedSender<Input>,
    view: RwLock<View>,
    running: RwLock<Option<Arc<Running>>>,
    /// Of the log thread, once it runs.
    pub(crate) log_stats: OnceLock<Arc<WriterStats>>,
    writes: Mutex<BTreeMap<TransactionId, Vec<Waiter>>>,
    /// The last block that is executed here, for those who follow the chain.
    pub(crate) executed: watch::Sender<GlobalIndex>,
    position: Position,
    reads: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
    next_read: AtomicU64,
    next_anonymous: AtomicU64,
    /// Begins the names of this start's sessions for clients without a name.
    anonymous: [u8; 16],
    started: Instant,
    stopping: AtomicBool,
    /// Held to read by who hands a transaction in, to write by who stops the node: whatever was
    /// handed in before is in the replica's queue or the intake then, and nothing comes after.
    handing_in: RwLock<()>,
    fatal: Mutex<Option<String>>,
    /// Told when `fatal` is set.
    pub(crate) ended: Notify,
    /// An epoch has begun that gives the authority its next key.
    key_due: AtomicBool,
}

/// The two queues into the replica, as its thread sees them.
pub(crate) struct Queues {
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) answers: mpsc::UnboundedReceiver<Input>,
}

/// What the executor has to say to the replica, which mostly takes it along with something
/// else: each block would wake it once more. Every block's root is among it, since a peer may
/// name any of them, and a fork is noticed by that.
#[derive(Default)]
struct Position {
    news: Mutex<Vec<(GlobalIndex, Digest)>>,
    is_awaited: AtomicBool,
}

impl Shared {
    #[allow(clippy::too_many_arguments, reason = "the parts of a node, put together once")]
    pub(crate) fn new(
        config: NodeConfig,
        keys: NodeKey,
        authority: AuthorityId,
        chain: ChainId,
        store: Store,
        state: WorkingState,
        modules: Modules,
        recorder: Option<Recorder>,
        metrics: Metrics,
        view: View,
    ) -> Result<(Arc<Self>, Queues), getrandom::Error> {
        let mut anonymous = [0; 16];
        getrandom::fill(&mut anonymous)?;
        let backups = Backups::new(&config.backup, config.data_dir.join("backups"), store.clone());
        let (inputs, input_queue) = mpsc::channel(config.limits.inputs_max);
        let intake = Intake::new(config.limits.inputs_max);
        let (answers, answer_queue) = mpsc::unbounded_channel();
        let shared = Self {
            config,
            keys,
            authority,
            chain,
            store,
            state: Arc::new(state),
            modules,
            backups,
            recorder,
            taps: Arc::default(),
            metrics,
            network: OnceLock::new(),
            verify: RwLock::new(None),
            executed: watch::Sender::new(view.executed.0),
            position: Position::default(),
            inputs,
            intake,
            answers,
            view: RwLock::new(view),
            running: RwLock::new(None),
            log_stats: OnceLock::new(),
            writes: Mutex::default(),
            reads: Mutex::default(),
            next_read: AtomicU64::new(1),
            next_anonymous: AtomicU64::new(1),
            anonymous,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            handing_in: RwLock::default(),
            fatal: Mutex::default(),
            ended: Notify::new(),
            key_due: AtomicBool::new(false),
        };
        Ok((Arc::new(shared), Queues { inputs: input_queue, answers: answer_queue }))
    }

    /// These blocks are executed, with the root after each.
    pub(crate) fn note_executed(&self, roots: Vec<(GlobalIndex, Digest)>) {
        let Some(last) = roots.last().copied() else { return };
        self.position.news.lock().unwrap_or_else(PoisonError::into_inner).extend(roots);
        self.view_mut(|view| view.executed = last);
        self.executed.send_replace(last.0);
        if self.position.is_awaited.load(Ordering::SeqCst) {
            self.internal(Input::Wake);
        }
    }

    /// What was executed since the last call. With `is_awaited` the replica is woken by the
    /// next block, unless it is told of one here.
    pub(crate) fn take_executed(&self, is_awaited: bool) -> Vec<Input> {
        // Before the look: whatever comes after it wakes.
        self.position.is_awaited.store(is_awaited, Ordering::SeqCst);
        let news = std::mem::take(&mut *self.position.news.lock().unwrap_or_else(PoisonError::into_inner));
        news.into_iter().map(|(global, state_root)| Input::Executed { global, state_root }).collect()
    }

    pub(crate) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as u64 }
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits while the replica is behind: this is where peers and clients are slowed down.
    pub(crate) async fn input(&self, input: Input) {
        // The replica's thread has ended: the node is stopping.
        let _ = self.inputs.send(input).await;
    }

    /// Like [`Shared::input`], without waiting; whether there was room.
    pub(crate) fn try_input(&self, input: Input) -> bool {
        self.inputs.try_send(input).is_ok()
    }

    /// Hands a transaction in, without waiting.
    ///
    /// # Errors
    /// The node is stopping, or there is no room: it is not ordered.
    pub(crate) fn submit(&self, transaction: ClientTransaction) -> Result<(), Refusal> {
        let _open = self.handing_in.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopping() {
            return Err(Refusal::Draining);
        }
        if self.intake.put(transaction).map_err(|Full| Refusal::Overloaded)? {
            self.internal(Input::Wake);
        }
        Ok(())
    }

    /// Hands transactions in; waits while the replica is behind. `before` is called before they
    /// are.
    ///
    /// # Errors
    /// The node is stopping: they are not ordered.
    pub(crate) async fn submit_waiting(
        &self,
        transactions: Vec<ClientTransaction>,
        before: impl FnOnce(),
    ) -> Result<(), Refusal> {
        let room = self.inputs.reserve().await.map_err(|_| Refusal::Draining)?;
        let _open = self.handing_in.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopping() {
            return Err(Refusal::Draining);
        }
        before();
        room.send(Input::Submit(transactions));
        Ok(())
    }

    pub(crate) fn internal(&self, input: Input) {
        let _ = self.answers.send(input);
    }

    pub(crate) fn view(&self) -> View {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the view without a copy of it.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn view_mut(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn running(&self) -> Option<Arc<Running>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_running(&self, running: Running) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(running));
    }

    pub(crate) fn verify_context(&self) -> Option<Arc<VerifyContext>> {
        self.verify.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Name and number for a transaction whose client gave none; never given twice.
    ///
    /// Several sessions take turns, so that a transaction may be overtaken by many others
    /// before it falls out of its session's window. No header of a request can name one:
    /// their names begin with a zero byte.
    pub(crate) fn next_anonymous(&self) -> (Vec<u8>, u64) {
        let number = self.next_anonymous.fetch_add(1, Ordering::Relaxed);
        let (session, seq) = anonymous_place(number);
        let mut name = Vec::with_capacity(2 + self.anonymous.len());
        name.extend([0, session]);
        name.extend(self.anonymous);
        (name, seq)
    }

    pub(crate) fn wait_for_write(&self, id: TransactionId) -> oneshot::Receiver<WriteResult> {
        let (sender, receiver) = oneshot::channel();
        self.writes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id)
            .or_default()
            .push(Waiter::One(sender));
        receiver
    }

    /// Like [`Shared::wait_for_write`], for many at once: `sender` gets the end of each under
    /// its number.
    pub(crate) fn wait_for_writes(
        &self,
        ids: impl Iterator<Item = (TransactionId, u64)>,
        sender: &mpsc::UnboundedSender<Told>,
    ) {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, number) in ids {
            writes.entry(id).or_default().push(Waiter::Many(sender.clone(), number));
        }
    }

    /// Nobody waits for this write any more (time ran out, the client has gone).
    pub(crate) fn forget_write(&self, id: &TransactionId) {
        self.forget(id, |waiter| matches!(waiter, Waiter::One(sender) if sender.is_closed()));
    }

    /// Like [`Shared::forget_write`], for one of many.
    pub(crate) fn forget_one_of_many(
        &self,
        id: &TransactionId,
        number: u64,
        sender: &mpsc::UnboundedSender<Told>,
    ) {
        self.forget(
            id,
            |waiter| matches!(waiter, Waiter::Many(other, n) if *n == number && other.same_channel(sender)),
        );
    }

    fn forget(&self, id: &TransactionId, has_gone: impl Fn(&Waiter) -> bool) {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = writes.get_mut(id) {
            waiting.retain(|waiter| !has_gone(waiter));
            if waiting.is_empty() {
                writes.remove(id);
            }
        }
    }

    pub(crate) fn finish_writes(&self, receipts: Vec<(TransactionId, Receipt)>) {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        if writes.is_empty() {
            return;
        }
        for (id, receipt) in receipts {
            if id.client.ingress == self.authority {
                for waiter in writes.remove(&id).into_iter().flatten() {
                    waiter.tell(Some(Ok(receipt.clone())));
                }
            }
        }
    }

    pub(crate) fn refuse_write(&self, id: &TransactionId, reason: Refusal) {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = writes.remove(id).unwrap_or_default();
        match <[_; 1]>::try_from(waiting) {
            Ok([waiter]) => waiter.tell(Some(Err(reason))),
            // Of several attempts only one was refused: what became of the others is not
            // known here.
            Err(waiting) => waiting.into_iter().for_each(|waiter| waiter.tell(None)),
        }
    }

    /// Nobody will be told any more: the node ends. Those who wait learn that the outcome
    /// is not known.
    pub(crate) fn abandon_waiting(&self) {
        let writes = std::mem::take(&mut *self.writes.lock().unwrap_or_else(PoisonError::into_inner));
        writes.into_values().flatten().for_each(|waiter| waiter.tell(None));
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn writes_waiting(&self) -> usize {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn wait_for_read(&self) -> (u64, oneshot::Receiver<()>) {
        let id = self.next_read.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        (id, receiver)
    }

    pub(crate) fn finish_read(&self, id: u64) {
        if let Some(sender) = self.reads.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
            let _ = sender.send(());
        }
    }

    pub(crate) fn forget_read(&self, id: u64) {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// From here on nothing is handed in.
    pub(crate) fn set_stopping(&self) {
        let _all = self.handing_in.write().unwrap_or_else(PoisonError::into_inner);
        self.stopping.store(true, Ordering::Release);
    }

    /// The node must end: going on could break a promise. The first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(target: "startup", reason, "the node stops");
        let mut fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        fatal.get_or_insert(reason);
        self.ended.notify_waiters();
        self.ended.notify_one();
    }

    /// The node must end and start anew, to take its next key up.
    pub(crate) fn end_for_key(&self) {
        self.key_due.store(true, Ordering::Release);
        self.ended.notify_waiters();
        self.ended.notify_one();
    }

    pub(crate) fn is_key_due(&self) -> bool {
        self.key_due.load(Ordering::Acquire)
    }

    pub(crate) fn fatal(&self) -> Option<String> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Session and number within it of the so many-th transaction without a name.
fn anonymous_place(number: u64) -> (u8, u64) {
    let run = number / ANONYMOUS_RUN;
    // Sixteen fit.
    let session = (run % ANONYMOUS_SESSIONS) as u8;
    (session, run / ANONYMOUS_SESSIONS * ANONYMOUS_RUN + number % ANONYMOUS_RUN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_anonymous_place_is_given_twice_and_each_session_counts_on() {
        let mut next = [0; ANONYMOUS_SESSIONS as usize];
        for number in 0..10 * ANONYMOUS_SESSIONS * ANONYMOUS_RUN {
            let (session, seq) = anonymous_place(number);
            assert_eq!(seq, next[usize::from(session)], "number {number}");
            next[usize::from(session)] += 1;
        }
        assert_eq!(next, [10 * ANONYMOUS_RUN; ANONYMOUS_SESSIONS as usize]);
    }
}
