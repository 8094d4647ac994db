//! The approval policy that gives everybody time to look at a change before it can come.
//!
//! - first what stands before all rules: an operator's veto, a module that is not ready here, checks
//!   that are not there yet;
//! - upon a proposal that may not become active until the delay has passed since the block that
//!   carried it (`--not-before`): approve;
//! - upon another: wait until the delay has passed, then approve; reject it if it says that it
//!   expires at this very block.
//!
//! The delay counts in block time, from the same block on every node. It is the configuration's:
//! `min_delay_ms=N`, a day where it is left out. It holds for a return to former modules as well,
//! so it should be shorter than what a chain can bear. An operator's approval shortens nothing.

use moult_sdk::approval::{
    ApprovalPolicy, Context, Info, Proposal, Verdict, before_rules, plain_number, settings,
};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_approval!(Timelock);

/// See the crate.
pub struct Timelock;

impl ApprovalPolicy for Timelock {
    fn describe() -> Info {
        Info { name: "timelock".into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn evaluate(config: &[u8], proposal: &Proposal, context: &Context) -> Verdict {
        if let Some(verdict) = before_rules(proposal, context) {
            return verdict;
        }
        let delay_ms = min_delay_ms(config).unwrap_or_else(|e| panic!("the configuration of timelock: {e}"));
        let until_ms = proposal.proposed_ms.saturating_add(delay_ms);
        let is_held_back = proposal.not_before_ms.is_some_and(|at_ms| at_ms >= until_ms);
        if is_held_back || context.block_time_ms >= until_ms {
            return Verdict::Approve;
        }
        if context.index >= proposal.deadline {
            return Verdict::reject(format!(
                "the proposal expires at block {}, and {} ms of {delay_ms} have not passed since it was made",
                proposal.deadline.0,
                until_ms - context.block_time_ms
            ));
        }
        Verdict::Wait
    }
}

/// Reads the configuration.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn min_delay_ms(config: &[u8]) -> Result<u64, String> {
    match settings(config)?.as_slice() {
        [] => Ok(24 * 60 * 60 * 1_000),
        [("min_delay_ms", value)] => plain_number("min_delay_ms", value),
        [("min_delay_ms", _), ("min_delay_ms", _), ..] => Err("`min_delay_ms` is given twice".into()),
        [("min_delay_ms", _), (key, _), ..] | [(key, _), ..] => Err(format!("there is no key `{key}`")),
    }
}

#[cfg(test)]
mod tests {
    use moult_sdk::CommitIndex;
    use moult_sdk::approval::Case;

    use super::*;

    fn ask(case: &Case) -> Verdict {
        case.ask::<Timelock>("min_delay_ms=60000\n")
    }

    #[test]
    fn a_change_is_approved_once_the_delay_has_passed_in_block_time() {
        let mut case = Case::unchanged();
        case.context.block_time_ms = 4_000 + 59_999;
        assert_eq!(ask(&case), Verdict::Wait);
        case.context.block_time_ms = 4_000 + 60_000;
        assert_eq!(ask(&case), Verdict::Approve);
    }

    #[test]
    fn one_that_cannot_come_before_is_approved_at_once() {
        let mut case = Case::unchanged();
        case.proposal.not_before_ms = Some(63_999);
        assert_eq!(ask(&case), Verdict::Wait);
        case.proposal.not_before_ms = Some(64_000);
        assert_eq!(ask(&case), Verdict::Approve);
    }

    #[test]
    fn an_operators_approval_shortens_nothing_and_a_veto_stands() {
        let mut case = Case::unchanged();
        case.context.operator = Some(Verdict::Approve);
        assert_eq!(ask(&case), Verdict::Wait);
        case.context.operator = Some(Verdict::Reject("no".into()));
        assert_eq!(ask(&case), Verdict::Reject("no".into()));
    }

    #[test]
    fn one_that_expires_before_is_rejected_with_the_reason() {
        let mut case = Case::unchanged();
        case.context.index = CommitIndex(1_000);
        let Verdict::Reject(reason) = ask(&case) else { panic!("not rejected") };
        assert!(reason.contains("expires at block 1000") && reason.contains("59000 ms of 60000"), "{reason}");
    }

    #[test]
    fn a_delay_beyond_all_time_never_passes() {
        let mut case = Case::unchanged();
        case.context.block_time_ms = u64::MAX - 1;
        assert_eq!(case.ask::<Timelock>(&format!("min_delay_ms={}", u64::MAX)), Verdict::Wait);
    }

    #[test]
    fn the_configuration_is_read_strictly() {
        assert_eq!(min_delay_ms(b""), Ok(86_400_000));
        assert_eq!(min_delay_ms(b"min_delay_ms=0"), Ok(0));
        for bad in ["min_delay_ms", "min_delay_ms=", "min_delay_ms=-1", "min_delay_ms=01", "delay=1", "\n"] {
            assert!(min_delay_ms(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(min_delay_ms(b"min_delay_ms=1\nmin_delay_ms=1").is_err());
        assert!(min_delay_ms(b"min_delay_ms=1\nother=1").is_err());
        assert!(min_delay_ms(&[0xff]).is_err());
    }
}
