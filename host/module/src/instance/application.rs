//! An application in Wasm: a fresh instance for every call, the state lent to its store.

use std::sync::Arc;

use moult_core::ports::{ApplicationInstance, Fault};
use moult_sdk::application::{Block, Info, Receipt};
use moult_types::World;
use moult_types::state::Overlay;
use wasmtime::Store;

use super::{HostData, bad_output, no_instance, run, start, store};
use crate::bindings::application::{
    ReplicatedApplicationPre,
    exports::moult::application::application as wit,
    moult::application::state::{Entry, Host},
};
use crate::host::{Place, Shared};
use crate::limits::CallLimits;
use crate::output;
use crate::state::{GuestState, StateFault};

const WORLD: World = World::Application;

/// An application; keeps no instance between calls.
pub(crate) struct WasmApplication {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pre: ReplicatedApplicationPre<HostData>,
}

impl WasmApplication {
    fn call<T>(
        &self,
        state: Option<GuestState>,
        limits: CallLimits,
        call: impl FnOnce(&wit::Guest, &mut Store<HostData>) -> wasmtime::Result<T>,
    ) -> (Option<Overlay>, Result<T, Fault>) {
        let _place = Place::of_call(&self.shared);
        let mut store = store(&self.shared, WORLD, state);
        let result = start(&mut store, limits)
            .and_then(|()| self.pre.instantiate(&mut store))
            .map_err(|error| no_instance(&error, limits))
            .and_then(|bindings| {
                let guest = bindings.moult_application_application();
                run(self.shared.stats.world(WORLD), WORLD, limits, &mut store, |store| call(guest, store))
            });
        (store.into_data().state.map(GuestState::into_overlay), result)
    }

    /// Lends the overlay for one call.
    fn call_with<T>(
        &self,
        overlay: Overlay,
        writable: bool,
        limits: CallLimits,
        call: impl FnOnce(&wit::Guest, &mut Store<HostData>) -> wasmtime::Result<T>,
    ) -> (Overlay, Result<T, Fault>) {
        let state = GuestState::new(overlay, writable, limits.state_work);
        let (overlay, result) = self.call(Some(state), limits, call);
        // Lent two lines above, and nothing takes it out of the store.
        let Some(overlay) = overlay else { unreachable!("the overlay was lent to the store") };
        (overlay, result)
    }
}

impl ApplicationInstance for WasmApplication {
    fn describe(&self) -> Result<Info, Fault> {
        let (_, info) =
            self.call(None, self.shared.limits.application.call, |guest, store| guest.call_describe(store));
        let info = Info::from(info?);
        output::check_info(&info.name, &info.version, &info.interfaces)
            .map_err(|problem| bad_output(self.shared.stats.world(WORLD), problem))?;
        Ok(info)
    }

    fn execute(
        &self,
        overlay: Overlay,
        config: &[u8],
        block: Block,
        transactions: &[Vec<u8>],
    ) -> (Overlay, Result<Vec<Receipt>, Fault>) {
        let Block { global_index, epoch, time_ms } = block;
        let block = wit::Block { global_index, epoch, time_ms };
        let limits = self.shared.limits.application.call;
        let (overlay, receipts) = self.call_with(overlay, true, limits, |guest, store| {
            guest.call_execute(store, config, block, transactions)
        });
        let receipts = receipts.and_then(|receipts| {
            let receipts: Vec<_> = receipts.into_iter().map(Receipt::from).collect();
            output::check_receipts(&receipts, transactions.len())
                .map_err(|problem| bad_output(self.shared.stats.world(WORLD), problem))?;
            Ok(receipts)
        });
        (overlay, receipts)
    }

    fn query(
        &self,
        overlay: Overlay,
        config: &[u8],
        request: &[u8],
    ) -> Result<Result<Vec<u8>, String>, Fault> {
        let limits = self.shared.limits.application.call;
        self.call_with(overlay, false, limits, |guest, store| guest.call_query(store, config, request)).1
    }

    fn upgrade(
        &self,
        overlay: Overlay,
        config: &[u8],
        from: Option<&Info>,
    ) -> (Overlay, Result<Result<(), String>, Fault>) {
        let from = from.map(wit::Info::from);
        self.call_with(overlay, true, self.shared.limits.upgrade, |guest, store| {
            guest.call_upgrade(store, config, from.as_ref())
        })
    }
}

impl HostData {
    fn lent(&mut self) -> Result<&mut GuestState, StateFault> {
        self.state.as_mut().ok_or(StateFault::Absent)
    }
}

impl Host for HostData {
    fn get(&mut self, key: Vec<u8>) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.lent()?.get(&key)?)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> wasmtime::Result<()> {
        Ok(self.lent()?.put(&key, &value)?)
    }

    fn delete(&mut self, key: Vec<u8>) -> wasmtime::Result<()> {
        Ok(self.lent()?.delete(&key)?)
    }

    fn scan(&mut self, start: Vec<u8>, end: Option<Vec<u8>>, limit: u32) -> wasmtime::Result<Vec<Entry>> {
        let entries = self.lent()?.scan(&start, end.as_deref(), limit)?;
        Ok(entries.into_iter().map(|(key, value)| Entry { key, value }).collect())
    }
}
