//! `moult keys`: the key of a node's authority, and the next one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Args as ClapArgs, Subcommand};
use moult_crypto::{KeyPair, Signer as _, possession};
use moult_node::api_types::{EpochBody, ProposalBody, ProposeBody};
use moult_node::config::NodeConfig;
use moult_node::files::{read_identity, write_key_of};
use moult_node::next_key_path;
use moult_types::{AuthorityId, Member, PublicKey};
use serde_json::json;

use crate::client::{ApiArgs, Client};
use crate::failure::{Told, negative};
use crate::output::{self, Progress, say};
use crate::propose::follow;

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a node's key and authority, and the next key if there is one.
    Show {
        /// The node's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make a new key beside the present one, and propose the epoch that gives it to the authority.
    Rotate {
        /// The configuration of the node whose key it is, on its machine.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        api: ApiArgs,
        /// Show how the proposal goes; exit code 3 unless it is active.
        #[arg(long)]
        wait: bool,
    },
}

/// Of a node's files.
struct Keys {
    config: NodeConfig,
    authority: AuthorityId,
    present: PublicKey,
}

impl Keys {
    fn load(path: &Path) -> anyhow::Result<Self> {
        let config = NodeConfig::load(path)?;
        let (keys, whose) = read_identity(&config.key_file)?;
        let authority = config.authority.unwrap_or(whose);
        Ok(Self { config, authority, present: keys.public_key() })
    }

    fn next(&self) -> anyhow::Result<Option<KeyPair>> {
        let path = next_key_path(&self.config.key_file);
        if !path.exists() {
            return Ok(None);
        }
        let (keys, whose) = read_identity(&path)?;
        ensure!(
            whose == self.authority,
            "{} was made for authority {whose}, not for {}: remove it if nobody needs it",
            path.display(),
            self.authority
        );
        Ok(Some(keys))
    }
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    match args.command {
        Command::Show { config } => show(&Keys::load(&config)?, json),
        Command::Rotate { config, mut api, wait } => {
            if api.api.is_none() && api.dir.is_none() {
                api.dir = config.parent().map(Path::to_owned);
            }
            rotate(&Keys::load(&config)?, &mut api.client()?, wait, json).await
        }
    }
}

fn show(keys: &Keys, json: bool) -> anyhow::Result<()> {
    let next = keys.next()?.map(|next| next.public_key());
    if json {
        return output::json(&json!({ "authority": keys.authority, "key": keys.present, "next_key": next }));
    }
    say!("authority  {}", keys.authority);
    say!("key        {}", keys.present);
    if let Some(next) = next {
        say!("next key   {next}, from the epoch on that has it");
    }
    Ok(())
}

async fn rotate(keys: &Keys, client: &mut Client, wait: bool, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    let epochs: Vec<EpochBody> = client.get("/v1/epochs").await?;
    let present = epochs.iter().max_by_key(|epoch| epoch.number).context("the node knows no epoch")?;
    let mut committee = present.committee.clone();
    let place = committee.iter().position(|member| member.id == keys.authority);
    let member = place.and_then(|place| committee.get_mut(place)).with_context(|| {
        format!("authority {} is not in the committee of epoch {}", keys.authority, present.number)
    })?;
    ensure!(
        present.committee.len() > 1,
        "a committee of one cannot change its key: nobody else can be ready"
    );
    let path = next_key_path(&keys.config.key_file);
    let next = match keys.next()? {
        Some(next) => {
            progress.line(format_args!("the next key is there already: {}", path.display()));
            next
        }
        None => {
            let next =
                KeyPair::generate().map_err(|e| anyhow::anyhow!("the system has no randomness: {e}"))?;
            write_key_of(&path, &next, keys.authority)?;
            progress.line(format_args!("wrote {} (secret)", path.display()));
            next
        }
    };
    let key = next.public_key();
    if member.key == key {
        return Err(negative(format!(
            "epoch {} has this key already: the node takes it up when it is started again",
            present.number
        )));
    }
    *member = Member { key, possession: possession(&next, keys.authority), ..member.clone() };
    let body = ProposeBody { committee: Some(committee), ..ProposeBody::default() };
    let proposal: ProposalBody = client.send("POST", "/v1/proposals", &body).await?;
    progress.line(format_args!("proposal {}: key {key} for authority {}", proposal.id, keys.authority));
    progress.line(
        "When its epoch begins, the node takes the key up by itself (it restarts), or at its next start.",
    );
    let proposal = if wait { follow(client, proposal, progress).await? } else { proposal };
    if json {
        output::json(&proposal)?;
    }
    match (wait, proposal.state.as_str()) {
        (false, _) | (true, "active") => Ok(()),
        (true, _) if json => Err(Told.into()),
        (true, state) => {
            Err(negative(format!("proposal {} is {state}: {}", proposal.id, proposal.explanation)))
        }
    }
}
