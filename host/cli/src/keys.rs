//! `moult keys`: the key of a node's authority, and the next one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{Args as ClapArgs, Subcommand};
use moult_crypto::{KeyPair, Signer as _};
use moult_keys::{Cost, KeyFile, Kind, TokenPlace, Unlock};
use moult_node::api_types::{EpochBody, ProposalBody, ProposeBody};
use moult_node::config::NodeConfig;
use moult_node::key_use::mark_new;
use moult_node::next_key_path;
use moult_types::{AuthorityId, Member};
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
    /// Make a key: under a passphrase, in a PKCS#11 token, or in the clear.
    New(NewArgs),
    /// Show a node's key and authority, and the next key if there is one.
    Show {
        /// The node's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Put a node's plain key, and its next one, under a passphrase; the file changes in its place.
    Encrypt {
        /// The node's configuration; its `unlock` says the passphrase, if nothing here does.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        unlock: UnlockArgs,
    },
    /// Make a new key beside the present one, and propose the epoch that gives it to the authority.
    ///
    /// It is kept as the present one is: plain, or under the same passphrase. With --module, --token
    /// or --label it is made in a PKCS#11 token.
    Rotate {
        /// The configuration of the node whose key it is, on its machine.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        token: TokenArgs,
        /// Show how the proposal goes; exit code 3 unless it is active.
        #[arg(long)]
        wait: bool,
    },
}

#[derive(ClapArgs)]
struct NewArgs {
    /// The key file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Leave the secret readable for whoever reads the file.
    #[arg(long, conflicts_with_all = ["unlock_file", "unlock_env", "module"])]
    plain: bool,
    #[command(flatten)]
    unlock: UnlockArgs,
    #[command(flatten)]
    token: TokenArgs,
}

/// Where the passphrase or PIN of a key is.
#[derive(ClapArgs, Default)]
pub(crate) struct UnlockArgs {
    /// File with the passphrase of the key, or the PIN of the token; readable by its owner only.
    #[arg(long, value_name = "FILE", conflicts_with = "unlock_env")]
    unlock_file: Option<PathBuf>,
    /// Environment variable with the passphrase or PIN.
    #[arg(long, value_name = "NAME")]
    unlock_env: Option<String>,
}

impl UnlockArgs {
    pub(crate) fn unlock(self) -> Unlock {
        Unlock { file: self.unlock_file, env: self.unlock_env }
    }
}

/// A key in a PKCS#11 token.
#[derive(ClapArgs)]
struct TokenArgs {
    /// Library of the PKCS#11 module, for example /usr/lib/softhsm/libsofthsm2.so.
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Label of the token.
    #[arg(long = "token-label", value_name = "LABEL")]
    token_label: Option<String>,
    /// Label of the key to make in it.
    #[arg(long = "key-label", value_name = "LABEL")]
    key_label: Option<String>,
}

impl TokenArgs {
    /// Where the key is to be made, if in a token; what is not said is as it was for the former key.
    fn place(self, former: Option<&TokenPlace>) -> anyhow::Result<Option<TokenPlace>> {
        let Self { module, token_label, key_label } = self;
        if module.is_none() && token_label.is_none() && key_label.is_none() {
            ensure!(
                former.is_none(),
                "the present key is in a token: say with --key-label how the next one is to be called there"
            );
            return Ok(None);
        }
        let module = module.or_else(|| former.map(|place| place.module.clone())).context("--module FILE")?;
        let token =
            token_label.or_else(|| former.map(|place| place.token.clone())).context("--token-label LABEL")?;
        let key = key_label.context("--key-label LABEL")?;
        let module = std::fs::canonicalize(&module).with_context(|| module.display().to_string())?;
        Ok(Some(TokenPlace { module, token, key }))
    }
}

/// Of a node's files.
struct Keys {
    config: NodeConfig,
    authority: AuthorityId,
    present: KeyFile,
}

impl Keys {
    fn load(path: &Path) -> anyhow::Result<Self> {
        let config = NodeConfig::load(path)?;
        let present = KeyFile::read(&config.key_file)?;
        let authority = config.authority.unwrap_or(present.authority());
        Ok(Self { config, authority, present })
    }

    fn next(&self) -> anyhow::Result<Option<KeyFile>> {
        let path = next_key_path(&self.config.key_file);
        if !path.exists() {
            return Ok(None);
        }
        let next = KeyFile::read(&path)?;
        ensure!(
            next.authority() == self.authority,
            "{} was made for authority {}, not for {}: remove it if nobody needs it",
            path.display(),
            next.authority(),
            self.authority
        );
        Ok(Some(next))
    }

    /// The next key, kept as the present one is unless a token is said.
    fn make_next(&self, token: TokenArgs) -> anyhow::Result<KeyFile> {
        let path = next_key_path(&self.config.key_file);
        let place = token.place(self.present.token_place())?;
        let kind = match (&place, self.present.kind()) {
            (None, Kind::Encrypted) => Kind::Encrypted,
            _ => Kind::Plain,
        };
        make(&path, kind, place, &self.config.unlock, Some(self.authority))
    }
}

/// Makes a key and writes its file.
fn make(
    path: &Path,
    kind: Kind,
    place: Option<TokenPlace>,
    unlock: &Unlock,
    authority: Option<AuthorityId>,
) -> anyhow::Result<KeyFile> {
    // A key in a token without a file would be lost.
    ensure!(!path.exists(), "{} exists already: a key is never overwritten", path.display());
    let file = match place {
        Some(place) => KeyFile::new_in_token(path, place, unlock, authority)?,
        None => {
            let keys =
                KeyPair::generate().map_err(|e| anyhow::anyhow!("the system has no randomness: {e}"))?;
            let authority = authority.unwrap_or_else(|| AuthorityId::of(&keys.public_key()));
            if kind == Kind::Encrypted {
                encrypted(path, &keys, authority, unlock)?
            } else {
                KeyFile::plain(path, &keys, authority)
            }
        }
    };
    file.write()?;
    Ok(file)
}

fn encrypted(
    path: &Path,
    keys: &KeyPair,
    authority: AuthorityId,
    unlock: &Unlock,
) -> anyhow::Result<KeyFile> {
    let passphrase = unlock.secret()?.context(
        "no passphrase is said: give --unlock-file or --unlock-env, or set `unlock` in the configuration",
    )?;
    Ok(KeyFile::encrypted(path, keys, authority, &passphrase, Cost::default())?)
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    match args.command {
        Command::New(args) => new(args, json),
        Command::Show { config } => show(&Keys::load(&config)?, json),
        Command::Encrypt { config, unlock } => encrypt(&Keys::load(&config)?, unlock, json),
        Command::Rotate { config, mut api, token, wait } => {
            if api.api.is_none() && api.dir.is_none() {
                api.dir = config.parent().map(Path::to_owned);
            }
            rotate(&Keys::load(&config)?, &mut api.client()?, token, wait, json).await
        }
    }
}

fn new(args: NewArgs, json: bool) -> anyhow::Result<()> {
    let NewArgs { out, plain, unlock, token } = args;
    let (place, unlock) = (token.place(None)?, unlock.unlock());
    ensure!(
        plain || !unlock.is_empty(),
        "say where the passphrase or the PIN is (--unlock-file, --unlock-env), or --plain for a key in the clear"
    );
    let kind = if plain { Kind::Plain } else { Kind::Encrypted };
    let file = make(&out, kind, place, &unlock, None)?;
    mark_new(&file)?;
    tell_file(&file, json)
}

fn tell_file(file: &KeyFile, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(&json!({
            "authority": file.authority(),
            "key": file.public_key(),
            "key_file": file.kind().to_string(),
        }));
    }
    say!("{}: {}", file.path().display(), file.kind());
    say!("  authority  {}", file.authority());
    say!("  key        {}", file.public_key());
    Ok(())
}

fn encrypt(keys: &Keys, unlock: UnlockArgs, json: bool) -> anyhow::Result<()> {
    let said = unlock.unlock();
    let unlock = if said.is_empty() { &keys.config.unlock } else { &said };
    let all: Vec<KeyFile> = [KeyFile::read(&keys.config.key_file)?].into_iter().chain(keys.next()?).collect();
    if all.iter().all(|file| file.kind() != Kind::Plain) {
        bail!("{} is not plain: it is {}", keys.config.key_file.display(), keys.present.kind());
    }
    for plain in all.iter().filter(|file| file.kind() == Kind::Plain) {
        let sealed = encrypted(plain.path(), plain.key_pair()?, plain.authority(), unlock)?;
        sealed.replace()?;
        tell_file(&sealed, json)?;
    }
    if !json {
        say!("The node needs `unlock` in its configuration from its next start on.");
        say!(
            "The plain key may still be found on the disk and in its backups: a key that was never plain is"
        );
        say!("made by `moult keys new` and `moult keys rotate`.");
    }
    Ok(())
}

fn show(keys: &Keys, json: bool) -> anyhow::Result<()> {
    let next = keys.next()?.map(|next| next.public_key());
    if json {
        return output::json(&json!({
            "authority": keys.authority,
            "key": keys.present.public_key(),
            "key_file": keys.present.kind().to_string(),
            "next_key": next,
        }));
    }
    say!("authority  {}", keys.authority);
    say!("key        {} ({})", keys.present.public_key(), keys.present.kind());
    if let Some(next) = next {
        say!("next key   {next}, from the epoch on that has it");
    }
    Ok(())
}

async fn rotate(
    keys: &Keys,
    client: &mut Client,
    token: TokenArgs,
    wait: bool,
    json: bool,
) -> anyhow::Result<()> {
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
            let next = keys.make_next(token)?;
            progress.line(format_args!("wrote {} ({})", path.display(), next.kind()));
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
    *member = Member {
        key,
        possession: next.unlock(&keys.config.unlock)?.possession(keys.authority)?,
        ..member.clone()
    };
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
