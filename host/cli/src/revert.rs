//! `moult epoch revert`: the modules of a former epoch once more, by an ordinary proposal.
//!
//! Nothing of the chain or the state is undone: what comes is a new epoch, voted on like any other.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, bail, ensure};
use clap::Args as ClapArgs;
use moult_node::api_types::{EpochBody, FailedEngineBody, ProposeBody, Status};

use crate::client::{ApiArgs, Client};
use crate::epoch::fetch;
use crate::failure::negative;
use crate::output::Progress;
use crate::proposal::{Fixed, diff, failed_line};
use crate::propose::{HowArgs, put_forward};

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The epoch whose modules it shall be [default: the one before the present one].
    #[arg(long, value_name = "EPOCH")]
    to: Option<u64>,
    /// Its committee and fault model, too.
    #[arg(long)]
    committee: bool,
    /// Its limits, too.
    #[arg(long)]
    limits: bool,
    /// Propose without asking first.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    let mut client = args.api.client()?;
    let status: Status = client.get("/v1/status").await?;
    let to = target(args.to, status.epoch)?;
    let present = fetch(&mut client, status.epoch).await?;
    let former = fetch(&mut client, to).await?;
    let body = body(&args, &present, &former);
    if body == ProposeBody::default() {
        let other = last_other(&mut client, &present).await?;
        return Err(negative(nothing_differs(present.number, to, other)));
    }
    check_failed(&args, &former, &status.failed_engines)?;
    progress.line(format_args!("epoch {} with what epoch {to} had:", present.number + 1));
    for line in changes(&args, &present, &former)? {
        progress.line(format_args!("  {line}"));
    }
    if !args.yes {
        confirm()?;
    }
    put_forward(&mut client, body, &args.how, progress).await
}

/// The epoch that is gone back to.
fn target(to: Option<u64>, present: u64) -> anyhow::Result<u64> {
    match (to, present.checked_sub(1)) {
        (_, None) => bail!("the chain is in epoch 0: there is no epoch before it to go back to"),
        (None, Some(before)) => Ok(before),
        (Some(to), Some(before)) => {
            ensure!(to <= before, "--to {to}: the chain is in epoch {present}; go back to 0..={before}");
            Ok(to)
        }
    }
}

/// Only what differs: the rest stays as it is by itself.
fn body(args: &Args, present: &EpochBody, former: &EpochBody) -> ProposeBody {
    let pins = former.modules.iter().filter(|(world, pin)| present.modules.get(world) != Some(*pin));
    let mut body = ProposeBody {
        modules: pins.map(|(world, pin)| (*world, pin.clone())).collect(),
        fallbacks: (present.fallbacks != former.fallbacks).then(|| former.fallbacks.clone()),
        ..ProposeBody::default()
    };
    if args.committee && present.committee != former.committee {
        body.committee = Some(former.committee.clone());
    }
    if args.committee && present.fault_model != former.fault_model {
        body.fault_model = Some(former.fault_model);
    }
    if args.limits && present.limits != former.limits {
        body.limits = Some(former.limits.clone());
    }
    body
}

fn changes(args: &Args, present: &EpochBody, former: &EpochBody) -> anyhow::Result<Vec<String>> {
    let (before, mut after) = (Fixed::from(present), Fixed::from(former));
    if !args.committee {
        (after.committee, after.fault_model) = (before.committee, before.fault_model);
    }
    if !args.limits {
        after.limits = before.limits;
    }
    diff(&before, &after)
}

/// The last epoch before the present one whose modules are not the same.
async fn last_other(client: &mut Client, present: &EpochBody) -> anyhow::Result<Option<u64>> {
    const PAGE: u64 = 100;
    let mut end = present.number;
    while end > 0 {
        let from = end.saturating_sub(PAGE);
        let epochs: Vec<EpochBody> =
            client.get(&format!("/v1/epochs?from={from}&limit={}", end - from)).await?;
        let differs = |epoch: &&EpochBody| {
            epoch.number < end && (&epoch.modules, &epoch.fallbacks) != (&present.modules, &present.fallbacks)
        };
        if let Some(epoch) = epochs.iter().rev().find(differs) {
            return Ok(Some(epoch.number));
        }
        end = from;
    }
    Ok(None)
}

fn nothing_differs(present: u64, to: u64, other: Option<u64>) -> String {
    let hint = match other {
        Some(other) if other != to => {
            format!("the last one with other modules is epoch {other}: --to {other}")
        }
        Some(_) | None => "all epochs before have these modules".into(),
    };
    format!("epoch {present} has what epoch {to} had: there is nothing to go back to; {hint}")
}

/// Says it before the node does, and with what else could be done.
fn check_failed(args: &Args, former: &EpochBody, failed: &[FailedEngineBody]) -> anyhow::Result<()> {
    let engine = former.modules.get(&moult_types::World::Engine).into_iter().chain(&former.fallbacks);
    let known: Vec<_> = engine.filter_map(|pin| failed.iter().find(|failed| failed.is(pin))).collect();
    let Some(first) = known.first().filter(|_| !args.how.readmit_failed) else { return Ok(()) };
    Err(negative(format!(
        "epoch {} pins an engine that a quorum gave up:\n  {}\nGo back to another epoch (--to), or let it in \
         again on purpose (--readmit-failed)",
        former.number,
        failed_line(first)
    )))
}

fn confirm() -> anyhow::Result<()> {
    let input = std::io::stdin();
    ensure!(input.is_terminal(), "nothing was proposed: there is nobody to ask, say --yes");
    eprint!("Propose this? [y/N] ");
    let mut answer = String::new();
    input.lock().read_line(&mut answer).context("reading the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(negative("nothing was proposed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_to_go_back_to_lies_before_the_present_one() {
        assert_eq!(target(None, 3).expect("the one before"), 2);
        assert_eq!(target(Some(0), 3).expect("given"), 0);
        assert!(target(None, 0).expect_err("the first").to_string().contains("no epoch before it"));
        assert!(target(Some(3), 3).expect_err("the present one").to_string().contains("0..=2"));
    }

    #[test]
    fn what_does_not_differ_is_answered_with_what_would() {
        assert!(nothing_differs(4, 3, Some(1)).ends_with("--to 1"));
        assert!(nothing_differs(4, 3, None).contains("all epochs before"));
    }
}
