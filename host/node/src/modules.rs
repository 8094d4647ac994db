//! Modules on this node: found here or fetched from peers by hash, prepared once, rehearsed
//! when a proposal pins them. Never compiled on the way to a barrier.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moult_core::ports::{EngineInstance, Fault};
use moult_module::{ModuleHost, Prepared};
use moult_sdk::approval::ModuleCheck;
use moult_sdk::engine::{Action, Event, Outcome, Settings};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Committee as SdkCommittee, Digest};
use moult_store::Store;
use moult_types::state::{Overlay, StateReader};
use moult_types::{EpochChangeProposal, Manifest, Message, ModuleHash, ModulePin, PublicKey, World};
use tokio::sync::{OnceCell, mpsc};

/// Bytes of a module in one message.
pub(crate) const PART_BYTES: usize = 1 << 20;
/// A peer that does not answer in this time is passed over.
const PART_TIMEOUT: Duration = Duration::from_millis(1500);
/// Pause between rounds over all peers.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// A part as it came from a peer.
struct Part {
    from: PublicKey,
    total_bytes: u64,
    offset: u64,
    bytes: Vec<u8>,
}

/// How modules reach peers; the network, seen from here.
pub(crate) trait Ask: Send + Sync {
    /// Peers that are connected.
    fn peers(&self) -> Vec<PublicKey>;

    /// Sends a message; it may be lost.
    fn ask(&self, peer: &PublicKey, message: &Message);
}

/// Filled by the first who asks; the others wait.
type Preparing = Arc<OnceCell<Prepared>>;

/// All modules that this node has prepared.
pub(crate) struct Modules {
    host: Arc<ModuleHost>,
    store: Store,
    fetch_timeout: Duration,
    prepared: Mutex<BTreeMap<(ModuleHash, World), Preparing>>,
    fetches: Mutex<BTreeMap<ModuleHash, mpsc::Sender<Part>>>,
    ask: std::sync::OnceLock<Arc<dyn Ask>>,
}

impl Modules {
    pub(crate) fn new(host: ModuleHost, store: Store, fetch_timeout: Duration) -> Self {
        Self {
            host: Arc::new(host),
            store,
            fetch_timeout,
            prepared: Mutex::default(),
            fetches: Mutex::default(),
            ask: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn connect(&self, ask: Arc<dyn Ask>) {
        // Called once, when the network is up.
        let _ = self.ask.set(ask);
    }

    pub(crate) fn host(&self) -> &ModuleHost {
        &self.host
    }

    /// Takes in every `*.wasm` of some folders.
    pub(crate) fn import(&self, folders: &[PathBuf]) -> Result<usize, String> {
        let mut taken = 0;
        for folder in folders {
            let entries =
                std::fs::read_dir(folder).map_err(|e| format!("`module_dirs`: {}: {e}", folder.display()))?;
            for entry in entries {
                let path = entry.map_err(|e| e.to_string())?.path();
                if path.extension().is_some_and(|ext| ext == "wasm") {
                    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                    self.store.modules().put(&bytes).map_err(|e| e.to_string())?;
                    taken += 1;
                }
            }
        }
        Ok(taken)
    }

    /// A module that is ready to run; from memory where it was prepared before.
    pub(crate) async fn get(&self, hash: ModuleHash, world: World) -> Result<Prepared, String> {
        let cell = {
            let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
            prepared.entry((hash, world)).or_default().clone()
        };
        cell.get_or_try_init(|| async {
            let bytes = self.bytes(hash).await?;
            let host = self.host.clone();
            blocking(move || host.prepare(bytes, hash, world).map_err(|e| e.to_string())).await?
        })
        .await
        .cloned()
    }

    /// Forgets what is not among these.
    pub(crate) fn retain(&self, keep: &[ModuleHash]) {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.retain(|(hash, _), _| keep.contains(hash));
    }

    /// The bytes of a module: from the store, else from peers.
    async fn bytes(&self, hash: ModuleHash) -> Result<Arc<[u8]>, String> {
        let files = self.store.modules().clone();
        match blocking(move || files.get(hash)).await? {
            Ok(Some(bytes)) => return Ok(bytes.into()),
            Ok(None) => {}
            // A damaged file is fetched anew; the hash is checked again on arrival.
            Err(e) => {
                tracing::warn!(target: "module", module = %hash, error = %e, "a stored module is damaged")
            }
        }
        let bytes = tokio::time::timeout(self.fetch_timeout, self.fetch(hash)).await.map_err(|_| {
            let seconds = self.fetch_timeout.as_secs();
            format!("module {hash} is not on this node, and no peer gave it within {seconds} s: `moult module add` it on any node")
        })??;
        let (files, stored) = (self.store.modules().clone(), bytes.clone());
        blocking(move || files.put(&stored).map_err(|e| e.to_string())).await??;
        tracing::info!(target: "module", module = %hash, bytes = bytes.len(), "a module was fetched from peers");
        Ok(bytes)
    }

    async fn fetch(&self, hash: ModuleHash) -> Result<Arc<[u8]>, String> {
        let Some(ask) = self.ask.get() else { return Err(format!("module {hash} is not on this node")) };
        let (sender, mut parts) = mpsc::channel(4);
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, sender);
        let limit = self.host.limits().module_bytes;
        loop {
            for peer in ask.peers() {
                if let Some(bytes) = fetch_from(ask.as_ref(), &mut parts, peer, hash, limit).await {
                    self.fetches.lock().unwrap_or_else(PoisonError::into_inner).remove(&hash);
                    return Ok(bytes.into());
                }
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// A part that a peer sent; dropped where nobody waits for it.
    pub(crate) fn on_part(
        &self,
        from: PublicKey,
        hash: ModuleHash,
        total_bytes: u64,
        offset: u64,
        bytes: Vec<u8>,
    ) {
        let fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = fetches.get(&hash) {
            let _ = waiting.try_send(Part { from, total_bytes, offset, bytes });
        }
    }

    /// The part of a module that a peer asked for.
    pub(crate) fn part(&self, hash: ModuleHash, offset: u64) -> Message {
        let whole = self.store.modules().get(hash).ok().flatten().unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
        let bytes = whole[start..whole.len().min(start + PART_BYTES)].to_vec();
        Message::ModulePart { hash, total_bytes: whole.len() as u64, offset, bytes }
    }

    /// Fetches, checks, compiles and rehearses what a proposal pins.
    pub(crate) async fn check(
        &self,
        proposal: &EpochChangeProposal,
        present: &Manifest,
        me: PublicKey,
        state: Arc<dyn StateReader>,
    ) -> Vec<ModuleCheck> {
        let mut checks = Vec::new();
        let fallbacks = proposal.fallbacks.iter().map(|pin| (&World::Engine, pin));
        for (world, pin) in proposal.modules.iter().chain(fallbacks) {
            let mut check = ModuleCheck {
                world: world.name().to_owned(),
                hash: Digest(pin.hash.0),
                name: String::new(),
                version: String::new(),
                problem: None,
            };
            match self.get(pin.hash, *world).await {
                Ok(prepared) => {
                    prepared.info().name().clone_into(&mut check.name);
                    prepared.info().version().clone_into(&mut check.version);
                    let rehearsal = match world {
                        World::Engine => rehearse_engine(&prepared, proposal, pin, me),
                        World::Approval => Ok(()),
                        World::Application if present.pin(*world) == Some(pin) => Ok(()),
                        World::Application => {
                            self.rehearse_application(&prepared, present, pin, state.clone()).await
                        }
                    };
                    check.problem = rehearsal.err();
                }
                Err(problem) => check.problem = Some(problem),
            }
            if let Some(problem) = &check.problem {
                tracing::warn!(target: "epoch-transition", world = %world, module = %pin.hash, problem, "a proposed module is not ready here");
            }
            checks.push(check);
        }
        checks
    }

    /// `upgrade` on a copy of the present state.
    async fn rehearse_application(
        &self,
        prepared: &Prepared,
        present: &Manifest,
        pin: &ModulePin,
        state: Arc<dyn StateReader>,
    ) -> Result<(), String> {
        let from = match present.pin(World::Application) {
            Some(former) => match self.get(former.hash, World::Application).await?.info() {
                moult_module::ModuleInfo::Application(info) => Some(info.clone()),
                _ => None,
            },
            None => None,
        };
        let application = prepared.application().map_err(|e| e.to_string())?;
        let config = pin.config.clone();
        let overlay = Overlay::new(state, moult_core::execution::APPLICATION_PREFIX);
        let (_, result) = blocking(move || application.upgrade(overlay, &config, from.as_ref())).await?;
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(format!("its `upgrade` refuses the present state: {refusal}")),
            Err(fault) => Err(format!("its `upgrade` failed on a copy of the present state: {fault}")),
        }
    }
}

async fn fetch_from(
    ask: &dyn Ask,
    parts: &mut mpsc::Receiver<Part>,
    peer: PublicKey,
    hash: ModuleHash,
    limit: usize,
) -> Option<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let offset = bytes.len() as u64;
        ask.ask(&peer, &Message::FetchModule { hash, offset });
        let part = loop {
            let part = tokio::time::timeout(PART_TIMEOUT, parts.recv()).await.ok().flatten()?;
            if part.from == peer && part.offset == offset {
                break part;
            }
        };
        if part.bytes.is_empty() || part.total_bytes > limit as u64 {
            return None;
        }
        bytes.extend_from_slice(&part.bytes);
        match (bytes.len() as u64).cmp(&part.total_bytes) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return (ModuleHash::of(&bytes) == hash).then_some(bytes),
            std::cmp::Ordering::Greater => return None,
        }
    }
}

/// A fresh instance takes the new committee and configuration.
fn rehearse_engine(
    prepared: &Prepared,
    proposal: &EpochChangeProposal,
    pin: &ModulePin,
    me: PublicKey,
) -> Result<(), String> {
    let committee = moult_types::Committee::new(proposal.new_committee.clone(), proposal.fault_model)
        .map_err(|e| e.to_string())?;
    if let moult_module::ModuleInfo::Engine(info) = prepared.info()
        && !info.fault_models.contains(&proposal.fault_model)
    {
        return Err(format!(
            "the engine `{}` is not made for the {:?} fault model",
            info.name, proposal.fault_model
        ));
    }
    let settings = Settings {
        committee: SdkCommittee {
            epoch: proposal.new_epoch.0,
            fault_model: proposal.fault_model,
            stakes: committee.members().iter().map(|m| m.stake).collect(),
            quorum: committee.quorum(),
            validity: committee.validity(),
            me: Some(committee.index_of_key(&me).unwrap_or(AuthorityIndex(0))),
        },
        config: pin.config.clone(),
        seed: Digest::ZERO,
        schedule: committee.indices().collect(),
        max_message_bytes: proposal.limits.engine_message_bytes_max,
        max_batches_in_commit: proposal.limits.batches_in_block_max,
    };
    let mut engine = prepared.engine().map_err(|e| e.to_string())?;
    match engine.init(&settings, None) {
        Ok(Ok(outcome)) => rehearse_steps(engine.as_mut(), &settings, &outcome)
            .map_err(|fault| format!("the engine failed in its rehearsal: {fault}")),
        Ok(Err(refusal)) => Err(format!("the engine refuses this committee or configuration: {refusal:?}")),
        Err(fault) => Err(format!("the engine failed in its rehearsal: {fault}")),
    }
}

/// Most timers that fire in a rehearsal.
const REHEARSED_TIMERS: usize = 16;

/// What every engine meets in its first seconds: links, a batch, its own timers, a block that
/// others made final, the end. One that traps or hangs at these would stall its epoch at once.
fn rehearse_steps(
    engine: &mut dyn EngineInstance,
    settings: &Settings,
    first: &Outcome,
) -> Result<(), Fault> {
    let me = settings.committee.me;
    let others = (0..settings.committee.stakes.len() as u32).map(AuthorityIndex).filter(|it| Some(*it) != me);
    let mut events: Vec<_> =
        others.take(REHEARSED_PEERS).map(|peer| Event::Peer { peer, up: true, rtt_us: 1000 }).collect();
    events.push(Event::Batches(vec![Batch {
        digest: Digest([1; 32]),
        author: AuthorityIndex(0),
        bytes: 100,
    }]));
    let (mut timers, mut now_ms) = (BTreeMap::new(), 0);
    set_timers(&mut timers, now_ms, first);
    for _ in 0..REHEARSED_TIMERS {
        set_timers(&mut timers, now_ms, &engine.step(now_ms, events)?);
        let due = timers.iter().min_by_key(|(_, at_ms)| **at_ms).map(|(id, at_ms)| (*id, *at_ms));
        let Some((id, at_ms)) = due else { break };
        timers.remove(&id);
        now_ms = at_ms;
        events = vec![Event::Timer(id)];
    }
    engine
        .step(
            now_ms,
            vec![Event::Final { index: CommitIndex(1), batches: vec![Digest([1; 32])] }, Event::Draining],
        )
        .map(drop)
}

/// Most links that are told of in a rehearsal.
const REHEARSED_PEERS: usize = 100;

fn set_timers(timers: &mut BTreeMap<u64, u64>, now_ms: u64, outcome: &Outcome) {
    for action in &outcome.release {
        match action {
            Action::SetTimer { id, after_ms } => {
                timers.insert(*id, now_ms.saturating_add(*after_ms));
            }
            Action::CancelTimer(id) => {
                timers.remove(id);
            }
            _ => {}
        }
    }
}

/// Runs what blocks beside the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| format!("a task of this node ended: {e}"))
}

/// What to say of a fault of a policy.
pub(crate) fn setup_fault(problem: String) -> Fault {
    Fault::Trap(problem)
}
