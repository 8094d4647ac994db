//! What `wasmtime` makes of the contracts.

/// `moult:engine/consensus-engine`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(crate) mod engine {
    wasmtime::component::bindgen!({
        path: ["../../wit/types", "../../wit/engine"],
        world: "moult:engine/consensus-engine",
    });
}

/// `moult:approval/approval-policy`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(crate) mod approval {
    wasmtime::component::bindgen!({
        path: ["../../wit/types", "../../wit/approval"],
        world: "moult:approval/approval-policy",
        with: { "moult:types/types@0.1.0": crate::bindings::engine::moult::types::types },
    });
}

/// `moult:application/replicated-application`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(crate) mod application {
    wasmtime::component::bindgen!({
        path: ["../../wit/application"],
        world: "moult:application/replicated-application",
        imports: { default: trappable },
    });
}
