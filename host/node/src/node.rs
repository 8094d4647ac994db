//! Starting, running and stopping a node.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use moult_core::governance::Ledger;
use moult_core::guard::GuardState;
use moult_core::replica::Settings;
use moult_core::stop::{Stop, StopCause};
use moult_core::{Effect, Input, Persist, Replica};
use moult_crypto::{NodeKey, Signer};
use moult_keys::{KeyError, KeyFile, read_token};
use moult_module::{Compile, CompileWorker, HostConfig, Limits, ModuleHost};
use moult_net::{NetConfig, NetLimits, Network};
use moult_store::{
    DirLock, DurableLog, GuardCheck, GuardFile, GuardFileError, LogWriter, Store, StoreOptions, WorkingState,
    refuse_half_restored,
};
use moult_types::{AuthorityId, Genesis, ProposalId};
use thiserror::Error;
use tokio::runtime::Handle;

use crate::api::{Api, Protocol, Server};
use crate::config::NodeConfig;
use crate::effects::Effects;
use crate::executor::{Executor, STATE_MEMORY_BYTES, Work};
use crate::genesis::{GenesisError, GenesisFile};
use crate::guard_transfer::{exported_path, guard_path};
use crate::key_switch;
use crate::key_use;
use crate::metrics::Metrics;
use crate::modules::Modules;
use crate::peers::Peers;
use crate::shared::{Queues, Shared};
use crate::view::View;
use crate::watch;

/// Steps that may wait for the disk.
const LOG_QUEUE: usize = 256;
/// Inputs that one step takes.
const INPUTS_IN_STEP: usize = 512;

/// Why a node does not start, or ended.
#[derive(Debug, Error)]
pub enum NodeError {
    /// A secret file.
    #[error(transparent)]
    File(#[from] KeyError),
    /// The genesis.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The store or the guard: the text says what to do.
    #[error("{0}")]
    Store(String),
    /// Modules cannot be run here.
    #[error("{0}")]
    Module(String),
    /// The address is taken, or the like.
    #[error("{what}: {problem}")]
    Listen {
        /// Which address.
        what: String,
        /// Why not.
        problem: String,
    },
    /// It stopped in an earlier life, and nothing has changed since.
    #[error("this node does not start: {0}")]
    Stopped(Stop),
    /// The node found that going on could break a promise, and stopped.
    #[error("the node stopped: {0}")]
    Fatal(String),
}

impl NodeError {
    /// Whether the configuration or its files are at fault (exit code 78).
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::File(_) | Self::Genesis(_))
    }
}

fn store_error(e: impl std::fmt::Display) -> NodeError {
    NodeError::Store(e.to_string())
}

/// A running node.
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    network: Network,
    api: Server,
    grpc: Option<Server>,
    replica: JoinHandle<()>,
    executor: JoinHandle<()>,
    /// Held until the node has ended.
    _lock: DirLock,
}

/// Why a node ended in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It was told to.
    Asked,
    /// An epoch has given its authority the next key: a node that starts now takes it up.
    KeyDue,
}

/// Runs a node until it gets SIGINT or SIGTERM or its next key is due, then stops it gracefully.
///
/// # Errors
/// It does not start, or had to stop.
pub async fn run(config: NodeConfig, worker: CompileWorker) -> Result<Exit, NodeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        return Err(NodeError::Fatal("signals cannot be received".into()));
    };
    let node = Node::start(config, worker).await?;
    let exit = tokio::select! {
        () = node.shared.ended.notified() => if node.shared.is_key_due() { Exit::KeyDue } else { Exit::Asked },
        _ = interrupt.recv() => Exit::Asked,
        _ = terminate.recv() => Exit::Asked,
    };
    node.stop().await?;
    Ok(exit)
}

impl Node {
    /// Starts a node.
    ///
    /// # Errors
    /// It cannot start; nothing is left running.
    pub async fn start(config: NodeConfig, worker: CompileWorker) -> Result<Self, NodeError> {
        KeyFile::read(&config.key_file)?;
        let token = read_token(&config.api.token_file)?;
        let genesis = GenesisFile::load(&config.genesis)?.to_genesis()?;
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|e| store_error(format!("{}: {e}", config.data_dir.display())))?;
        let lock = DirLock::acquire(&config.data_dir).map_err(store_error)?;
        refuse_half_restored(&config.data_dir).map_err(store_error)?;
        tokio::task::block_in_place(|| key_switch::take_up(&config, &genesis))?;
        let file = KeyFile::read(&config.key_file)?;
        let keys = tokio::task::block_in_place(|| file.unlock(&config.unlock))?;
        let opened = tokio::task::block_in_place(|| Opened::open(&config, &genesis, &keys))?;
        let modules = module_host(&config, &keys, worker, &opened.store)?;
        modules.import(&config.module_dirs).map_err(NodeError::Module)?;
        let authority = config.authority.unwrap_or(file.authority());
        let recorder = watch::recorder(&config.record).map_err(NodeError::Store)?;
        let (shared, queues) = share(config, keys, authority, &genesis, &opened, modules, recorder)?;

        let handler = Arc::new(Peers(shared.clone()));
        let bind = shared.config.p2p.listen;
        let net = NetConfig { keys: shared.keys.clone(), bind, limits: NetLimits::default() };
        let network = Network::start(net, handler)
            .map_err(|e| NodeError::Listen { what: format!("p2p.listen {bind}"), problem: e.to_string() })?;
        shared.modules.connect(Arc::new(network.clone()));
        let _ = shared.network.set(network.clone());

        let (replica, executor) = start_threads(&shared, opened, queues)?;
        let app = Api::new(shared.clone(), &token);
        let api = Server::start(&app, Protocol::Http, shared.config.api.listen).await?;
        let grpc = match shared.config.grpc_listen() {
            Some(listen) => Some(Server::start(&app, Protocol::Grpc, listen).await?),
            None => None,
        };
        tracing::info!(
            target: "startup",
            node = %shared.keys.public_key(),
            authority = %shared.authority,
            key_file = %file.kind(),
            chain = %shared.chain,
            api = %api.address(),
            grpc = grpc.as_ref().map(|grpc| tracing::field::display(grpc.address())),
            p2p = %bind,
            "node started"
        );
        Ok(Self { shared, network, api, grpc, replica, executor, _lock: lock })
    }

    /// Where clients reach it: the port that the system chose, where the configuration has 0.
    pub fn api_address(&self) -> std::net::SocketAddr {
        self.api.address()
    }

    /// Where clients reach it over gRPC, if it is served.
    pub fn grpc_address(&self) -> Option<std::net::SocketAddr> {
        self.grpc.as_ref().map(Server::address)
    }

    /// What interfaces may do with it.
    pub fn handle(&self) -> crate::NodeHandle {
        crate::NodeHandle { shared: self.shared.clone() }
    }

    /// Refuses new transactions, drains, flushes, closes.
    ///
    /// # Errors
    /// The node had to stop by itself, or a thread of it failed.
    pub async fn stop(self) -> Result<(), NodeError> {
        let Self { shared, network, api, grpc, replica, executor, _lock } = self;
        tracing::info!(target: "startup", "stopping: draining");
        shared.internal(Input::Drain);
        if shared.fatal().is_none() {
            drain(&shared).await;
        }
        shared.set_stopping();
        shared.internal(Input::Wake);
        let backups = shared.clone();
        // A panic of it was told.
        let _ = tokio::task::spawn_blocking(move || backups.backups.stop()).await;
        let recording = shared.clone();
        let ended = tokio::task::spawn_blocking(move || {
            let ended = (replica.join().is_ok(), executor.join().is_ok());
            // The engine went with the replica: nothing more is handed over.
            recording.taps.end_all();
            recording.recorder.iter().for_each(moult_replay::Recorder::finish);
            ended
        })
        .await;
        // What was handed in has been refused or told by now; who still waits will never know.
        let grpc = async {
            if let Some(grpc) = grpc {
                grpc.stop().await;
            }
        };
        tokio::join!(api.stop(), grpc);
        network.shutdown().await;
        match (shared.fatal(), ended) {
            (Some(reason), _) => Err(NodeError::Fatal(reason)),
            (None, Ok((true, true))) => {
                tracing::info!(target: "startup", "stopped");
                Ok(())
            }
            (None, _) => Err(NodeError::Fatal("a thread of the node panicked".into())),
        }
    }
}

/// Waits until nothing new is ordered and nothing of this node's clients is under way.
async fn drain(shared: &Shared) {
    let limit = Duration::from_millis(shared.config.limits.drain_timeout_ms);
    let idle = async {
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        loop {
            poll.tick().await;
            let is_idle = shared.peek(|view| view.is_draining && view.under_way == (0, 0));
            if is_idle && shared.writes_waiting() == 0 {
                return;
            }
        }
    };
    if tokio::time::timeout(limit, idle).await.is_err() {
        tracing::warn!(target: "startup", waiting = shared.writes_waiting(), "not everything could be drained: those clients are told that the outcome is unknown");
    }
}

/// Store and guard as found, with what follows from them.
struct Opened {
    store: Store,
    guard: Option<GuardFile>,
    recovery: moult_core::Recovery,
}

impl Opened {
    fn open(config: &NodeConfig, genesis: &Genesis, keys: &NodeKey) -> Result<Self, NodeError> {
        let (chain, key) = (genesis.chain(), keys.public_key());
        let dir = config.data_dir.join("store");
        let options =
            StoreOptions { cache_bytes: config.limits.store_cache_bytes, ..StoreOptions::default() };
        let store = if Store::exists(&dir) {
            Store::open(&dir, chain, key, options).map_err(store_error)?
        } else if let Some(origin) = &genesis.origin {
            return Err(NodeError::Store(format!(
                "this chain carries on chain {} from block {}, and the state that it begins with is not here: \
                 install it with `moult recover apply`",
                origin.chain, origin.global
            )));
        } else {
            Store::create(&dir, genesis, key, options).map_err(store_error)?
        };
        let fresh_guard = GuardState::new(chain, key, genesis.manifest.identity());
        let must_exist = store.knows_guard().map_err(store_error)?;
        let may_be_made = !must_exist && key_use::is_unused(&config.key_file, key, chain)?;
        let (guard, stopped) = match open_guard(&config.data_dir, fresh_guard.clone(), may_be_made)? {
            (Some(guard), _) => {
                // Before anything is signed.
                key_use::note(&config.key_file, key, chain)?;
                if !must_exist && guard.is_new() {
                    store.note_new_guard(&guard).map_err(store_error)?;
                }
                let (found, guard) = store.reconcile_guard(guard).map_err(store_error)?;
                (guard, mismatch(found))
            }
            (None, reason) => (None, reason),
        };
        if let Some(stop) = guard.as_ref().and_then(|guard| guard.state().stopped.as_ref())
            && stop.cause == StopCause::Chain
        {
            return Err(NodeError::Stopped(stop.clone()));
        }
        let loaded = store.load().map_err(store_error)?;
        let state = guard.as_ref().map_or(fresh_guard, |guard| guard.state().clone());
        let recovery = store.recovery(&loaded, state, stopped).map_err(store_error)?;
        Ok(Self { store, guard, recovery })
    }
}

/// Why a node whose store and guard do not fit together must not sign.
fn mismatch(found: GuardCheck) -> Option<String> {
    match found {
        GuardCheck::Fits => None,
        GuardCheck::Shorter { have, mark } => Some(format!(
            "the store ends at block {have}, but block {mark} was final here: it lost its tail. \
             The blocks are fetched from peers; restart the node when it has caught up"
        )),
        GuardCheck::OldStore { have, needed } => Some(format!(
            "the store is older than the signer guard ({have} < {needed}): it was restored or replaced. \
             The blocks are fetched from peers; restart the node when it has caught up"
        )),
        GuardCheck::OtherBlock { global, .. } => Some(format!(
            "the store and the signer guard disagree about block {global}: one of them is not this node's"
        )),
        GuardCheck::OldGuard { have, noted } => Some(format!(
            "the signer guard is older than the store ({have} < {noted}): it was restored or copied. \
             Give this authority a new key by an epoch change"
        )),
    }
}

/// The guard's file; none, with the reason, where the node must not sign: nobody can say
/// what it signed before. Only for a key that has signed nothing on the chain one `may_be_made`.
fn open_guard(
    data_dir: &Path,
    fresh: GuardState,
    may_be_made: bool,
) -> Result<(Option<GuardFile>, Option<String>), NodeError> {
    let path = guard_path(data_dir);
    std::fs::create_dir_all(data_dir.join("guard")).map_err(store_error)?;
    let exported = exported_path(data_dir);
    if !path.exists() && exported.exists() {
        return Ok((
            None,
            Some(format!(
                "the signer guard of this node was exported ({}): another machine may sign with its key. \
             Import it here again where it was used last (`moult guard import`)",
                exported.display()
            )),
        ));
    }
    match GuardFile::open(&path, fresh.chain, fresh.key) {
        Ok((guard, _)) => Ok((Some(guard), None)),
        Err(GuardFileError::Missing { .. }) if may_be_made => {
            Ok((Some(GuardFile::create(&path, fresh).map_err(store_error)?), None))
        }
        Err(e @ (GuardFileError::Missing { .. } | GuardFileError::Corrupt { .. })) => {
            let next = "Give this authority a new key by an epoch change (`moult keys rotate`)";
            Ok((None, Some(format!("{e}. {next}"))))
        }
        Err(e) => Err(store_error(e)),
    }
}

fn module_host(
    config: &NodeConfig,
    keys: &NodeKey,
    worker: CompileWorker,
    store: &Store,
) -> Result<Modules, NodeError> {
    // Known to no one but this node: its code cache cannot be forged from outside.
    let cache_key = keys.local_secret("moult code cache").map_err(|e| NodeError::Module(e.to_string()))?;
    let host = ModuleHost::new(HostConfig {
        cache_dir: Some(config.data_dir.join("code")),
        cache_key: *cache_key,
        compile: Compile::Worker(worker),
        limits: Limits { compile_ms: config.limits.module_compile_ms, ..Limits::default() },
    })
    .map_err(|e| NodeError::Module(e.to_string()))?;
    let fetch_timeout = Duration::from_millis(config.limits.module_fetch_timeout_ms);
    Ok(Modules::new(host, store.clone(), fetch_timeout))
}

fn share(
    config: NodeConfig,
    keys: NodeKey,
    authority: AuthorityId,
    genesis: &Genesis,
    opened: &Opened,
    modules: Modules,
    recorder: Option<moult_replay::Recorder>,
) -> Result<(Arc<Shared>, Queues), NodeError> {
    let epoch = opened.recovery.epoch.clone();
    let ledger = opened
        .recovery
        .ledger
        .clone()
        .unwrap_or_else(|| Ledger::at_start(&epoch.manifest, epoch.base, epoch.time_ms, ProposalId(1)));
    let applied = opened.store.state().applied().map_err(store_error)?;
    let view = View::new(epoch, ledger, (applied.global, moult_types::Digest::ZERO));
    let store = opened.store.clone();
    let state = WorkingState::new(store.state(), STATE_MEMORY_BYTES).map_err(store_error)?;
    let (chain, metrics) = (genesis.chain(), Metrics::default());
    Shared::new(config, keys, authority, chain, store, state, modules, recorder, metrics, view)
        .map_err(|e| NodeError::Fatal(format!("the system gives no randomness: {e}")))
}

fn start_threads(
    shared: &Arc<Shared>,
    opened: Opened,
    queues: Queues,
) -> Result<(JoinHandle<()>, JoinHandle<()>), NodeError> {
    let runtime = Handle::current();
    let (work, work_queue) = sync_channel::<Work>(shared.config.limits.execute_queue_max);
    let mut executor = Executor::new(shared.clone(), runtime.clone()).map_err(store_error)?;
    let executor = {
        let shared = shared.clone();
        spawn("moult-execute", move || {
            let done = executor.replay().and_then(|replayed| {
                if replayed > 0 {
                    tracing::info!(target: "executor", blocks = replayed, "blocks were applied again after the restart");
                }
                executor.run(&work_queue)
            });
            if let Err(problem) = done
                && !shared.is_stopping()
            {
                shared.fail(format!("execution cannot go on: {problem}"));
            }
        })?
    };
    let settings = settings_of(shared);
    let signer: Arc<dyn Signer> = Arc::new(shared.keys.clone());
    let (replica, first) =
        Replica::new(opened.recovery, settings, signer, shared.now()).map_err(NodeError::Fatal)?;
    let sink = DurableLog::new(opened.store.writer().map_err(store_error)?, opened.guard);
    let mut effects = Effects { shared: shared.clone(), executor: work, runtime: runtime.clone() };
    let writer =
        LogWriter::start(sink, LOG_QUEUE, move |step: Result<Vec<Effect>, _>| effects.carry_out(step))
            .map_err(store_error)?;
    let _ = shared.log_stats.set(writer.stats().clone());
    let replica = {
        let shared = shared.clone();
        spawn("moult-replica", move || {
            runtime.block_on(drive(&shared, replica, first, &writer, queues));
            writer.stop();
        })?
    };
    Ok((replica, executor))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, NodeError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|e| NodeError::Fatal(format!("the system gives no thread: {e}")))
}

fn settings_of(shared: &Shared) -> Settings {
    let limits = &shared.config.limits;
    Settings {
        observers: shared.config.p2p.observers.iter().map(|o| (o.key, o.address.clone())).collect(),
        batch_bytes: limits.batch_bytes,
        batch_delay_ms: limits.batch_delay_ms,
        batches_in_flight_max: limits.batches_in_flight_max,
        queue_bytes_max: limits.queue_bytes_max,
        pending_bytes_per_author_max: limits.pending_bytes_per_author_max,
        ..Settings::new(shared.authority)
    }
}

/// The replica's loop: what came in, one step, its writes and effects to the log.
async fn drive(
    shared: &Shared,
    mut replica: Replica,
    first: moult_core::Step,
    writer: &LogWriter<Vec<Effect>>,
    mut queues: Queues,
) {
    publish(shared, &replica, &first);
    let mut step = first;
    let mut inputs = Vec::with_capacity(INPUTS_IN_STEP);
    loop {
        let idle = step.durable.is_empty() && step.release.is_empty();
        if !idle && writer.submit(step.durable, step.release).is_err() {
            return;
        }
        let wait = replica.next_wake_ms().saturating_sub(shared.now().mono_ms);
        let awaits_execution = replica.awaits_execution();
        let executed = shared.take_executed(awaits_execution);
        let is_told =
            awaits_execution && !executed.is_empty() || !shared.intake.sleep_until(replica.wanted());
        inputs.extend(executed);
        let first = tokio::select! {
            biased;
            () = std::future::ready(()), if is_told => None,
            input = queues.answers.recv() => input,
            input = queues.inputs.recv() => input,
            () = tokio::time::sleep(Duration::from_millis(wait)) => None,
        };
        inputs.extend(first);
        while inputs.len() < INPUTS_IN_STEP {
            let Ok(input) = queues.answers.try_recv().or_else(|_| queues.inputs.try_recv()) else { break };
            inputs.push(input);
        }
        let is_last = shared.is_stopping();
        let one_by_one = shared.intake.take();
        if !one_by_one.is_empty() {
            inputs.push(Input::Submit(one_by_one));
        }
        if is_last {
            // Among them is every transaction that was handed in: each gets its answer.
            let left = queues.inputs.len();
            inputs.extend(std::iter::from_fn(|| queues.answers.try_recv().ok()));
            inputs.extend(std::iter::from_fn(|| queues.inputs.try_recv().ok()).take(left));
        }
        if inputs.is_empty() {
            inputs.push(Input::Wake);
        }
        step = replica.step(shared.now(), std::mem::take(&mut inputs));
        publish(shared, &replica, &step);
        if is_last {
            let _ = writer.submit(step.durable, step.release);
            return;
        }
    }
}

/// What the step changed, for those who look from outside.
fn publish(shared: &Shared, replica: &Replica, step: &moult_core::Step) {
    let under_way = replica.under_way();
    let mut is_scheduled = false;
    shared.view_mut(|view| {
        view.under_way = under_way;
        for write in &step.durable {
            match write {
                Persist::Final { ledger, .. } | Persist::PhaseResumed { ledger, .. } => {
                    let is_new = view.ledger.barrier().is_none() && ledger.barrier().is_some();
                    // A node that catches up passes transitions that are long over.
                    let window = view.epoch.manifest.limits.window_blocks;
                    is_scheduled |= is_new && view.highest_seen.0 <= ledger.global.0 + window;
                    view.ledger = ledger.clone();
                }
                Persist::Epoch { start, ledger, .. } => {
                    view.epoch = Arc::new(start.as_ref().clone());
                    view.ledger = ledger.clone();
                    (view.leader, view.round) = (None, 0);
                }
                Persist::History(record) => view.close(record),
                _ => {}
            }
        }
        (view.phase, view.identity) = (replica.phase().0, replica.identity());
        view.me = replica.me();
        view.is_draining = replica.is_draining();
    });
    if is_scheduled {
        shared.backups.before_transition(shared.now().wall_ms);
    }
}

#[cfg(test)]
#[path = "node_test.rs"]
mod tests;
