//! The genesis file and the written form of committees, pins and limits (JSON).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moult_core::governance::{ProposalError, check_manifest};
use moult_types::{
    ChainId, Digest, EpochLimits, EpochNumber, FaultModel, Finality, Genesis, GlobalIndex, Manifest, Member,
    ModuleHash, ModulePin, Origin, World,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A pin as written: the configuration is text, or hex where it is no text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinFile {
    /// Which module.
    pub hash: ModuleHash,
    /// Configuration as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Configuration in hex, where it is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hex: Option<String>,
}

impl PinFile {
    /// The pin.
    ///
    /// # Errors
    /// Both forms of configuration, or no hex.
    pub fn to_pin(&self) -> Result<ModulePin, String> {
        let config = match (&self.config, &self.config_hex) {
            (Some(_), Some(_)) => return Err("give `config` or `config_hex`, not both".into()),
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(digits)) => {
                hex::decode(digits).map_err(|e| format!("`config_hex` is not hex: {e}"))?
            }
            (None, None) => Vec::new(),
        };
        Ok(ModulePin { hash: self.hash, config })
    }
}

impl From<&ModulePin> for PinFile {
    fn from(pin: &ModulePin) -> Self {
        let text = String::from_utf8(pin.config.clone()).ok();
        let config_hex = text.is_none().then(|| hex::encode(&pin.config));
        Self { hash: pin.hash, config: text.filter(|t| !t.is_empty()), config_hex }
    }
}

/// The chain that one carries on, as written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginFile {
    /// The former chain.
    pub chain: ChainId,
    /// The epoch that it was in.
    pub epoch: EpochNumber,
    /// Its last block that is carried on, over all epochs.
    pub block: GlobalIndex,
    /// That block's hash, in hex.
    pub hash: String,
    /// Root of the state after it, in hex.
    pub state_root: String,
}

impl From<&Origin> for OriginFile {
    fn from(origin: &Origin) -> Self {
        Self {
            chain: origin.chain,
            epoch: origin.epoch,
            block: origin.global,
            hash: origin.hash.to_string(),
            state_root: origin.state_root.to_string(),
        }
    }
}

impl OriginFile {
    fn to_origin(&self) -> Result<Origin, GenesisError> {
        let digest = |what, text: &str| {
            let mut bytes = [0; 32];
            match hex::decode_to_slice(text, &mut bytes) {
                Ok(()) => Ok(Digest(bytes)),
                Err(e) => Err(GenesisError::Origin(format!("`{what}` is no hash in hex: {e}"))),
            }
        };
        if self.block.0 == 0 || self.block.0.checked_add(1 << 62).is_none() || self.epoch.0 >= 1 << 32 {
            return Err(GenesisError::Origin("`block` or `epoch` is out of range".into()));
        }
        Ok(Origin {
            chain: self.chain,
            epoch: self.epoch,
            global: self.block,
            hash: digest("hash", &self.hash)?,
            state_root: digest("state_root", &self.state_root)?,
        })
    }
}

/// The genesis as written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisFile {
    /// Of the chain, for people.
    pub name: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// The chain that this one carries on (`moult recover`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginFile>,
    /// What the thresholds are made for.
    pub fault_model: FaultModel,
    /// By authority index.
    pub committee: Vec<Member>,
    /// One for each world.
    pub modules: BTreeMap<World, PinFile>,
    /// Engines to fall back to, in order; without any, an engine that stalls cannot be given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<PinFile>,
    /// Numbers that all nodes share.
    #[serde(default)]
    pub limits: EpochLimits,
}

/// What is wrong with a genesis file.
#[derive(Debug, Error)]
pub enum GenesisError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no genesis.
    #[error("{path} is not a genesis file: {problem}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It describes no valid epoch.
    #[error("the genesis is not valid: {0}")]
    Invalid(#[from] ProposalError),
    /// What it says of the chain that it carries on is not valid.
    #[error("the genesis is not valid: `origin`: {0}")]
    Origin(String),
    /// A pin is not valid.
    #[error("the genesis is not valid: world `{world}`: {problem}")]
    Pin {
        /// Which.
        world: World,
        /// What is wrong.
        problem: String,
    },
}

impl GenesisFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read or is no genesis.
    pub fn load(path: &Path) -> Result<Self, GenesisError> {
        let bytes =
            std::fs::read(path).map_err(|source| GenesisError::Io { path: path.to_owned(), source })?;
        serde_json::from_slice(&bytes)
            .map_err(|e| GenesisError::Parse { path: path.to_owned(), problem: e.to_string() })
    }

    /// Writes a file.
    ///
    /// # Errors
    /// The system refuses.
    pub fn save(&self, path: &Path) -> Result<(), GenesisError> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| GenesisError::Parse { path: path.to_owned(), problem: e.to_string() })?;
        text.push('\n');
        std::fs::write(path, text).map_err(|source| GenesisError::Io { path: path.to_owned(), source })
    }

    /// The genesis, checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn to_genesis(&self) -> Result<Genesis, GenesisError> {
        let mut modules = BTreeMap::new();
        for (world, pin) in &self.modules {
            let pin = pin.to_pin().map_err(|problem| GenesisError::Pin { world: *world, problem })?;
            modules.insert(*world, pin);
        }
        let fallback = |pin: &PinFile| {
            pin.to_pin().map_err(|problem| GenesisError::Pin { world: World::Engine, problem })
        };
        let origin = self.origin.as_ref().map(OriginFile::to_origin).transpose()?;
        let manifest = Manifest {
            number: origin.map_or(EpochNumber(0), |origin| origin.epoch.next()),
            members: self.committee.clone(),
            fault_model: self.fault_model,
            modules,
            fallbacks: self.fallbacks.iter().map(fallback).collect::<Result<_, _>>()?,
            finality: Finality::Certified,
            limits: self.limits.clone(),
            follows: None,
        };
        check_manifest(&manifest)?;
        Ok(Genesis { name: self.name.clone(), time_ms: self.time_ms, origin, manifest })
    }
}
