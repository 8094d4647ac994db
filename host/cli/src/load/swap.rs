//! Changing the engine under load.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{bail, ensure};
use moult_node::api_types::{ProposalBody, ProposeBody, Status};
use moult_node::genesis::PinFile;
use moult_types::{ModuleHash, ModulePin, World};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::builtin::Builtin;
use crate::client::Client;
use crate::epoch;
use crate::load::recorder::Recorder;
use crate::module::upload;
use crate::output::{Progress, duration_us};
use crate::pins::label;
use crate::propose::{Shown, fetch};

const POLL: Duration = Duration::from_millis(20);
/// Before the barrier was seen to be scheduled, and after the new epoch was seen.
const MARGIN: Duration = Duration::from_millis(1_000);
const SWAP_TIMEOUT: Duration = Duration::from_secs(60);

/// A swap of engines, measured by a client.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Swap {
    pub(crate) epoch: u64,
    pub(crate) proposal: u64,
    pub(crate) from: ModuleHash,
    pub(crate) to: ModuleHash,
    /// Last block of the former epoch, over all epochs.
    pub(crate) barrier: u64,
    pub(crate) votes_for: usize,
    /// From sending the proposal to seeing the new epoch.
    pub(crate) proposed_to_active_ms: u64,
    /// Longest time without an acknowledged write from a second before the barrier was
    /// scheduled to a second after the switch.
    pub(crate) longest_gap_us: u64,
    /// The same from the proposal on: compilation and rehearsal included.
    pub(crate) longest_gap_since_proposal_us: u64,
}

/// Proposes the engine, follows the change and measures it against the load's recorder.
pub(crate) async fn swap_to(
    client: &mut Client,
    engine: &Builtin,
    recorder: &Recorder,
    progress: Progress,
) -> anyhow::Result<Swap> {
    let hash: ModuleHash = engine.hash.parse()?;
    let before: Status = client.get("/v1/status").await?;
    ensure!(before.engine_hash != hash, "{} runs already", engine.name);
    let began = Instant::now();
    upload(client, hash, engine.bytes).await?;
    let pin = PinFile::from(&ModulePin { hash, config: Vec::new() });
    let body = ProposeBody { modules: BTreeMap::from([(World::Engine, pin)]), ..ProposeBody::default() };
    let proposal: ProposalBody = client.send("POST", "/v1/proposals", &body).await?;
    progress.line(format_args!(
        "proposal {}: engine {} -> {}",
        proposal.id,
        label(before.engine_hash),
        label(hash)
    ));
    let mut scheduled = None;
    let watched = watch(client, proposal, &mut scheduled, progress);
    let Ok(watched) = timeout(SWAP_TIMEOUT, watched).await else {
        bail!("the proposal was not active within {} s", SWAP_TIMEOUT.as_secs());
    };
    let proposal = watched?;
    let active = Instant::now();
    if proposal.state != "active" {
        bail!("proposal {} is {}: {}", proposal.id, proposal.state, proposal.explanation);
    }
    sleep(MARGIN).await;
    let since = scheduled.unwrap_or(active) - MARGIN;
    let swap = Swap {
        epoch: proposal.new_epoch,
        proposal: proposal.id,
        from: before.engine_hash,
        to: hash,
        barrier: epoch::fetch(client, proposal.new_epoch).await?.base,
        votes_for: proposal.votes.iter().filter(|vote| vote.approve).count(),
        proposed_to_active_ms: (active - began).as_millis() as u64,
        longest_gap_us: recorder.longest_gap(since.max(began), active + MARGIN),
        longest_gap_since_proposal_us: recorder.longest_gap(began, active + MARGIN),
    };
    progress.line(format_args!(
        "epoch {} runs {}: {} ms after the proposal, at most {} without an acknowledged write",
        swap.epoch,
        label(swap.to),
        swap.proposed_to_active_ms,
        duration_us(swap.longest_gap_us)
    ));
    Ok(swap)
}

/// Follows a proposal to its end.
async fn watch(
    client: &mut Client,
    mut proposal: ProposalBody,
    scheduled: &mut Option<Instant>,
    progress: Progress,
) -> anyhow::Result<ProposalBody> {
    let mut shown = Shown::default();
    loop {
        shown.changes(&proposal, progress);
        match proposal.state.as_str() {
            "scheduled" => *scheduled = scheduled.or_else(|| Some(Instant::now())),
            "proposed" | "approved" => {}
            _ => return Ok(proposal),
        }
        sleep(POLL).await;
        match fetch(client, proposal.id).await {
            Ok(next) => proposal = next,
            Err(error) if error.is_passing() => {}
            Err(error) => return Err(error.into()),
        }
    }
}
