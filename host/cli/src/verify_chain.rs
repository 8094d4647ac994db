//! `moult verify-chain`: re-checks a chain from nothing but its genesis file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use moult_audit::{Audit, AuditError, Auditor, ProposalReport};
use moult_node::genesis::GenesisFile;
use moult_store::{DirLock, Store, StoreError, StoreOptions};
use moult_types::block::link;
use moult_types::message::Blocks;
use moult_types::{EpochNumber, Genesis, GlobalIndex, decode};
use serde_json::json;

use crate::client::{ApiArgs, Client};
use crate::failure::{Told, negative};
use crate::output::{self, Progress, grouped, say, utc};

/// Bytes of blocks that are checked at once.
const STRETCH_BYTES: usize = 8 << 20;
/// Epochs read from the store at once.
const EPOCHS_AT_ONCE: usize = 100;
/// At most this often a line about how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The genesis file: the only thing that is believed.
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Check the store in a node's data folder; the node is stopped. Left out: a node is asked.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Stop after this block (over all epochs).
    #[arg(long, value_name = "BLOCK")]
    to: Option<u64>,
    /// Where the chain carries another one on: that one's genesis file. It is checked, too, up to
    /// the block that is carried on, in the store below.
    #[arg(long, value_name = "FILE", requires = "former_store")]
    former_genesis: Option<PathBuf>,
    /// A store of the former chain, such as `store.before-recovery-1`.
    #[arg(long, value_name = "DIR", requires = "former_genesis")]
    former_store: Option<PathBuf>,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let genesis = GenesisFile::load(&args.genesis)?.to_genesis()?;
    if let (Some(file), Some(dir)) = (&args.former_genesis, &args.former_store) {
        let former = GenesisFile::load(file)?.to_genesis()?;
        let link = check_former(&genesis, &former, dir)?;
        Progress { json }.line(link);
    }
    let mut check = Check {
        auditor: Auditor::new(&genesis)?,
        to: args.to.unwrap_or(u64::MAX),
        out: Progress { json },
        last: Instant::now(),
    };
    let result = match &args.data_dir {
        Some(dir) => check.store(&genesis, dir),
        None => check.node(&mut args.api.client()?).await,
    };
    let problem = match result {
        Ok(()) => None,
        Err(error) => match error.downcast::<AuditError>() {
            Ok(problem) => Some(problem),
            Err(other) => return Err(other),
        },
    };
    answer(&check.auditor.audit(), problem.as_ref(), json)
}

/// That a chain carries on another one from a block which that chain leads to. Answers with what
/// was found.
fn check_former(genesis: &Genesis, former: &Genesis, dir: &Path) -> anyhow::Result<String> {
    let Some(origin) = genesis.origin else {
        return Err(negative("this chain carries on no other one: its genesis names none"));
    };
    if former.chain() != origin.chain {
        return Err(negative(format!(
            "the genesis names chain {} as the former one, and this is chain {}",
            origin.chain,
            former.chain()
        )));
    }
    ensure!(Store::exists(dir), "{} is no store", dir.display());
    let store = Store::open_to_read(dir, former.chain(), StoreOptions::default()).map_err(refused)?;
    let mut auditor = Auditor::new(former)?;
    while let Some(stretch) =
        store.certified_stretch(auditor.next(), auditor.phase(), STRETCH_BYTES).map_err(refused)?
    {
        auditor
            .feed(&stretch)
            .map_err(|problem| negative(format!("the former chain does not hold: {problem}")))?;
    }
    let last = store.last_final()?;
    if auditor.next() <= last {
        return Err(negative(format!("the former chain does not hold: block {} is missing", auditor.next())));
    }
    // Above the last final block a store is checked when it is opened to be used.
    let mut at = store.block(origin.global).map_err(refused)?;
    if at.as_ref().is_none_or(|block| block.hash != origin.hash) {
        return Err(negative(format!(
            "block {} of the former chain is another one, or not there",
            origin.global
        )));
    }
    let mut held = 0;
    while let Some(block) = at.take().filter(|block| block.global > last) {
        let below = store.block(GlobalIndex(block.global.0 - 1)).map_err(refused)?;
        if block.hash != link(block.parent, block.block.body())
            || below
                .as_ref()
                .is_none_or(|below| below.identity == block.identity && below.hash != block.parent)
        {
            return Err(negative(format!("block {} of the former chain is not linked", block.global)));
        }
        (held, at) = (held + 1, below);
    }
    let beyond = last.0.saturating_sub(origin.global.0);
    let final_to = last.0.min(origin.global.0);
    Ok(match (held, beyond) {
        (_, beyond @ 1..) => format!(
            "the former chain leads to block {}, WHERE IT IS CARRIED ON; {} later blocks are final there and are NOT carried on",
            grouped(origin.global.0),
            grouped(beyond)
        ),
        (0, _) => {
            format!("the former chain holds and leads to block {}, which is carried on", grouped(final_to))
        }
        (held, _) => format!(
            "the former chain holds to block {}; {held} blocks above, linked and not final in this store, are carried on",
            grouped(final_to)
        ),
    })
}

struct Check {
    auditor: Auditor,
    to: u64,
    out: Progress,
    last: Instant,
}

impl Check {
    fn store(&mut self, genesis: &Genesis, dir: &Path) -> anyhow::Result<()> {
        let folder = dir.join("store");
        ensure!(
            Store::exists(&folder),
            "{} holds no store: name the folder `data_dir` of a node",
            dir.display()
        );
        let _lock = DirLock::acquire(dir).context("the node must be stopped")?;
        let store =
            Store::open_to_read(&folder, genesis.chain(), StoreOptions::default()).map_err(refused)?;
        while self.auditor.next().0 <= self.to
            && let Some(stretch) = store
                .certified_stretch(self.auditor.next(), self.auditor.phase(), STRETCH_BYTES)
                .map_err(refused)?
        {
            self.feed(&stretch)?;
        }
        let last = store.last_final()?;
        let next = self.auditor.next();
        if next <= last && next.0 <= self.to {
            return Err(AuditError::Missing { expected: next, found: last }.into());
        }
        self.epochs(&store)
    }

    /// What the store says beside the blocks.
    fn epochs(&self, store: &Store) -> anyhow::Result<()> {
        let begun = self.auditor.audit().epochs.last().map_or(0, |epoch| epoch.number);
        let mut from = EpochNumber(0);
        loop {
            let epochs = store.epochs(from, EPOCHS_AT_ONCE)?;
            let Some(last) = epochs.last().map(|start| start.manifest.number) else { return Ok(()) };
            for start in epochs.iter().filter(|start| start.manifest.number.0 <= begun) {
                self.auditor.check_stored_epoch(start)?;
            }
            from = last.next();
        }
    }

    async fn node(&mut self, client: &mut Client) -> anyhow::Result<()> {
        while self.auditor.next().0 <= self.to {
            let (epoch, phase) = self.auditor.phase();
            let path = format!("/v1/chain?from={}&epoch={epoch}&phase={phase}", self.auditor.next().0);
            let body = match client.call("GET", &path, &[], b"").await {
                Ok((_, body)) => body,
                Err(error) if error.status() == Some(404) => break,
                Err(error) => return Err(error.into()),
            };
            let stretch = decode::<Blocks>(&body).map_err(|e| {
                negative(format!(
                    "{} answered block {} with bytes that are {e}",
                    client.url(),
                    self.auditor.next()
                ))
            })?;
            self.feed(&stretch)?;
        }
        ensure!(self.auditor.audit().last.is_some(), "{} has no final block yet", client.url());
        Ok(())
    }

    fn feed(&mut self, stretch: &Blocks) -> Result<(), AuditError> {
        self.auditor.feed(stretch)?;
        if self.last.elapsed() >= BETWEEN_LINES {
            self.last = Instant::now();
            self.out.line(format_args!("block {}", grouped(self.auditor.next().0 - 1)));
        }
        Ok(())
    }
}

/// A store of another chain, or with damaged records, does not hold.
fn refused(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::OtherChain { .. } | StoreError::Corrupt { .. } => negative(error.to_string()),
        error => error.into(),
    }
}

fn answer(audit: &Audit, problem: Option<&AuditError>, json: bool) -> anyhow::Result<()> {
    if json {
        let problem = problem.map(ToString::to_string);
        output::json(&json!({ "holds": problem.is_none(), "problem": problem, "audit": audit }))?;
    } else {
        tell(audit);
        match problem {
            None => say!("the chain holds: every block up to there follows from the genesis"),
            Some(problem) => say!("THE CHAIN DOES NOT HOLD: {problem}"),
        }
    }
    if problem.is_some() { Err(Told.into()) } else { Ok(()) }
}

fn tell(audit: &Audit) {
    say!("chain {} ({})", audit.name, audit.chain);
    if let Some(origin) = &audit.origin {
        say!(
            "it carries on chain {} from block {} ({}), with the state {}: by the word of its genesis",
            origin.chain,
            grouped(origin.global_exec_index),
            origin.hash,
            origin.state_root
        );
    }
    for epoch in &audit.epochs {
        say!(
            "epoch {} ({}): {} blocks after block {}, {} authorities, {} certificates",
            epoch.number,
            epoch.finality,
            grouped(epoch.blocks),
            grouped(epoch.base),
            epoch.committee.len(),
            grouped(epoch.certificates)
        );
    }
    for (epoch, fallback) in audit.epochs.iter().flat_map(|e| e.fallbacks.iter().map(move |f| (e.number, f)))
    {
        say!(
            "epoch {epoch}: its engine was given up after block {}; phase {} went on",
            grouped(fallback.resumed_after),
            fallback.phase
        );
    }
    audit.proposals.iter().for_each(tell_proposal);
    if let Some(last) = &audit.last {
        say!(
            "checked to block {} of {}: {} batches with {} transactions and {} acts of governance",
            grouped(last.global_exec_index),
            utc(last.time_ms),
            grouped(audit.batches),
            grouped(audit.transactions),
            grouped(audit.governance)
        );
    }
}

fn tell_proposal(proposal: &ProposalReport) {
    say!(
        "proposal {} of {} for epoch {}: {}",
        proposal.id,
        short(&proposal.proposer),
        proposal.new_epoch,
        proposal.state
    );
    for vote in &proposal.votes {
        let how = match (&vote.reason, vote.approve) {
            (_, true) => "for it".to_owned(),
            (Some(reason), false) => format!("against it: {reason:?}"),
            (None, false) => "against it".to_owned(),
        };
        say!("  {} {how}, {}", short(&vote.authority), utc(vote.time_ms));
    }
}

fn short(authority: &str) -> &str {
    authority.get(..12).unwrap_or(authority)
}
