//! The approval policy that lets in only modules that are listed.
//!
//! - first what stands before all rules: an operator's veto, a module that is not ready here, checks
//!   that are not there yet;
//! - upon a module, an engine to fall back to among them, that neither runs in the present epoch for
//!   the same world nor is listed for it: reject and name it;
//! - upon another list for this policy: wait, until an operator approves by hand;
//! - else approve.
//!
//! The configuration has a line `WORLD=HASH` for each module that may come (64 hex digits, with or
//! without `sha256:` before them). What is pinned next for the world "approval" has to be listed as
//! well, so without a quorum of operators nothing comes that the list does not name. Configurations of
//! other modules are not judged. An operator's approval stands in for nothing else. A configuration that
//! is not one of this policy's traps, which is no vote and an alert.

use moult_sdk::Digest;
use moult_sdk::approval::{
    ApprovalPolicy, Context, Info, Proposal, Verdict, before_rules, plain_digest, settings,
};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_approval!(ModuleAllowlist);

/// See the crate.
pub struct ModuleAllowlist;

impl ApprovalPolicy for ModuleAllowlist {
    fn describe() -> Info {
        Info { name: "module-allowlist".into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn evaluate(config: &[u8], proposal: &Proposal, context: &Context) -> Verdict {
        if let Some(verdict) = before_rules(proposal, context) {
            return verdict;
        }
        let listed = read(config).unwrap_or_else(|e| panic!("the configuration of module-allowlist: {e}"));
        let runs = |world: &str, hash: Digest| {
            context.present.modules.iter().any(|pin| pin.world == world && pin.hash == hash)
        };
        // The checks name every module that is pinned, engines to fall back to among them.
        let mut new = context.checks.iter().filter(|check| !runs(&check.world, check.hash));
        match new.find(|check| !listed.contains(&(&check.world, check.hash))) {
            Some(check) => Verdict::reject(format!(
                "{} module sha256:{} is not on the list of modules that may come",
                check.world, check.hash
            )),
            // Else a list could be made longer by a change that brings no module, and used by the next.
            None if has_other_list(proposal, context) && context.operator != Some(Verdict::Approve) => {
                Verdict::Wait
            }
            None => Verdict::Approve,
        }
    }
}

/// Whether this policy stays, with another configuration.
fn has_other_list(proposal: &Proposal, context: &Context) -> bool {
    let present = context.present.modules.iter().find(|pin| pin.world == OWN_WORLD);
    let next = proposal.next.modules.iter().find(|pin| pin.world == OWN_WORLD);
    present
        .zip(next)
        .is_some_and(|(present, next)| present.hash == next.hash && present.config != next.config)
}

const OWN_WORLD: &str = "approval";

/// Reads the configuration: worlds with the hashes of their modules.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn read(config: &[u8]) -> Result<Vec<(&str, Digest)>, String> {
    let mut listed = Vec::new();
    for (world, hash) in settings(config)? {
        let digits = hash.strip_prefix("sha256:").unwrap_or(hash);
        let digest = plain_digest(digits).ok_or_else(|| format!("`{hash}` is no hash of a module"))?;
        if world.is_empty() {
            return Err(format!("no world is named for {hash}"));
        }
        if listed.contains(&(world, digest)) {
            return Err(format!("`{world}={hash}` is given twice"));
        }
        listed.push((world, digest));
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use moult_sdk::approval::{Case, ModuleCheck};

    use super::*;

    fn list(worlds: &[(&str, u8)]) -> String {
        worlds.iter().map(|(world, n)| format!("{world}=sha256:{}\n", Digest([*n; 32]))).collect()
    }

    #[test]
    fn what_runs_already_needs_no_place_on_the_list() {
        assert_eq!(Case::unchanged().ask::<ModuleAllowlist>(""), Verdict::Approve);
    }

    #[test]
    fn a_module_comes_in_only_if_it_is_listed_for_its_world() {
        let mut case = Case::unchanged();
        case.pin("engine", Digest([7; 32]));
        assert_eq!(
            case.ask::<ModuleAllowlist>(&list(&[("application", 2), ("engine", 7)])),
            Verdict::Approve
        );
        for config in [String::new(), list(&[("application", 7)]), list(&[("engine", 8)])] {
            let Verdict::Reject(reason) = case.ask::<ModuleAllowlist>(&config) else { panic!("let in") };
            assert!(reason.starts_with("engine module sha256:0707"), "{reason}");
        }
    }

    #[test]
    fn an_engine_to_fall_back_to_is_let_in_by_the_list_alone() {
        let mut case = Case::unchanged();
        case.context.checks.push(ModuleCheck::ready("engine", Digest([8; 32])));
        assert!(matches!(case.ask::<ModuleAllowlist>(""), Verdict::Reject(_)));
        assert_eq!(case.ask::<ModuleAllowlist>(&list(&[("engine", 8)])), Verdict::Approve);
    }

    #[test]
    fn its_successor_has_to_be_listed_too() {
        let mut case = Case::unchanged();
        case.pin("approval", Digest([5; 32]));
        assert!(matches!(case.ask::<ModuleAllowlist>(&list(&[("engine", 5)])), Verdict::Reject(_)));
    }

    #[test]
    fn another_list_comes_by_hand_alone() {
        let mut case = Case::unchanged();
        let own = case.proposal.next.modules.iter_mut().find(|pin| pin.world == OWN_WORLD).expect("pinned");
        own.config = list(&[("engine", 7)]).into_bytes();
        assert_eq!(case.ask::<ModuleAllowlist>(""), Verdict::Wait);
        case.context.operator = Some(Verdict::Approve);
        assert_eq!(case.ask::<ModuleAllowlist>(""), Verdict::Approve);
        case.pin("engine", Digest([7; 32]));
        let verdict = case.ask::<ModuleAllowlist>("");
        assert!(matches!(verdict, Verdict::Reject(_)), "the present list counts: {verdict:?}");
    }

    #[test]
    fn an_operators_approval_lets_in_no_module() {
        let mut case = Case::unchanged();
        case.pin("engine", Digest([7; 32]));
        case.context.operator = Some(Verdict::Approve);
        assert!(matches!(case.ask::<ModuleAllowlist>(""), Verdict::Reject(_)));
    }

    #[test]
    fn the_configuration_is_read_strictly() {
        let digits = Digest([7; 32]).to_string();
        assert_eq!(read(format!("engine={digits}").as_bytes()), Ok(vec![("engine", Digest([7; 32]))]));
        let bad = [
            format!("engine={}", digits.to_uppercase().replace('0', "A")),
            format!("engine={}", &digits[1..]),
            format!("={digits}"),
            format!("engine={digits}\nengine=sha256:{digits}"),
            format!("engine {digits}"),
        ];
        for bad in bad {
            assert!(read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
