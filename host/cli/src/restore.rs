//! `moult restore` and `moult backup`: a node's store as a file, and back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args as ClapArgs;
use moult_keys::KeyFile;
use moult_node::api_types::BackupBody;
use moult_node::config::NodeConfig;
use moult_node::genesis::GenesisFile;
use moult_store::{Backup, BackupError, DirLock, RestoreStep, check_backup, restore};
use serde_json::json;

use crate::client::ApiArgs;
use crate::failure::negative;
use crate::init::CONFIG_FILE;
use crate::output::{self, Progress, say};

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// A file that the node made (`backup.dir`).
    backup: PathBuf,
    /// The node's folder; it is stopped.
    #[arg(long)]
    dir: PathBuf,
    /// Do it. Without this, only what would be done is said.
    #[arg(long)]
    yes: bool,
}

/// How often a backup under way is looked at.
const POLL: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    let config = NodeConfig::load(&args.dir.join(CONFIG_FILE))?;
    let whose = (
        GenesisFile::load(&config.genesis)?.to_genesis()?.chain(),
        KeyFile::read(&config.key_file)?.public_key(),
    );
    let _lock = DirLock::acquire(&config.data_dir)?;
    let backup = check_backup(&args.backup)?;
    let header = &backup.header;
    if (header.chain, header.node) != whose {
        let (path, chain, node) = (backup.path, header.chain, header.node);
        return Err(BackupError::OtherNode { path, chain, node }.into());
    }
    explain(&config, &backup, progress);
    if !args.yes {
        return Err(negative("nothing was done: run it again with --yes"));
    }
    let mut told = None;
    let done = restore(&config.data_dir, whose, &backup, &mut |step| {
        if told.replace(step) != Some(step) {
            progress.line(describe(step));
        }
        Ok(())
    })
    .with_context(|| "the restore was cut off: run it again, it completes what was begun")?;
    let is_other = done.hash != backup.hash;
    if json {
        output::json(&json!({
            "restored": done.hash.to_string(), "former_store": done.aside, "completed_earlier": is_other,
        }))?;
    }
    if let Some(aside) = &done.aside {
        progress.line(format_args!("the former store is {}; nothing was deleted", aside.display()));
    }
    if is_other {
        return Err(negative(format!(
            "an earlier restore, of the backup with hash {}, was cut off and is now complete; for this backup run it again",
            done.hash
        )));
    }
    progress.line("done: start the node, and look at `signing_stopped` in `moult status`");
    Ok(())
}

fn explain(config: &NodeConfig, backup: &Backup, progress: Progress) {
    let (header, data) = (&backup.header, config.data_dir.display());
    progress.line(format_args!("{} is whole", backup.path.display()));
    progress.line(format_args!("  made on    {} (milliseconds since 1970)", header.created_ms));
    progress.line(format_args!("  block      {} of epoch {}", header.last_final, header.epoch));
    progress.line(format_args!(
        "  records    {}, {} modules, {} bytes",
        backup.entries, backup.modules, backup.bytes
    ));
    progress.line(format_args!("  hash       {}", backup.hash));
    progress.line("A restore");
    progress.line(format_args!("  - puts the store in {data} aside, under another name beside it"));
    progress.line("  - puts the store of the backup in its place; what is later is fetched from peers");
    progress.line(if has_guard(&config.data_dir) {
        "  - leaves the signer guard as it is: the node signs nothing until its store holds all that the guard saw final, and it was started again then"
    } else {
        "  - cannot bring a signer guard: there is none here, so the node will follow as an observer and sign nothing until its authority has a new key (`moult keys rotate`)"
    });
    progress.line("Undoing an epoch change is a proposal (`moult propose`), never a restore.");
}

fn has_guard(data_dir: &Path) -> bool {
    data_dir.join("guard").join("guard").exists()
}

fn describe(step: RestoreStep) -> &'static str {
    match step {
        RestoreStep::Note => "no node starts here from now on until this is done",
        RestoreStep::Build => "writing the store",
        RestoreStep::Check => "checking it",
        RestoreStep::PutAside => "putting the former store aside",
        RestoreStep::PutInPlace => "putting the store in its place",
        RestoreStep::End => "a node may start here again",
    }
}

/// `moult backup`.
pub(crate) async fn back_up(api: &ApiArgs, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    let mut client = api.client()?;
    let mut body: BackupBody = client.send("POST", "/v1/backup", &json!({})).await?;
    let (made, failed) = (body.made, body.failed);
    while body.running || (body.made, body.failed) == (made, failed) {
        tokio::time::sleep(POLL).await;
        let before = body.written_bytes;
        body = client.get("/v1/backup").await?;
        if body.running && body.written_bytes != before {
            progress.line(format_args!("{} bytes written", body.written_bytes));
        }
    }
    let last = match (&body.problem, &body.last) {
        (None, Some(last)) => last,
        (problem, _) => {
            anyhow::bail!("no backup was made: {}", problem.as_deref().unwrap_or("it is not told why"))
        }
    };
    if json {
        return output::json(last);
    }
    say!("{} on the node's machine", last.file);
    say!("  block      {} of epoch {}", last.global_final_index, last.epoch);
    say!("  size       {} bytes, in {} ms", last.bytes, last.took_ms);
    say!("  hash       {}", last.hash);
    say!(
        "It holds neither the signer guard nor the node's key: those move by `moult guard export` and by hand."
    );
    Ok(())
}
