//! Carries out what a step releases, in order, after its writes are durable.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use bytes::Bytes;
use moult_core::io::Target;
use moult_core::ports::Fault;
use moult_core::{Effect, Input};
use moult_sdk::approval;
use moult_store::StoreError;
use moult_types::{Digest, EpochIdentity, HeldBatch, Message, ModulePin, World, decode, encode};

use crate::executor::Work;
use crate::modules::{blocking, setup_fault};
use crate::observe;
use crate::peers::{Peers, class_of, send};
use crate::shared::Shared;
use crate::watch;

/// Pause before a module that cannot be loaded is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Runs on the log writer's thread: nothing here waits but for the executor's queue.
pub(crate) struct Effects {
    pub(crate) shared: Arc<Shared>,
    pub(crate) executor: SyncSender<Work>,
    pub(crate) runtime: tokio::runtime::Handle,
}

impl Effects {
    pub(crate) fn carry_out(&mut self, step: Result<Vec<Effect>, StoreError>) {
        match step {
            Ok(effects) => effects.into_iter().for_each(|effect| self.effect(effect)),
            Err(e) => self.shared.fail(format!("a write did not reach the disk: {e}")),
        }
    }

    fn effect(&self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send(&to, &message),
            Effect::Execute { record, batches } => self.execute(Work::Block(record, batches)),
            Effect::ReadAt { ids, global } => self.execute(Work::ReadAt(ids, global)),
            Effect::EpochStarted(start) => {
                // Who was beside the former engine saw the end of its epoch.
                self.shared.taps.end_all();
                observe::epoch_started(&self.shared, &start);
                self.execute(Work::Epoch(start));
            }
            Effect::Fetch { batches, from } => self.fetch(batches, from),
            Effect::StartEngine { identity, pin } => {
                self.runtime.spawn(start_engine(self.shared.clone(), identity, pin));
            }
            Effect::CheckModules { proposal, hash } => {
                let shared = self.shared.clone();
                self.runtime.spawn(async move {
                    let present = shared.view().epoch.manifest.clone();
                    let me = moult_crypto::Signer::public_key(&shared.keys);
                    let (_, state) = shared.state.view();
                    let checks = shared.modules.check(&proposal, &present, me, state).await;
                    shared.view_mut(|view| {
                        view.checks.insert(hash, checks.clone());
                    });
                    let is_good = checks.iter().all(|check| check.problem.is_none());
                    shared.internal(Input::ModulesChecked { proposal: hash, checks });
                    if is_good {
                        watch::begin_shadow(shared, proposal, hash).await;
                    }
                });
            }
            Effect::ForgetModules { hash } => {
                self.shared.taps.end(hash);
                self.shared.view_mut(|view| {
                    view.checks.remove(&hash);
                });
            }
            Effect::Evaluate { pin, proposal, context } => {
                self.runtime.spawn(evaluate(self.shared.clone(), pin, proposal, context));
            }
            Effect::Peers(peers) => {
                if let Some(network) = self.shared.network.get() {
                    network.set_peers(peers);
                }
            }
            Effect::Verify(context) => {
                *self.shared.verify.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
                    Some(context);
            }
            Effect::Reverify(messages) => {
                let peers = Peers(self.shared.clone());
                self.runtime.spawn(async move {
                    for (from, message) in messages {
                        peers.verify(from, message).await;
                    }
                });
            }
            Effect::Event(event) => observe::event(&self.shared, event),
            Effect::Refused { transaction, reason } => self.shared.refuse_write(&transaction, reason),
            Effect::Halt(reason) => self.shared.fail(reason),
        }
    }

    fn send(&self, to: &Target, message: &Message) {
        let Some(network) = self.shared.network.get() else { return };
        let (class, frame) = (class_of(message), Bytes::from(encode(message)));
        match to {
            Target::Everyone => {
                network.broadcast(class, frame);
            }
            Target::Keys(keys) => keys.iter().for_each(|key| send(network, key, class, frame.clone())),
        }
    }

    /// Waits while the executor is behind: ordering slows down with it.
    fn execute(&self, work: Work) {
        if self.executor.send(work).is_err() && !self.shared.is_stopping() {
            self.shared.fail("the executor has ended".into());
        }
    }

    fn fetch(&self, batches: Vec<Digest>, from: Target) {
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            let store = shared.store.clone();
            let looked_up = blocking(move || {
                let (mut found, mut missing) = (Vec::new(), Vec::new());
                for digest in batches {
                    match store.batch(digest).ok().flatten().and_then(|bytes| decode(&bytes).ok()) {
                        Some(signed) => found.push(Arc::new(HeldBatch::new(signed))),
                        None => missing.push(digest),
                    }
                }
                (found, missing)
            });
            let Ok((found, missing)) = looked_up.await else { return };
            if !found.is_empty() {
                shared.internal(Input::Stored(found));
            }
            let (false, Some(network)) = (missing.is_empty(), shared.network.get()) else { return };
            let message = Message::FetchBatches(missing);
            let (class, frame) = (class_of(&message), Bytes::from(encode(&message)));
            match from {
                Target::Everyone => {
                    network.broadcast(class, frame);
                }
                Target::Keys(keys) => keys.iter().for_each(|key| send(network, key, class, frame.clone())),
            }
        });
    }
}

/// Loads the pinned engine; tries again as long as its epoch lasts.
async fn start_engine(shared: Arc<Shared>, identity: EpochIdentity, pin: ModulePin) {
    loop {
        match load_engine(&shared, &pin).await {
            Ok((engine, name)) => {
                let store = shared.store.clone();
                let records = match blocking(move || store.engine_records()).await {
                    Ok(Ok(records)) => records,
                    Ok(Err(e)) => return shared.fail(format!("the engine's records cannot be read: {e}")),
                    Err(e) => return shared.fail(e),
                };
                let engine = watch::watched(&shared, engine, identity, &pin, &name);
                shared.view_mut(|view| view.engine.clone_from(&name));
                tracing::info!(target: "consensus", engine = name, module = %pin.hash, records = records.len(), "engine instantiated");
                return shared.internal(Input::Engine { identity, engine, records });
            }
            Err(problem) => {
                tracing::error!(target: "module", module = %pin.hash, problem, "the pinned engine cannot be loaded; trying again");
            }
        }
        tokio::time::sleep(RETRY).await;
        if shared.is_stopping() || shared.view().identity != identity {
            return;
        }
    }
}

async fn load_engine(
    shared: &Shared,
    pin: &ModulePin,
) -> Result<(Box<dyn moult_core::ports::EngineInstance>, String), String> {
    let prepared = shared.modules.get(pin.hash, World::Engine).await?;
    let name = format!("{} {}", prepared.info().name(), prepared.info().version());
    Ok((prepared.engine().map_err(|e| e.to_string())?, name))
}

async fn evaluate(
    shared: Arc<Shared>,
    pin: ModulePin,
    proposal: Box<approval::Proposal>,
    mut context: Box<approval::Context>,
) {
    let id = moult_types::ProposalId(proposal.id);
    let fuel_limit = shared.modules.host().limits().engine.call.fuel;
    context.shadow =
        shared.peek(|view| view.shadows.get(&proposal.hash).map(|run| watch::shadow_run(run, fuel_limit)));
    let verdict = match shared.modules.get(pin.hash, World::Approval).await {
        Ok(prepared) => {
            let call = blocking(move || {
                let mut policy = prepared.approval().map_err(|e| setup_fault(e.to_string()))?;
                policy.evaluate(&pin.config, &proposal, &context)
            });
            call.await.unwrap_or_else(|problem| Err(setup_fault(problem)))
        }
        Err(problem) => Err::<approval::Verdict, Fault>(setup_fault(problem)),
    };
    shared.internal(Input::Verdict { proposal: id, verdict });
}
