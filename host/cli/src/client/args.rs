//! Options that say which node is meant, and with which right.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use moult_keys::read_token;
use moult_node::api_types::DevnetFile;
use moult_node::config::NodeConfig;

use crate::client::api::Client;
use crate::client::target::Target;
use crate::client::tls;
use crate::cluster::read_devnet;

/// Where nodes listen unless told otherwise.
const DEFAULT_API: &str = "http://127.0.0.1:7400";
const TOKEN_ENV: &str = "MOULT_TOKEN";

/// Which node.
#[derive(Args, Clone, Default)]
pub(crate) struct ApiArgs {
    /// Base address of the node's API [default: the first node of --dir, or http://127.0.0.1:7400].
    #[arg(long, env = "MOULT_API", value_name = "URL")]
    pub(crate) api: Option<String>,
    /// Folder of a devnet or of a node: gives address and token.
    #[arg(long, env = "MOULT_DIR", value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// File with the node's token (`api.token` in its folder), for administration.
    #[arg(long, env = "MOULT_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Root certificates (PEM) for `https` [default: the system's].
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
}

/// What a folder says of an API.
#[derive(Debug)]
struct Place {
    url: String,
    token_file: PathBuf,
}

impl ApiArgs {
    /// The client for the node that is meant.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let place = self.place()?;
        let url = self.api.as_deref().or(place.as_ref().map(|p| p.url.as_str())).unwrap_or(DEFAULT_API);
        let target = self.target(url)?;
        // No option holds the token itself: lists of processes would show it.
        let token = match (&self.token_file, std::env::var(TOKEN_ENV).ok(), &place) {
            (Some(file), _, _) => Some(read_token(file)?),
            (None, Some(token), _) => Some(token.trim().to_owned()),
            (None, None, Some(place)) if place.token_file.exists() => Some(read_token(&place.token_file)?),
            _ => None,
        };
        Ok(Client::new(target, token.as_deref()))
    }

    /// An address with the roots of `--tls-ca`.
    pub(crate) fn target(&self, url: &str) -> anyhow::Result<Target> {
        let tls = if url.starts_with("https:") { Some(tls::config(self.tls_ca.as_deref())?) } else { None };
        Target::parse(url, tls)
    }

    fn place(&self) -> anyhow::Result<Option<Place>> {
        let Some(dir) = &self.dir else { return Ok(None) };
        if dir.join("devnet.json").is_file() {
            return in_devnet(&read_devnet(dir)?, self.api.as_deref()).map(Some);
        }
        let config = dir.join("moult.toml");
        if !config.is_file() {
            bail!("{} is no folder of a devnet (devnet.json) or of a node (moult.toml)", dir.display());
        }
        let config = NodeConfig::load(&config)?;
        let scheme = if config.api.tls_cert.is_some() { "https" } else { "http" };
        Ok(Some(Place {
            url: format!("{scheme}://{}", config.api.listen),
            token_file: config.api.token_file,
        }))
    }
}

/// The node with this address, else the first.
fn in_devnet(devnet: &DevnetFile, api: Option<&str>) -> anyhow::Result<Place> {
    let wanted = api.map(|url| url.trim_end_matches('/'));
    let node = devnet
        .nodes
        .iter()
        .find(|node| wanted.is_none_or(|url| url == node.api))
        .with_context(|| format!("no node of this devnet has the API {}", wanted.unwrap_or_default()))?;
    Ok(Place { url: node.api.clone(), token_file: token_at(Path::new(&node.dir)) })
}

/// The token file of a node's folder.
pub(crate) fn token_at(dir: &Path) -> PathBuf {
    dir.join("api.token")
}

#[cfg(test)]
mod tests {
    use moult_node::api_types::DevnetNode;

    use super::*;

    #[test]
    fn a_devnet_gives_address_and_token() {
        let node = |index: u32| DevnetNode {
            index,
            pid: 1,
            api: format!("http://127.0.0.1:{}", 7400 + 2 * index),
            grpc: None,
            p2p: "127.0.0.1:7401".into(),
            dir: format!("/d/node-{index}"),
        };
        let devnet = DevnetFile { nodes: vec![node(0), node(1)] };
        assert_eq!(in_devnet(&devnet, None).expect("the first").url, "http://127.0.0.1:7400");
        let second = in_devnet(&devnet, Some("http://127.0.0.1:7402/")).expect("the second");
        assert_eq!(second.token_file, Path::new("/d/node-1/api.token"));
        assert!(in_devnet(&devnet, Some("http://127.0.0.1:1")).is_err());
    }
}
