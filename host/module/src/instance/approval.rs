//! An approval policy in Wasm: a fresh instance for every call.

use std::sync::Arc;

use moult_core::ports::{ApprovalInstance, Fault};
use moult_sdk::approval::{Context, Info, Proposal, Verdict};
use moult_types::World;
use wasmtime::Store;

use super::{HostData, bad_output, no_instance, run, start, store};
use crate::bindings::approval::{ApprovalPolicyPre, exports::moult::approval::approval as wit};
use crate::host::{Place, Shared};
use crate::output;

const WORLD: World = World::Approval;

/// A policy; keeps no instance between calls.
pub(crate) struct WasmApproval {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pre: ApprovalPolicyPre<HostData>,
}

impl WasmApproval {
    fn call<T>(
        &self,
        call: impl FnOnce(&wit::Guest, &mut Store<HostData>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let limits = self.shared.limits.approval.call;
        let _place = Place::of_call(&self.shared);
        let mut store = store(&self.shared, WORLD, None);
        let bindings = start(&mut store, limits)
            .and_then(|()| self.pre.instantiate(&mut store))
            .map_err(|error| no_instance(&error, limits))?;
        let guest = bindings.moult_approval_approval();
        run(self.shared.stats.world(WORLD), WORLD, limits, &mut store, |store| call(guest, store))
    }
}

impl ApprovalInstance for WasmApproval {
    fn describe(&mut self) -> Result<Info, Fault> {
        let info: Info = self.call(|guest, store| guest.call_describe(store))?.into();
        output::check_info(&info.name, &info.version, &[])
            .map_err(|problem| bad_output(self.shared.stats.world(WORLD), problem))?;
        Ok(info)
    }

    fn evaluate(&mut self, config: &[u8], proposal: &Proposal, context: &Context) -> Result<Verdict, Fault> {
        let (proposal, context) = (proposal.into(), context.into());
        let verdict = self.call(|guest, store| guest.call_evaluate(store, config, &proposal, &context))?;
        let verdict = verdict.into();
        output::check_verdict(&verdict)
            .map_err(|problem| bad_output(self.shared.stats.world(WORLD), problem))?;
        Ok(verdict)
    }
}
