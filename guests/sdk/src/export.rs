//! The macros that make a component of an implementation.
//!
//! Call one of them once, in the root of a `cdylib` crate with a feature `component` that
//! turns on `moult-sdk/component`:
//!
//! ```text
//! #[cfg(all(target_arch = "wasm32", feature = "component"))]
//! moult_sdk::export_engine!(MyEngine);
//! ```

/// Exports a type that implements [`engine::Engine`](crate::engine::Engine) as a component
/// of the world `moult:engine/consensus-engine`.
#[macro_export]
macro_rules! export_engine {
    ($engine:ty) => {
        #[allow(unsafe_code, missing_docs, clippy::all, reason = "exports of the component model")]
        mod moult_component {
            #[allow(unused_imports, reason = "the type may be named by a path")]
            use super::*;
            use $crate::component::engine::{self as glue, bindings::exports::moult::engine::engine as wit};

            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<Option<$engine>> =
                    const { ::std::cell::RefCell::new(None) };
            }

            struct Exported;

            impl wit::Guest for Exported {
                fn describe() -> wit::Info {
                    glue::describe::<$engine>()
                }

                fn init(
                    settings: wit::Settings,
                    recovered: Option<wit::Recovered>,
                ) -> Result<wit::Outcome, wit::InitError> {
                    INSTANCE.with(|instance| glue::init::<$engine>(instance, settings, recovered))
                }

                fn judge(committee: wit::Committee, proof: Vec<u8>) -> Option<u32> {
                    glue::judge::<$engine>(committee, &proof)
                }

                fn step(now: u64, events: Vec<wit::Event>) -> wit::Outcome {
                    INSTANCE.with(|instance| glue::step::<$engine>(instance, now, events))
                }
            }

            $crate::component::engine::bindings::export_consensus_engine!(
                Exported with_types_in $crate::component::engine::bindings
            );
        }
    };
}

/// Exports a type that implements [`approval::ApprovalPolicy`](crate::approval::ApprovalPolicy)
/// as a component of the world `moult:approval/approval-policy`.
#[macro_export]
macro_rules! export_approval {
    ($policy:ty) => {
        #[allow(unsafe_code, missing_docs, clippy::all, reason = "exports of the component model")]
        mod moult_component {
            #[allow(unused_imports, reason = "the type may be named by a path")]
            use super::*;
            use $crate::component::approval::{self as glue, bindings::exports::moult::approval::approval as wit};

            struct Exported;

            impl wit::Guest for Exported {
                fn describe() -> wit::Info {
                    glue::describe::<$policy>()
                }

                fn evaluate(config: Vec<u8>, proposal: wit::Proposal, context: wit::Context) -> wit::Verdict {
                    glue::evaluate::<$policy>(&config, proposal, context)
                }
            }

            $crate::component::approval::bindings::export_approval_policy!(
                Exported with_types_in $crate::component::approval::bindings
            );
        }
    };
}

/// Exports a type that implements [`application::Application`](crate::application::Application)
/// as a component of the world `moult:application/replicated-application`.
#[macro_export]
macro_rules! export_application {
    ($application:ty) => {
        #[allow(unsafe_code, missing_docs, clippy::all, reason = "exports of the component model")]
        mod moult_component {
            #[allow(unused_imports, reason = "the type may be named by a path")]
            use super::*;
            use $crate::component::application::{
                self as glue, bindings::exports::moult::application::application as wit,
            };

            struct Exported;

            impl wit::Guest for Exported {
                fn describe() -> wit::Info {
                    glue::describe::<$application>()
                }

                fn execute(config: Vec<u8>, block: wit::Block, transactions: Vec<Vec<u8>>) -> Vec<wit::Receipt> {
                    glue::execute::<$application>(&config, block, &transactions)
                }

                fn query(config: Vec<u8>, request: Vec<u8>) -> Result<Vec<u8>, String> {
                    glue::query::<$application>(&config, &request)
                }

                fn upgrade(config: Vec<u8>, from: Option<wit::Info>) -> Result<(), String> {
                    glue::upgrade::<$application>(&config, from)
                }
            }

            $crate::component::application::bindings::export_replicated_application!(
                Exported with_types_in $crate::component::application::bindings
            );
        }
    };
}
