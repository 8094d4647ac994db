//! From an error to an exit code.

use std::process::ExitCode;

use moult_keys::KeyError;
use moult_node::NodeError;
use moult_node::config::ConfigError;
use moult_node::genesis::GenesisError;
use moult_node::guard_transfer::TransferError;
use moult_recovery::RecoveryError;
use thiserror::Error;

/// It worked, and the answer is no.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Negative(pub(crate) String);

/// The answer is no, and has been printed.
#[derive(Debug, Error)]
#[error("no")]
pub(crate) struct Told;

const FAILED: u8 = 1;
const NEGATIVE: u8 = 3;
const CONFIG: u8 = 78;

/// Shorthand for a negative answer.
pub(crate) fn negative(text: impl Into<String>) -> anyhow::Error {
    Negative(text.into()).into()
}

/// The compile worker has printed what there is to say.
pub(crate) fn worker(code: ExitCode) -> anyhow::Result<()> {
    if code == ExitCode::SUCCESS { Ok(()) } else { Err(Told.into()) }
}

/// Prints the error and gives its exit code.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let code = code_of(error);
    if !error.is::<Told>() {
        let text = text_of(error);
        if json {
            eprintln!("{}", serde_json::json!({ "error": text, "exit_code": code }));
        } else {
            eprintln!("moult: {text}");
        }
    }
    ExitCode::from(code)
}

/// The causes in a row, but for those that an outer one tells already.
fn text_of(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

fn code_of(error: &anyhow::Error) -> u8 {
    let config = error.chain().any(|cause| {
        cause.is::<ConfigError>()
            || cause.is::<KeyError>()
            || cause.is::<GenesisError>()
            || cause.downcast_ref::<NodeError>().is_some_and(NodeError::is_configuration)
            || cause.downcast_ref::<RecoveryError>().is_some_and(RecoveryError::is_configuration)
            || cause.downcast_ref::<TransferError>().is_some_and(TransferError::is_configuration)
    });
    if config {
        CONFIG
    } else if error.is::<Negative>() || error.is::<Told>() {
        NEGATIVE
    } else {
        FAILED
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("refused");
        let error = anyhow::Error::from(inner).context("cannot connect: refused").context("starting");
        assert_eq!(text_of(&error), "starting: cannot connect: refused");
    }

    #[test]
    fn codes_follow_the_cause() {
        let file = KeyError::NoToken("t".into());
        assert_eq!(code_of(&anyhow::Error::from(file).context("starting")), CONFIG);
        assert_eq!(code_of(&negative("rejected")), NEGATIVE);
        assert_eq!(code_of(&anyhow!("reset")), FAILED);
    }
}
