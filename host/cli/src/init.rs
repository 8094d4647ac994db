//! `moult init`: a node's folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args as ClapArgs;
use moult_crypto::{KeyPair, Signer as _};
use moult_keys::{KeyFile, Unlock, new_token};
use moult_node::config::{ApiConfig, GrpcConfig, NodeConfig, P2pConfig};
use moult_node::key_use::write_new_key;
use moult_types::{AuthorityId, Member};

use crate::builtin::BUILTIN;
use crate::keys::UnlockArgs;
use crate::output::{self, say};

/// The name of the configuration in a node's folder.
pub(crate) const CONFIG_FILE: &str = "moult.toml";
const HEADER: &str = "\
# A Moult node; run it with `moult node --config moult.toml`.
# Paths are relative to this file. Every key: docs/OPERATING.md.

";

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Folder to make.
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen for other nodes (UDP).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7401")]
    p2p: SocketAddr,
    /// Where to listen for clients (TCP); beyond loopback only with TLS, see docs/OPERATING.md.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    api: SocketAddr,
    /// Where to listen for clients that speak gRPC (TCP) [default: loopback, the port above --api].
    #[arg(long, value_name = "ADDR")]
    grpc: Option<SocketAddr>,
    /// Where other nodes reach this one [default: the address of --p2p].
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Weight of its vote.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    stake: u64,
    /// A key that is there already (`moult keys new`), in place of a new plain one. It stays where it is.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    unlock: UnlockArgs,
}

/// What a new node is made of.
pub(crate) struct NewNode {
    pub(crate) p2p: SocketAddr,
    pub(crate) api: SocketAddr,
    /// Left out: next to the API.
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) address: String,
    pub(crate) stake: u64,
    /// A key that is there already, and what unlocks it.
    pub(crate) key: Option<(PathBuf, Unlock)>,
    /// Modules to put into its folder, as name and bytes.
    pub(crate) modules: Vec<(String, Vec<u8>)>,
}

pub(crate) fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let Args { dir, p2p, api, grpc, address, stake, key, unlock } = args;
    let address = match address {
        Some(address) => address,
        None => {
            ensure!(
                !p2p.ip().is_unspecified(),
                "--p2p {p2p} is every address: say with --address where peers reach this node"
            );
            p2p.to_string()
        }
    };
    ensure!(
        address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)),
        "--address {address} is not HOST:PORT"
    );
    let modules = BUILTIN.iter().map(|module| (module.name.to_owned(), module.bytes.to_vec())).collect();
    let key = match key {
        // The configuration has paths that hold wherever the node is started.
        Some(key) => Some((absolute(&key)?, absolute_unlock(unlock.unlock())?)),
        None => None,
    };
    let own_key = key.is_none();
    let identity = create(&dir, NewNode { p2p, api, grpc, address, stake, key, modules })?;
    if json {
        return output::json(&identity);
    }
    say!("made {}", dir.display());
    say!("  authority  {}", identity.id);
    say!("  key        {}", identity.key);
    say!("  stake      {}", identity.stake);
    say!("  address    {}", identity.address);
    say!();
    if own_key {
        say!("Secret, never copy or restore: {}/node.key and api.token", dir.display());
        say!("Beside the key, node.key.chains says where it has signed: leave it out of backups of the key");
    } else {
        say!("Secret, never copy or restore: {}/api.token", dir.display());
    }
    say!("Public, for the genesis or a committee change: {}/identity.json", dir.display());
    say!("Next: `moult genesis build --identity .../identity.json ... --out genesis.json`,");
    say!("then copy genesis.json into each node's folder.");
    Ok(())
}

/// Makes the folder; nothing in it is ever overwritten.
pub(crate) fn create(dir: &Path, node: NewNode) -> anyhow::Result<Member> {
    let config_path = dir.join(CONFIG_FILE);
    ensure!(!config_path.exists(), "{} holds a node already: choose another folder", dir.display());
    let modules_dir = dir.join("modules");
    std::fs::create_dir_all(&modules_dir)
        .with_context(|| format!("cannot make {}", modules_dir.display()))?;
    let NewNode { p2p, api, grpc, address, stake, key, modules } = node;
    let (file, unlock) = match key {
        Some((path, unlock)) => (KeyFile::read(&path)?, unlock),
        None => (new_key(&dir.join("node.key"))?, Unlock::default()),
    };
    let (key, id) = (file.public_key(), file.authority());
    let possession = file.unlock(&unlock)?.possession(id)?;
    new_token(&dir.join("api.token"))?;
    let identity = Member { id, key, possession, stake, address };
    for (name, bytes) in modules {
        write(&modules_dir.join(format!("{name}.wasm")), &bytes)?;
    }
    write(&dir.join("identity.json"), format!("{}\n", serde_json::to_string_pretty(&identity)?).as_bytes())?;
    let key_file = file.path().strip_prefix(dir).unwrap_or(file.path());
    write(&config_path, config_text(key_file, unlock, p2p, api, grpc)?.as_bytes())?;
    Ok(identity)
}

fn new_key(path: &Path) -> anyhow::Result<KeyFile> {
    let keys = KeyPair::generate().map_err(|e| anyhow::anyhow!("the system has no randomness: {e}"))?;
    let file = KeyFile::plain(path, &keys, AuthorityId::of(&keys.public_key()));
    write_new_key(&file)?;
    Ok(file)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path).with_context(|| path.display().to_string())
}

fn absolute_unlock(unlock: Unlock) -> anyhow::Result<Unlock> {
    let Unlock { file, env } = unlock;
    Ok(Unlock { file: file.map(|file| absolute(&file)).transpose()?, env })
}

fn config_text(
    key_file: &Path,
    unlock: Unlock,
    p2p: SocketAddr,
    api: SocketAddr,
    grpc: Option<SocketAddr>,
) -> anyhow::Result<String> {
    let config = NodeConfig {
        genesis: "genesis.json".into(),
        key_file: key_file.to_owned(),
        unlock,
        authority: None,
        data_dir: "data".into(),
        module_dirs: vec!["modules".into()],
        p2p: P2pConfig { listen: p2p, observers: Vec::new() },
        api: ApiConfig { listen: api, token_file: "api.token".into(), tls_cert: None, tls_key: None },
        grpc: GrpcConfig { listen: grpc, ..GrpcConfig::default() },
        record: Default::default(),
        shadow: Default::default(),
        backup: Default::default(),
        limits: Default::default(),
    };
    let mut table: toml::Table = toml::from_str(&config.to_toml()?)?;
    // Left out, so that the defaults of a later version are not pinned by every old file.
    for key in ["limits", "record", "shadow", "backup"] {
        table.remove(key);
    }
    if grpc.is_none() {
        table.remove("grpc");
    }
    Ok(format!("{HEADER}{}", toml::to_string_pretty(&table)?))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use moult_crypto::check_possession;
    use moult_keys::{read_key, read_token};

    use super::*;

    #[test]
    fn a_folder_is_complete_and_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("a/node");
        let node = || NewNode {
            p2p: "127.0.0.1:7401".parse().expect("an address"),
            api: "127.0.0.1:7400".parse().expect("an address"),
            grpc: None,
            address: "a.example:7401".into(),
            stake: 3,
            key: None,
            modules: vec![("kv".into(), vec![1, 2])],
        };
        let identity = create(&dir, node()).expect("made");
        assert_eq!(check_possession(&identity.key, identity.id, &identity.possession), Ok(()));
        let text = std::fs::read(dir.join("identity.json")).expect("read");
        assert_eq!(serde_json::from_slice::<Member>(&text).expect("a member"), identity);

        let config = NodeConfig::load(&dir.join(CONFIG_FILE)).expect("a configuration");
        assert_eq!(read_key(&config.key_file).expect("a key").public_key(), identity.key);
        assert!(read_token(&config.api.token_file).is_ok());
        assert_eq!(config.p2p.listen.port(), 7401);
        assert_eq!(config.grpc_listen(), Some("127.0.0.1:7401".parse().expect("an address")));
        assert_eq!(config.genesis, dir.join("genesis.json"));
        assert_eq!(std::fs::read(config.module_dirs[0].join("kv.wasm")).expect("a module"), [1, 2]);
        let text = std::fs::read_to_string(dir.join(CONFIG_FILE)).expect("read");
        assert!(!text.contains("limits") && !text.contains("grpc"), "{text}");

        let error = create(&dir, node()).expect_err("it is there already").to_string();
        assert!(error.contains("holds a node already"), "{error}");
    }
}
