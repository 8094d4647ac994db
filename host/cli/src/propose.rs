//! `moult propose`: from options to a proposal, and to the new epoch if asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgGroup, Args as ClapArgs};
use moult_node::api_types::{ProposalBody, ProposeBody, Status};
use moult_node::genesis::PinFile;
use moult_types::{FaultModel, Member, ModulePin, World, encode};
use tokio::time::{Instant, sleep};

use crate::certify::read_report;
use crate::client::{ApiArgs, Client, ClientError};
use crate::failure::{Told, negative};
use crate::genesis::{parse_fault_model, read_json};
use crate::module::upload;
use crate::output::{self, Progress, say};
use crate::pins::{Chosen, PinArgs, choose};
use crate::proposal::vote_line;

#[derive(ClapArgs)]
#[command(group = ArgGroup::new("change").required(true).multiple(true)
    .args(["engine", "approval", "application", "config", "fallback", "committee", "fault_model", "limits"]))]
pub(crate) struct Args {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    pins: PinArgs,
    /// An engine to fall back to, without configuration: NAME, FILE or HASH. Given in order, all
    /// that there shall be; left out, they stay as they are.
    #[arg(long, value_name = "MODULE")]
    fallback: Vec<String>,
    /// The whole new committee: a JSON list of identities (or a genesis file, for its committee).
    #[arg(long, value_name = "FILE")]
    committee: Option<PathBuf>,
    /// What the new quorums are made for: `byzantine` or `crash`.
    #[arg(long, value_parser = parse_fault_model, value_name = "MODEL")]
    fault_model: Option<FaultModel>,
    /// The new limits, as JSON; what is left out has its default.
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
    /// Not before this block time, in milliseconds since 1970.
    #[arg(long, value_name = "MS")]
    not_before: Option<u64>,
    /// Expires so many blocks from now [default: 50000].
    #[arg(long, value_name = "BLOCKS")]
    deadline: Option<u64>,
    #[command(flatten)]
    how: HowArgs,
}

/// How a change is put forward, whatever it is.
#[derive(ClapArgs)]
pub(crate) struct HowArgs {
    /// Pin engines that a quorum gave up before, as they were then; voters are shown that.
    #[arg(long)]
    pub(crate) readmit_failed: bool,
    /// A certifier's report on a module that is proposed, as `moult certify` wrote it; may be given
    /// several times.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Vec<PathBuf>,
    /// Show votes, readiness, barrier and switch as they come; exit code 3 unless it is active.
    #[arg(long)]
    pub(crate) wait: bool,
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    let mut client = args.api.client()?;
    let chosen = args.pins.chosen()?;
    let present: Status = client.get("/v1/status").await?;
    for (world, module) in &chosen {
        if let Some(bytes) = &module.bytes {
            upload(&mut client, module.hash, bytes).await?;
            progress.line(format_args!("{world}: {} {} is at {}", module.name, module.hash, client.url()));
        }
    }
    let mut body = body(&args, chosen, &present, progress)?;
    body.fallbacks = fallbacks(&args.fallback, &mut client, progress).await?;
    put_forward(&mut client, body, &args.how, progress).await
}

/// Proposes, and follows it if asked.
pub(crate) async fn put_forward(
    client: &mut Client,
    body: ProposeBody,
    how: &HowArgs,
    progress: Progress,
) -> anyhow::Result<()> {
    let (readmit_failed, reports) = (how.readmit_failed, reports(&how.report)?);
    let body = ProposeBody { readmit_failed, reports, ..body };
    let proposal: ProposalBody = client.send("POST", "/v1/proposals", &body).await?;
    progress.line(format_args!("proposal {} is final in block {}", proposal.id, proposal.proposed_index));
    let proposal = if how.wait { follow(client, proposal, progress).await? } else { proposal };
    let json = progress.json;
    if json {
        output::json(&proposal)?;
    } else if !how.wait {
        say!("{}", proposal.explanation);
        say!("Follow it with `moult proposal show {}`, or propose with --wait.", proposal.id);
    }
    match (how.wait, proposal.state.as_str()) {
        (false, _) | (true, "active") => Ok(()),
        (true, _) if json => Err(Told.into()),
        (true, state) => {
            Err(negative(format!("proposal {} is {state}: {}", proposal.id, proposal.explanation)))
        }
    }
}

/// The whole new list, its modules uploaded.
async fn fallbacks(
    names: &[String],
    client: &mut Client,
    progress: Progress,
) -> anyhow::Result<Option<Vec<PinFile>>> {
    let mut pins = Vec::new();
    for name in names {
        let module = choose(World::Engine, name).context("--fallback")?;
        if let Some(bytes) = &module.bytes {
            upload(client, module.hash, bytes).await?;
            progress.line(format_args!("fallback: {} {} is at {}", module.name, module.hash, client.url()));
        }
        pins.push(PinFile::from(&ModulePin { hash: module.hash, config: Vec::new() }));
    }
    Ok(Some(pins).filter(|pins| !pins.is_empty()))
}

fn body(
    args: &Args,
    chosen: BTreeMap<World, Chosen>,
    present: &Status,
    progress: Progress,
) -> anyhow::Result<ProposeBody> {
    let mut configs = args.pins.configs()?;
    let mut body = ProposeBody {
        committee: args.committee.as_deref().map(read_committee).transpose()?,
        fault_model: args.fault_model,
        limits: args.limits.as_deref().map(read_json).transpose()?,
        not_before_ms: args.not_before,
        deadline_blocks: args.deadline,
        reports: Vec::new(),
        ..ProposeBody::default()
    };
    for (world, module) in chosen {
        let config = configs.remove(&world);
        let before = present.modules.get(&world);
        if config.is_none() && before.is_some_and(|pin| pin.config.is_some() || pin.config_hex.is_some()) {
            progress.line(format_args!(
                "{world}: the present module's configuration is not carried over (--config {world}=FILE gives one)"
            ));
        }
        let pin = ModulePin { hash: module.hash, config: config.unwrap_or_default() };
        body.modules.insert(world, PinFile::from(&pin));
    }
    // A configuration alone is for the module that is there.
    for (world, config) in configs {
        let pin = present
            .modules
            .get(&world)
            .with_context(|| format!("no module is pinned for the world `{world}`"))?;
        body.modules.insert(world, PinFile::from(&ModulePin { hash: pin.hash, config }));
    }
    Ok(body)
}

/// Reports in the order in which a proposal carries them.
fn reports(files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut reports: Vec<_> = files.iter().map(|file| read_report(file)).collect::<Result<_, _>>()?;
    reports.sort_by_key(|signed| (signed.report.module, signed.certifier));
    Ok(reports.iter().map(|signed| hex::encode(encode(signed))).collect())
}

/// A list of members, or any object with one under `committee`.
fn read_committee(path: &Path) -> anyhow::Result<Vec<Member>> {
    let value: serde_json::Value = read_json(path)?;
    let list = value.get("committee").cloned().unwrap_or(value);
    serde_json::from_value(list).with_context(|| format!("{} holds no list of identities", path.display()))
}

/// Shows each change until the proposal is decided for good.
pub(crate) async fn follow(
    client: &mut Client,
    mut proposal: ProposalBody,
    progress: Progress,
) -> anyhow::Result<ProposalBody> {
    let mut shown = Shown::default();
    let mut silent_since = None;
    loop {
        shown.changes(&proposal, progress);
        if !matches!(proposal.state.as_str(), "proposed" | "approved" | "scheduled") {
            return Ok(proposal);
        }
        sleep(POLL).await;
        match fetch(client, proposal.id).await {
            Ok(next) => {
                silent_since = None;
                proposal = next;
            }
            // The node may be restarting.
            Err(error) if error.is_passing() => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() > SILENCE_MAX {
                    return Err(
                        anyhow::Error::from(error).context(format!("following proposal {}", proposal.id))
                    );
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A proposal as the node sees it.
pub(crate) async fn fetch(client: &mut Client, id: u64) -> Result<ProposalBody, ClientError> {
    client.get(&format!("/v1/proposals/{id}")).await
}

/// What was already told of a proposal.
#[derive(Default)]
pub(crate) struct Shown {
    votes: BTreeSet<u32>,
    ready: usize,
    state: String,
    problems: BTreeSet<String>,
}

impl Shown {
    /// Tells what has changed since the last call.
    pub(crate) fn changes(&mut self, proposal: &ProposalBody, progress: Progress) {
        for line in self.lines(proposal) {
            progress.line(line);
        }
    }

    fn lines(&mut self, proposal: &ProposalBody) -> Vec<String> {
        let mut lines = Vec::new();
        for vote in &proposal.votes {
            if self.votes.insert(vote.authority_index) {
                lines.push(vote_line(vote));
            }
        }
        for check in &proposal.checks {
            let Some(problem) = &check.problem else { continue };
            let line = format!("{}: {:?} is not ready at this node: {problem}", check.world, check.hash);
            if self.problems.insert(line.clone()) {
                lines.push(line);
            }
        }
        if proposal.ready.len() > self.ready {
            self.ready = proposal.ready.len();
            lines.push(format!("ready: {} of {} authorities", self.ready, proposal.committee.len()));
        }
        if self.state != proposal.state {
            self.state.clone_from(&proposal.state);
            // The explanation begins with the state.
            lines.push(format!("block {}: {}", proposal.changed_index, proposal.explanation));
        }
        lines
    }
}

/// How often a proposal is asked for.
const POLL: Duration = Duration::from_millis(100);
/// For how long the node may be away meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committee_is_a_list_or_in_an_object() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("c.json");
        for (text, fits) in
            [("[]", true), ("{\"committee\":[],\"x\":1}", true), ("{\"x\":1}", false), ("[1]", false)]
        {
            std::fs::write(&file, text).expect("written");
            assert_eq!(read_committee(&file).is_ok(), fits, "{text}");
        }
    }
}
