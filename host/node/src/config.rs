//! The configuration file of a node, and every limit that an operator can set.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use moult_keys::Unlock;
use moult_types::{AuthorityId, PublicKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A node's configuration, as written in TOML. Paths are relative to the file's folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The chain's genesis file.
    pub genesis: PathBuf,
    /// The node's secret key, or what says in which token it is; readable by its owner only.
    pub key_file: PathBuf,
    /// Where the passphrase or the PIN is that the key file asks for.
    #[serde(default, skip_serializing_if = "Unlock::is_empty")]
    pub unlock: Unlock,
    /// The authority that this node stands for. Left out: the one its key made at `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<AuthorityId>,
    /// Database, guard, modules and code cache. One process at a time.
    pub data_dir: PathBuf,
    /// Folders whose `*.wasm` files are taken in at start.
    #[serde(default)]
    pub module_dirs: Vec<PathBuf>,
    /// Between nodes.
    pub p2p: P2pConfig,
    /// For clients.
    pub api: ApiConfig,
    /// For clients that speak gRPC.
    #[serde(default)]
    pub grpc: GrpcConfig,
    /// Whether and where it is recorded what the engine is fed.
    #[serde(default)]
    pub record: RecordConfig,
    /// Shadow runs of proposed engines.
    #[serde(default)]
    pub shadow: ShadowConfig,
    /// Backups of the store.
    #[serde(default)]
    pub backup: BackupConfig,
    /// What this node may hold and do at once.
    #[serde(default)]
    pub limits: NodeLimits,
}

/// How nodes reach each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct P2pConfig {
    /// Address to listen at (UDP).
    pub listen: SocketAddr,
    /// Nodes outside the committee that may connect (and are dialled, with an address).
    #[serde(default)]
    pub observers: Vec<Observer>,
}

/// A node outside the committee.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observer {
    /// Its key.
    pub key: PublicKey,
    /// `host:port`, if it is to be dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// The HTTP interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// Address to listen at (TCP). Beyond loopback only with TLS and a token.
    pub listen: SocketAddr,
    /// File with the token for administration. On loopback, data needs none.
    pub token_file: PathBuf,
    /// Certificate chain (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
}

/// The gRPC interface. Its token and TLS are those of [`ApiConfig`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcConfig {
    /// Whether it is served.
    pub enabled: bool,
    /// Address to listen at (TCP). Beyond loopback only with TLS and a token. Left out: on
    /// loopback, at the port above that of `api.listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self { enabled: true, listen: None }
    }
}

/// Records of what the engine is fed, for `moult replay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordConfig {
    /// Folder of the records; each start of an engine begins one. Left out: nothing is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// A file is closed before it grows beyond this, in bytes.
    pub file_bytes_max: u64,
    /// All records together, in bytes: the oldest are removed, and the one under way ends when
    /// it alone takes as much.
    pub total_bytes_max: u64,
    /// Calls that wait to be written, in bytes; when they take more, the record ends.
    pub queue_bytes_max: usize,
    /// Whether answers are kept whole. Otherwise their hashes are: smaller, and enough to see
    /// that a run differs, but not in what.
    pub whole_outcomes: bool,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self {
            dir: None,
            file_bytes_max: 64 << 20,
            total_bytes_max: 1 << 30,
            queue_bytes_max: 64 << 20,
            whole_outcomes: false,
        }
    }
}

/// Backups of the store, made before every epoch transition and upon demand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Their folder. Left out: `backups` in the data directory; better on another disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// So many are kept, the newest; 0: none is made.
    pub keep: usize,
    /// One that would be larger is not made, in bytes. On the disk there are at most `keep` + 1.
    pub bytes_max: u64,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self { dir: None, keep: 2, bytes_max: 16 << 30 }
    }
}

/// Shadow runs: an engine that is proposed is fed what the present one is fed, and nothing of
/// what it answers is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShadowConfig {
    /// Whether there are any: a run takes of the machine that the live engine runs on.
    pub enabled: bool,
    /// What one may use of a core, in percent, at the lowest priority. One that needs more drops
    /// out.
    pub cpu_percent: u32,
    /// What may wait for one, in bytes; beyond, it drops out.
    pub queue_bytes_max: usize,
    /// So many at once; later proposals get none.
    pub runs_max: usize,
}

impl Default for ShadowConfig {
    fn default() -> Self {
        Self { enabled: false, cpu_percent: 10, queue_bytes_max: 16 << 20, runs_max: 2 }
    }
}

/// Local limits; replicated decisions depend on none of them. Those that all nodes share
/// are the epoch's (`EpochLimits`), those of modules `moult_module::Limits`, those of the
/// transport `moult_net::NetLimits`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeLimits {
    /// Own batches are closed at this size, in bytes.
    pub batch_bytes: usize,
    /// Own batches are closed at this age while others are in flight, in milliseconds.
    pub batch_delay_ms: u64,
    /// Own batches that may be in flight.
    pub batches_in_flight_max: usize,
    /// Bytes of transactions that may wait for a batch; more are answered 503.
    pub queue_bytes_max: usize,
    /// Bytes of batches of one author that may be held before they are final.
    pub pending_bytes_per_author_max: usize,
    /// Longest body of a request, in bytes.
    pub request_bytes_max: usize,
    /// Requests served at once; more are answered 503.
    pub requests_max: usize,
    /// A write that is not final by then is answered 504, in milliseconds.
    pub write_timeout_ms: u64,
    /// A read that cannot be served by then is answered 503, in milliseconds.
    pub read_timeout_ms: u64,
    /// A module that no peer has given by then counts as missing, in milliseconds.
    pub module_fetch_timeout_ms: u64,
    /// Compilation of one module, in milliseconds.
    pub module_compile_ms: u64,
    /// Inputs that may wait for the replica; a full queue slows down peers and clients.
    pub inputs_max: usize,
    /// Final blocks that may wait for the executor; a full queue stops ordering.
    pub execute_queue_max: usize,
    /// Bytes of blocks served to a peer in one answer.
    pub serve_bytes_max: usize,
    /// Draining at a graceful stop takes at most this, in milliseconds.
    pub drain_timeout_ms: u64,
    /// Memory for what was read from the store, in bytes.
    pub store_cache_bytes: u64,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            batch_bytes: 256 << 10,
            batch_delay_ms: 5,
            batches_in_flight_max: 32,
            queue_bytes_max: 16 << 20,
            pending_bytes_per_author_max: 64 << 20,
            request_bytes_max: 33 << 20,
            requests_max: 4096,
            write_timeout_ms: 30_000,
            read_timeout_ms: 10_000,
            module_fetch_timeout_ms: 20_000,
            module_compile_ms: 60_000,
            inputs_max: 8192,
            execute_queue_max: 256,
            serve_bytes_max: 4 << 20,
            drain_timeout_ms: 10_000,
            store_cache_bytes: 64 << 20,
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no configuration: line, column and key are in the text.
    #[error("{path} is not a node configuration: {problem}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A value cannot be.
    #[error("{path}: `{key}` {problem}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl NodeConfig {
    /// Reads and checks a file; relative paths are taken from its folder.
    ///
    /// # Errors
    /// What is wrong with it, by key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks the text of the file at a path.
    ///
    /// # Errors
    /// As [`NodeConfig::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)
            .map_err(|e| ConfigError::Parse { path: path.to_owned(), problem: e.to_string() })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut paths =
            vec![&mut config.genesis, &mut config.key_file, &mut config.data_dir, &mut config.api.token_file];
        paths.extend(config.unlock.file.iter_mut());
        paths.extend(config.module_dirs.iter_mut());
        paths.extend(config.api.tls_cert.iter_mut());
        paths.extend(config.api.tls_key.iter_mut());
        paths.extend(config.record.dir.iter_mut());
        paths.extend(config.backup.dir.iter_mut());
        for relative in paths {
            *relative = folder.join(&*relative);
        }
        config.check(path)?;
        Ok(config)
    }

    /// Where gRPC is served, if it is.
    pub fn grpc_listen(&self) -> Option<SocketAddr> {
        // Port 0 stands for any, here as there.
        let next = || match self.api.listen.port() {
            0 => 0,
            port => port.wrapping_add(1),
        };
        let default = || SocketAddr::from((Ipv4Addr::LOCALHOST, next()));
        self.grpc.enabled.then(|| self.grpc.listen.unwrap_or_else(default))
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| {
            Err(ConfigError::Value { path: path.to_owned(), key, problem: problem.to_owned() })
        };
        if self.unlock.file.is_some() && self.unlock.env.is_some() {
            return wrong("unlock.file", "and `unlock.env` cannot both be set");
        }
        if self.api.tls_cert.is_some() != self.api.tls_key.is_some() {
            return wrong("api.tls_cert", "needs `api.tls_key`, and the other way round");
        }
        if !self.api.listen.ip().is_loopback() && self.api.tls_cert.is_none() {
            return wrong(
                "api.listen",
                "is beyond loopback: set `api.tls_cert` and `api.tls_key`, or listen at 127.0.0.1 behind a proxy",
            );
        }
        let is_beyond = |listen: SocketAddr| !listen.ip().is_loopback();
        if self.grpc_listen().is_some_and(is_beyond) && self.api.tls_cert.is_none() {
            return wrong(
                "grpc.listen",
                "is beyond loopback: set `api.tls_cert` and `api.tls_key`, or listen at 127.0.0.1 behind a proxy",
            );
        }
        if self.record.total_bytes_max < self.record.file_bytes_max.saturating_mul(2) {
            return wrong("record.total_bytes_max", "must be at least twice `record.file_bytes_max`");
        }
        if !(1..=100).contains(&self.shadow.cpu_percent) {
            return wrong("shadow.cpu_percent", "must be 1 to 100");
        }
        let limits = &self.limits;
        let positive: [(&'static str, u64); 6] = [
            ("limits.batch_bytes", limits.batch_bytes as u64),
            ("limits.batches_in_flight_max", limits.batches_in_flight_max as u64),
            ("limits.inputs_max", limits.inputs_max as u64),
            ("limits.execute_queue_max", limits.execute_queue_max as u64),
            ("limits.requests_max", limits.requests_max as u64),
            ("limits.serve_bytes_max", limits.serve_bytes_max as u64),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => wrong(key, "must be 1 or more"),
            None => Ok(()),
        }
    }

    /// The file's text.
    ///
    /// # Errors
    /// A path that is no text.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}
