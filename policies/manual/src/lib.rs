//! The approval policy that asks a person: it answers what an operator of this node
//! decided, and waits until one has.

use moult_sdk::approval::{ApprovalPolicy, Context, Info, Proposal, Verdict};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_approval!(Manual);

/// See the crate.
pub struct Manual;

impl ApprovalPolicy for Manual {
    fn describe() -> Info {
        Info { name: "manual".into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn evaluate(_: &[u8], _: &Proposal, context: &Context) -> Verdict {
        context.operator.clone().unwrap_or(Verdict::Wait)
    }
}
