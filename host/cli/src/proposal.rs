//! `moult proposal`: list, show, diff, vote, withdraw.

use std::collections::BTreeMap;
use std::fmt::Display;

use clap::{ArgGroup, Args as ClapArgs, Subcommand};
use moult_node::api_types::{
    EpochBody, FailedEngineBody, OperatorVoteBody, ProposalBody, ShadowBody, VoteBody,
};
use moult_node::genesis::PinFile;
use moult_types::{EpochLimits, FaultModel, Member, World};
use serde_json::json;

use crate::client::ApiArgs;
use crate::epoch;
use crate::genesis::{model_name, worlds};
use crate::output::{self, duration_us, grouped, say, table, utc};
use crate::pins::label;
use crate::propose::fetch;

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List proposals, newest first.
    List {
        /// Only those that can still become active.
        #[arg(long)]
        open: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show one with its votes, readiness and checks.
    Show {
        id: u64,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show what it changes.
    Diff {
        id: u64,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Tell a policy that asks its operator what to vote.
    #[command(group = ArgGroup::new("decision").required(true).args(["approve", "reject"]))]
    Vote {
        id: u64,
        /// For it.
        #[arg(long)]
        approve: bool,
        /// Against it.
        #[arg(long)]
        reject: bool,
        /// Why not, for the record.
        #[arg(long, default_value = "", requires = "reject")]
        reason: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Take a proposal of this node's authority back.
    Withdraw {
        id: u64,
        #[command(flatten)]
        api: ApiArgs,
    },
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    match args.command {
        Command::List { open, api } => {
            let path = if open { "/v1/proposals?open=true" } else { "/v1/proposals" };
            let proposals: Vec<ProposalBody> = api.client()?.get(path).await?;
            if json { output::json(&proposals) } else { list(&proposals) }
        }
        Command::Show { id, api } => {
            let proposal = fetch(&mut api.client()?, id).await?;
            if json {
                return output::json(&proposal);
            }
            print(&proposal);
            Ok(())
        }
        Command::Diff { id, api } => {
            let mut client = api.client()?;
            let proposal = fetch(&mut client, id).await?;
            let before = epoch::fetch(&mut client, proposal.new_epoch.saturating_sub(1)).await?;
            let lines = diff(&Fixed::from(&before), &Fixed::from(&proposal))?;
            if json {
                return output::json(&json!({ "proposal": id, "changes": lines }));
            }
            say!("proposal {id}, epoch {} to {}:", before.number, proposal.new_epoch);
            for line in &lines {
                say!("  {line}");
            }
            Ok(())
        }
        Command::Vote { id, approve, reject: _, reason, api } => {
            let body = serde_json::to_vec(&OperatorVoteBody { approve, reason })?;
            let headers = [("content-type", "application/json")];
            api.client()?.call("POST", &format!("/v1/proposals/{id}/vote"), &headers, &body).await?;
            let vote = if approve { "for" } else { "against" };
            done(
                json,
                json!({ "proposal": id, "approve": approve }),
                format_args!("the node's policy was told to vote {vote} proposal {id}"),
            )
        }
        Command::Withdraw { id, api } => {
            api.client()?.call("DELETE", &format!("/v1/proposals/{id}"), &[], b"").await?;
            done(
                json,
                json!({ "proposal": id, "withdrawn": true }),
                format_args!("proposal {id} is withdrawn"),
            )
        }
    }
}

fn done(json: bool, value: serde_json::Value, text: impl Display) -> anyhow::Result<()> {
    if json {
        return output::json(&value);
    }
    say!("{text}");
    Ok(())
}

fn list(proposals: &[ProposalBody]) -> anyhow::Result<()> {
    let mut rows = vec![
        ["ID", "STATE", "EPOCH", "FOR", "AGAINST", "QUORUM", "PROPOSED", "EXPLANATION"]
            .map(String::from)
            .to_vec(),
    ];
    for p in proposals {
        rows.push(vec![
            p.id.to_string(),
            p.state.clone(),
            p.new_epoch.to_string(),
            p.stake_approve.to_string(),
            p.stake_reject.to_string(),
            p.quorum.to_string(),
            utc(p.proposed_time_ms),
            p.explanation.clone(),
        ]);
    }
    table(&rows);
    Ok(())
}

/// Everything about a proposal, for a person.
pub(crate) fn print(p: &ProposalBody) {
    say!("proposal {}: {}", p.id, p.state);
    say!("  {}", p.explanation);
    say!("  hash        {}", p.hash);
    say!("  proposer    {}", p.proposer);
    say!("  proposed    block {}, {}", p.proposed_index, utc(p.proposed_time_ms));
    say!("  changed     block {}, {}", p.changed_index, utc(p.changed_time_ms));
    say!("  expires     after block {}", p.deadline);
    if let Some(time) = p.not_before_ms {
        say!("  not before  {}", utc(time));
    }
    if let Some(barrier) = p.barrier {
        say!("  barrier     block {barrier}");
    }
    say!(
        "  to epoch    {}, {} authorities, {} fault model",
        p.new_epoch,
        p.committee.len(),
        model_name(p.fault_model)
    );
    for (world, pin) in &p.modules {
        say!("  {:11} {}  {}", world.name(), label(pin.hash), pin.hash);
    }
    for pin in &p.fallbacks {
        say!("  fallback    {}  {}", label(pin.hash), pin.hash);
    }
    for failed in &p.failed_engines {
        say!("  {}", failed_line(failed));
    }
    if p.readmit_failed {
        say!("  LETS IN engines again that were given up before (readmit_failed)");
    }
    say!("  votes       {} for, {} against; a quorum is {}", p.stake_approve, p.stake_reject, p.quorum);
    for vote in &p.votes {
        say!("    {}", vote_line(vote));
    }
    let ready: Vec<String> = p.ready.iter().map(ToString::to_string).collect();
    say!(
        "  ready       {}",
        if ready.is_empty() { "none yet".into() } else { format!("authorities {}", ready.join(", ")) }
    );
    for check in &p.checks {
        match &check.problem {
            None => say!("  here        {}: {} {} is ready", check.world, check.name, check.version),
            Some(problem) => say!("  here        {}: {:?} is NOT ready: {problem}", check.world, check.hash),
        }
    }
    if let Some(shadow) = &p.shadow {
        print_shadow(shadow);
    }
}

fn print_shadow(shadow: &ShadowBody) {
    let commits = &shadow.commits;
    let why = shadow.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    say!("  in shadow   {}{why}", shadow.state);
    say!(
        "              fed {} events; {} of {} commits alike, {} other, {} missed",
        shadow.events,
        commits.equal,
        commits.live,
        commits.other,
        commits.missed
    );
    let candidate = &shadow.candidate;
    say!(
        "              slowest call {}, most fuel {}, memory {} KiB",
        duration_us(candidate.call_max_us),
        grouped(candidate.fuel_max),
        candidate.memory_bytes >> 10
    );
}

/// An engine that was given up, in one line.
pub(crate) fn failed_line(failed: &FailedEngineBody) -> String {
    let FailedEngineBody { module, epoch, phase, resumed_from, .. } = failed;
    format!(
        "GIVEN UP    {}  {module} in epoch {epoch}, phase {phase}, after block {}",
        label(*module),
        grouped(*resumed_from)
    )
}

/// One vote in one line.
pub(crate) fn vote_line(vote: &VoteBody) -> String {
    let decision = if vote.approve {
        "for".to_owned()
    } else {
        format!("AGAINST: {}", vote.reason.as_deref().unwrap_or("no reason given"))
    };
    format!("authority {} voted {decision} (block {})", vote.authority_index, vote.index)
}

/// What an epoch fixes, or a proposal would.
pub(crate) struct Fixed<'a> {
    pub(crate) modules: &'a BTreeMap<World, PinFile>,
    pub(crate) fallbacks: &'a [PinFile],
    pub(crate) fault_model: FaultModel,
    pub(crate) committee: &'a [Member],
    pub(crate) limits: &'a EpochLimits,
}

impl<'a> From<&'a EpochBody> for Fixed<'a> {
    fn from(epoch: &'a EpochBody) -> Self {
        let EpochBody { modules, fallbacks, fault_model, committee, limits, .. } = epoch;
        Self { modules, fallbacks, fault_model: *fault_model, committee, limits }
    }
}

impl<'a> From<&'a ProposalBody> for Fixed<'a> {
    fn from(proposal: &'a ProposalBody) -> Self {
        let ProposalBody { modules, fallbacks, fault_model, committee, limits, .. } = proposal;
        Self { modules, fallbacks, fault_model: *fault_model, committee, limits }
    }
}

/// What changes, one line each.
pub(crate) fn diff(before: &Fixed<'_>, after: &Fixed<'_>) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for world in worlds() {
        match (before.modules.get(&world), after.modules.get(&world)) {
            (Some(old), Some(new)) if old.hash != new.hash => {
                lines.push(format!("{world}: {} -> {}  {}", label(old.hash), label(new.hash), new.hash));
            }
            (Some(old), Some(new)) if old != new => {
                lines.push(format!("{world}: {} with another configuration", label(new.hash)))
            }
            _ => {}
        }
    }
    if before.fault_model != after.fault_model {
        lines.push(format!(
            "fault model: {} -> {}",
            model_name(before.fault_model),
            model_name(after.fault_model)
        ));
    }
    diff_fallbacks(before.fallbacks, after.fallbacks, &mut lines);
    diff_members(before.committee, after.committee, &mut lines);
    let (old, new) = (serde_json::to_value(before.limits)?, serde_json::to_value(after.limits)?);
    for (name, value) in new.as_object().into_iter().flatten() {
        if old.get(name) != Some(value) {
            lines.push(format!("{name}: {} -> {value}", old.get(name).unwrap_or(&serde_json::Value::Null)));
        }
    }
    if lines.is_empty() {
        lines.push("nothing changes".into());
    }
    Ok(lines)
}

fn diff_fallbacks(before: &[PinFile], after: &[PinFile], lines: &mut Vec<String>) {
    let names = |pins: &[PinFile]| {
        let names: Vec<_> = pins.iter().map(|pin| label(pin.hash)).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    if before != after {
        lines.push(format!("fallbacks: {} -> {}", names(before), names(after)));
    }
}

fn diff_members(before: &[Member], after: &[Member], lines: &mut Vec<String>) {
    let old: BTreeMap<_, _> =
        before.iter().enumerate().map(|(index, member)| (member.id, (index, member))).collect();
    for (index, member) in after.iter().enumerate() {
        match old.get(&member.id) {
            None => lines.push(format!(
                "committee: + {} at {}, stake {}, index {index}",
                member.id, member.address, member.stake
            )),
            Some((old_index, old)) => {
                let change = |what: &str, old: &dyn Display, new: &dyn Display| {
                    format!("committee: {:?} {what} {old} -> {new}", member.id)
                };
                if old.key != member.key {
                    lines.push(change("key", &old.key, &member.key));
                }
                if old.stake != member.stake {
                    lines.push(change("stake", &old.stake, &member.stake));
                }
                if old.address != member.address {
                    lines.push(change("address", &old.address, &member.address));
                }
                if *old_index != index {
                    lines.push(change("index", old_index, &index));
                }
            }
        }
    }
    for member in before.iter().filter(|member| !after.iter().any(|other| other.id == member.id)) {
        lines.push(format!("committee: - {} at {}, stake {}", member.id, member.address, member.stake));
    }
}

#[cfg(test)]
mod tests {
    use moult_types::{AuthorityId, PublicKey, Signature};

    use super::*;

    fn member(n: u8, stake: u64) -> Member {
        Member {
            id: AuthorityId([n; 32]),
            key: PublicKey([n; 32]),
            possession: Signature([0; 64]),
            stake,
            address: format!("host-{n}:1"),
        }
    }

    #[test]
    fn members_that_come_go_and_change_are_named() {
        let mut lines = Vec::new();
        diff_members(&[member(1, 1), member(2, 1)], &[member(2, 5), member(3, 1)], &mut lines);
        let text = lines.join("\n");
        for part in ["stake 1 -> 5", "index 1 -> 0", "+ 0303", "- 0101"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(lines.len(), 4, "{text}");
    }
}
