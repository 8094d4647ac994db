//! A module that is ready to run.

use std::sync::Arc;

use moult_core::ports::{ApplicationInstance, ApprovalInstance, EngineInstance, Fault};
use moult_sdk::{application, approval, engine};
use moult_types::{ModuleHash, World};
use wasmtime::component::InstancePre;

use crate::bindings::application::ReplicatedApplicationPre;
use crate::bindings::approval::ApprovalPolicyPre;
use crate::bindings::engine::ConsensusEnginePre;
use crate::check::ModuleReport;
use crate::error::ModuleError;
use crate::host::{Place, Shared};
use crate::instance::HostData;
use crate::instance::application::WasmApplication;
use crate::instance::approval::WasmApproval;
use crate::instance::engine::WasmEngine;
use crate::stats::WorldStats;

/// A module that was checked, compiled and instantiated once. Cheap to clone.
#[derive(Clone)]
pub struct Prepared {
    shared: Arc<Shared>,
    report: Arc<ModuleReport>,
    info: Arc<ModuleInfo>,
    pre: Pre,
}

/// What a module says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModuleInfo {
    /// Of an engine.
    Engine(engine::Info),
    /// Of an approval policy.
    Approval(approval::Info),
    /// Of an application.
    Application(application::Info),
}

impl ModuleInfo {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Engine(info) => &info.name,
            Self::Approval(info) => &info.name,
            Self::Application(info) => &info.name,
        }
    }

    /// Its version.
    pub fn version(&self) -> &str {
        match self {
            Self::Engine(info) => &info.version,
            Self::Approval(info) => &info.version,
            Self::Application(info) => &info.version,
        }
    }
}

#[derive(Clone)]
enum Pre {
    Engine(ConsensusEnginePre<HostData>),
    Approval(ApprovalPolicyPre<HostData>),
    Application(ReplicatedApplicationPre<HostData>),
}

impl Prepared {
    /// Finds the exports, makes one instance and asks it what it is.
    pub(crate) fn new(
        shared: Arc<Shared>,
        report: ModuleReport,
        pre: InstancePre<HostData>,
    ) -> Result<Self, ModuleError> {
        let (module, world) = (report.hash, report.world);
        let contract = |problem: String| ModuleError::Contract { module, world, problem };
        let untyped = |error: wasmtime::Error| contract(format!("{error:#}"));
        // The first instantiation outside of a call, so that its failure is the module's.
        crate::instance::trial(&shared, world, &pre).map_err(untyped)?;
        let pre = match world {
            World::Engine => Pre::Engine(ConsensusEnginePre::new(pre).map_err(untyped)?),
            World::Approval => Pre::Approval(ApprovalPolicyPre::new(pre).map_err(untyped)?),
            World::Application => Pre::Application(ReplicatedApplicationPre::new(pre).map_err(untyped)?),
        };
        let info = describe(&shared, &pre).map_err(|fault| contract(format!("describe: {fault}")))?;
        Ok(Self { shared, report: Arc::new(report), info: Arc::new(info), pre })
    }

    /// The hash of its bytes.
    pub fn hash(&self) -> ModuleHash {
        self.report.hash
    }

    /// What it looks like from outside.
    pub fn report(&self) -> &ModuleReport {
        &self.report
    }

    /// What it says of itself.
    pub fn info(&self) -> &ModuleInfo {
        &self.info
    }

    /// A fresh engine, not initialised. It takes a place in the pool until it is dropped or
    /// faults.
    ///
    /// # Errors
    /// The module is not an engine, every place is taken, or this machine cannot make an
    /// instance.
    pub fn engine(&self) -> Result<Box<dyn EngineInstance>, ModuleError> {
        #[cfg(feature = "native-engines")]
        if let Some(engine) = crate::native::engine(self.info.name()) {
            let (module, name) = (self.hash(), self.info.name());
            tracing::warn!(%module, name, "the engine runs as native code: a build for measuring only");
            return Ok(engine);
        }
        self.wasm_engine(self.shared.stats.world(World::Engine).clone())
    }

    /// A fresh engine that is counted apart from those of this host: what it alone did and used.
    ///
    /// # Errors
    /// As [`Prepared::engine`].
    pub fn engine_apart(&self) -> Result<(Box<dyn EngineInstance>, Arc<WorldStats>), ModuleError> {
        let stats = Arc::<WorldStats>::default();
        Ok((self.wasm_engine(stats.clone())?, stats))
    }

    fn wasm_engine(&self, stats: Arc<WorldStats>) -> Result<Box<dyn EngineInstance>, ModuleError> {
        let Pre::Engine(pre) = &self.pre else { return Err(self.other_world(World::Engine)) };
        let module = self.hash();
        let limit = self.shared.engines.limit();
        let place = Place::of_engine(&self.shared).ok_or(ModuleError::Busy { module, limit })?;
        let engine =
            WasmEngine::new(self.shared.clone(), stats, pre.clone(), Some(place)).map_err(|fault| {
                ModuleError::Contract { module, world: World::Engine, problem: fault.to_string() }
            })?;
        Ok(Box::new(engine))
    }

    /// The approval policy.
    ///
    /// # Errors
    /// The module is not one.
    pub fn approval(&self) -> Result<Box<dyn ApprovalInstance>, ModuleError> {
        let Pre::Approval(pre) = &self.pre else { return Err(self.other_world(World::Approval)) };
        Ok(Box::new(WasmApproval { shared: self.shared.clone(), pre: pre.clone() }))
    }

    /// The application.
    ///
    /// # Errors
    /// The module is not one.
    pub fn application(&self) -> Result<Arc<dyn ApplicationInstance>, ModuleError> {
        let Pre::Application(pre) = &self.pre else { return Err(self.other_world(World::Application)) };
        Ok(Arc::new(WasmApplication { shared: self.shared.clone(), pre: pre.clone() }))
    }

    fn other_world(&self, asked: World) -> ModuleError {
        ModuleError::OtherWorld { module: self.hash(), prepared: self.report.world, asked }
    }
}

fn describe(shared: &Arc<Shared>, pre: &Pre) -> Result<ModuleInfo, Fault> {
    match pre {
        Pre::Engine(pre) => {
            let _place = Place::of_call(shared);
            let mut engine = WasmEngine::new(
                shared.clone(),
                shared.stats.world(World::Engine).clone(),
                pre.clone(),
                None,
            )?;
            engine.describe().map(ModuleInfo::Engine)
        }
        Pre::Approval(pre) => {
            let mut policy = WasmApproval { shared: shared.clone(), pre: pre.clone() };
            policy.describe().map(ModuleInfo::Approval)
        }
        Pre::Application(pre) => {
            let application = WasmApplication { shared: shared.clone(), pre: pre.clone() };
            application.describe().map(ModuleInfo::Application)
        }
    }
}
