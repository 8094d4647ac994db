//! The replica's events as log lines, metrics and the view. Nothing depends on them.

use moult_core::Event;
use moult_core::governance::ProposalState;
use moult_core::io::EpochStart;
use moult_core::stop::{Stop, StopCause};
use moult_types::governance::Decision;

use crate::key_switch;
use crate::shared::Shared;

pub(crate) fn event(shared: &Shared, event: Event) {
    shared.metrics.event(&event);
    match event {
        Event::Ordered { index, round, leader, batches } => {
            tracing::trace!(target: "consensus", index = index.0, round, batches, "ordered");
            shared.view_mut(|view| (view.round, view.leader) = (round, leader));
        }
        Event::Final { index, global, latency_ms, .. } => {
            tracing::trace!(target: "consensus", index = index.0, global = global.0, latency_ms, "final");
        }
        Event::Gauge { .. } => {}
        Event::EngineFault { fault, peer, beyond_recovery: false } => {
            let peer = peer.map(|peer| peer.to_string());
            tracing::warn!(target: "consensus", fault, peer, "the engine failed and is rebuilt from its records");
        }
        Event::EngineFault { fault, beyond_recovery: true, .. } => {
            tracing::error!(target: "consensus", fault, "the engine is beyond recovery here: this node follows certificates until the next epoch or phase");
        }
        Event::EngineMisbehaved(what) => tracing::debug!(target: "consensus", what, "refused"),
        Event::Proposal(record) => {
            let (id, new_epoch) = (record.id.0, record.proposal.new_epoch.0);
            match record.state {
                ProposalState::Proposed if record.votes.is_empty() => {
                    tracing::info!(target: "epoch-transition", proposal = id, new_epoch, "proposed");
                }
                ProposalState::Proposed => {
                    tracing::info!(target: "epoch-transition", proposal = id, votes = record.votes.len(), "a vote was counted");
                }
                ProposalState::Approved if record.ready.is_empty() => {
                    tracing::info!(target: "epoch-transition", proposal = id, "approved by a quorum; waiting for readiness");
                }
                ProposalState::Approved => {
                    tracing::info!(target: "epoch-transition", proposal = id, ready = record.ready.len(), "readiness was counted");
                }
                ProposalState::Scheduled { barrier } => {
                    tracing::info!(target: "epoch-transition", proposal = id, new_epoch, barrier = barrier.0, "scheduled");
                }
                ProposalState::Active => {
                    tracing::info!(target: "epoch-transition", proposal = id, new_epoch, "active")
                }
                ProposalState::Rejected
                | ProposalState::Expired
                | ProposalState::Withdrawn
                | ProposalState::Superseded
                | ProposalState::Cancelled => {
                    tracing::warn!(target: "epoch-transition", proposal = id, new_epoch, state = ?record.state, "ended without effect");
                }
            }
        }
        Event::Voted { proposal, decision } => match decision {
            Decision::Approve => {
                tracing::info!(target: "epoch-transition", proposal = proposal.0, "this node votes for it")
            }
            Decision::Reject(reason) => {
                tracing::warn!(target: "epoch-transition", proposal = proposal.0, reason, "this node votes against it");
            }
        },
        Event::PolicyFault { proposal, fault } => {
            tracing::error!(target: "epoch-transition", proposal = proposal.0, fault, "the approval policy failed: this node does not vote");
        }
        Event::ForkDetected { peer, global } => {
            tracing::error!(target: "consensus", %peer, global = global.0, "FORK: a peer holds another final block or state here; compare /v1/blocks of both nodes");
        }
        Event::StateForked { global, reason } => {
            let text = Stop { cause: StopCause::State, reason: reason.clone() }.to_string();
            tracing::error!(target: "consensus", global = global.0, reason, "FORK: the state of this node is not that of a quorum: it signs nothing more, over all starts, and serves reads of what it has; keep its data folder, find the cause, then bring it back (`moult restore`, `moult guard resume`) or set it up anew");
            shared.view_mut(|view| view.signing_stopped = Some(text));
        }
        Event::Sync { highest, .. } => shared.view_mut(|view| view.highest_seen = highest),
        Event::Diverged { index } => {
            tracing::error!(target: "consensus", index = index.0, "the engine here ordered another chain than a quorum certified: this node prepares nothing more in this epoch and follows certificates");
        }
        Event::Suspects { reason } => {
            tracing::warn!(target: "consensus", reason, "this node suspects the engine; a quorum that does gives it up");
        }
        Event::PhaseOpened(record) => {
            tracing::error!(
                target: "epoch-transition",
                epoch = record.number.0,
                phase = record.phase,
                failed = %record.failed,
                reason = record.reason,
                "ENGINE GIVEN UP by a quorum: the epoch goes on with the fallback engine of this phase; propose one that works"
            );
            shared.view_mut(|view| (view.phase, view.identity) = (record.phase, record.identity));
        }
        Event::PhaseResumed { phase, global } => {
            tracing::warn!(target: "epoch-transition", phase, global = global.0, "the fallback engine goes on from this block; nothing final was lost");
        }
        Event::KeyElsewhere(reason) => {
            tracing::error!(target: "consensus", reason, "THIS NODE'S KEY IS USED ELSEWHERE, or its folder is an old copy: it signs nothing more with it, over all starts; give the authority a new key (`moult keys rotate`)");
            let text = Stop { cause: StopCause::Key, reason }.to_string();
            shared.view_mut(|view| view.signing_stopped = Some(text));
        }
        Event::SigningStopped(reason) => {
            tracing::error!(target: "consensus", reason, "this node signs nothing; it follows as an observer");
            shared.view_mut(|view| view.signing_stopped = Some(reason));
        }
    }
}

pub(crate) fn epoch_started(shared: &Shared, start: &EpochStart) {
    let manifest = &start.manifest;
    let engine = manifest.pin(moult_types::World::Engine).map(|pin| pin.hash.to_string());
    tracing::info!(
        target: "epoch-transition",
        epoch = manifest.number.0,
        identity = %manifest.identity(),
        base = start.base.0,
        authorities = manifest.members.len(),
        engine,
        "epoch begins here"
    );
    let keep: Vec<_> = manifest.modules.values().chain(&manifest.fallbacks).map(|pin| pin.hash).collect();
    shared.modules.retain(&keep);
    if key_switch::is_due(&shared.config, shared.authority, manifest) {
        tracing::warn!(target: "startup", authority = %shared.authority, "this epoch gives the authority its next key: the node restarts and takes it up");
        shared.end_for_key();
    }
    shared.metrics.epoch_started(start, shared.network.get().map(moult_net::Network::stats));
}
