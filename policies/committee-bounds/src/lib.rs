//! The approval policy that keeps the committee within bounds.
//!
//! - first what stands before all rules: an operator's veto, a module that is not ready here, checks
//!   that are not there yet;
//! - upon a committee with too few members, with one that holds too much of the stake, or that differs
//!   from the present one by too many who join or leave: reject and say why;
//! - else approve.
//!
//! A change that leaves members and stakes as they are is not judged, whatever they are: so engines can
//! be changed, and changed back, in a committee that was out of bounds before. A member is known by its
//! authority, which outlives its keys: a new key is nobody who joins. An operator's approval stands in
//! for nothing. A configuration that is not one of this policy's traps, which is no vote and an alert.

use moult_sdk::Stake;
use moult_sdk::approval::{
    ApprovalPolicy, Context, Info, Member, Proposal, Verdict, before_rules, plain_number, settings,
};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_approval!(CommitteeBounds);

/// See the crate.
pub struct CommitteeBounds;

impl ApprovalPolicy for CommitteeBounds {
    fn describe() -> Info {
        Info { name: "committee-bounds".into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn evaluate(config: &[u8], proposal: &Proposal, context: &Context) -> Verdict {
        if let Some(verdict) = before_rules(proposal, context) {
            return verdict;
        }
        let bounds =
            Bounds::parse(config).unwrap_or_else(|e| panic!("the configuration of committee-bounds: {e}"));
        match bounds.objection(&context.present.committee, &proposal.next.committee) {
            Some(reason) => Verdict::reject(reason),
            None => Verdict::Approve,
        }
    }
}

/// The configuration: lines `key=value` in plain decimal, each key at most once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Fewest members (`min_members`): 4, so that one may lie.
    pub min_members: u64,
    /// Most that one member may hold of the stake, in percent (`max_stake_percent`), 1 to 100: 33,
    /// so that nobody can stop the chain alone.
    pub max_stake_percent: u64,
    /// Most that may join and leave at once, in percent of the present members (`max_join_percent`,
    /// `max_leave_percent`): 34 each. One may, always.
    pub max_join_percent: u64,
    /// See `max_join_percent`.
    pub max_leave_percent: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { min_members: 4, max_stake_percent: 33, max_join_percent: 34, max_leave_percent: 34 }
    }
}

impl Bounds {
    /// Reads the text form.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(config: &[u8]) -> Result<Self, String> {
        let mut bounds = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (key, value) in settings(config)? {
            if seen.contains(&key) {
                return Err(format!("`{key}` is given twice"));
            }
            seen.push(key);
            let number = plain_number(key, value)?;
            match key {
                "min_members" => bounds.min_members = number,
                "max_stake_percent" if (1..=100).contains(&number) => bounds.max_stake_percent = number,
                "max_stake_percent" => return Err(format!("`{key}` is 1 to 100, not {number}")),
                "max_join_percent" => bounds.max_join_percent = number,
                "max_leave_percent" => bounds.max_leave_percent = number,
                _ => return Err(format!("there is no key `{key}`")),
            }
        }
        Ok(bounds)
    }

    /// Why a committee may not follow another.
    fn objection(&self, present: &[Member], next: &[Member]) -> Option<String> {
        if shares(present) == shares(next) {
            return None;
        }
        if (next.len() as u64) < self.min_members {
            return Some(format!(
                "a committee of {}, at least {} are asked for",
                next.len(),
                self.min_members
            ));
        }
        let total: u128 = next.iter().map(|member| u128::from(member.stake)).sum();
        let is_too_large = |member: &&Member| {
            u128::from(member.stake) * 100 > total.saturating_mul(u128::from(self.max_stake_percent))
        };
        if let Some(member) = next.iter().find(is_too_large) {
            return Some(format!(
                "authority {} would hold {} of {total} stake, more than {} %",
                member.authority, member.stake, self.max_stake_percent
            ));
        }
        let joins = absent(next, present);
        let leaves = absent(present, next);
        let is_within = |n: u64, percent: u64| {
            n <= 1 || u128::from(n) * 100 <= present.len() as u128 * u128::from(percent)
        };
        let rates = [("join", joins, self.max_join_percent), ("leave", leaves, self.max_leave_percent)];
        let (what, n, percent) = rates.into_iter().find(|(_, n, percent)| !is_within(*n, *percent))?;
        Some(format!("{n} {what} a committee of {} at once, more than {percent} %", present.len()))
    }
}

/// Who holds what, in an order of its own.
fn shares(committee: &[Member]) -> Vec<([u8; 32], Stake)> {
    let mut shares: Vec<_> = committee.iter().map(|member| (member.authority.0, member.stake)).collect();
    shares.sort_unstable();
    shares
}

/// How many of `these` are not among `those`.
fn absent(these: &[Member], those: &[Member]) -> u64 {
    let is_absent = |member: &&Member| those.iter().all(|other| other.authority != member.authority);
    these.iter().filter(is_absent).count() as u64
}

#[cfg(test)]
mod tests {
    use moult_sdk::approval::Case;

    use super::*;

    fn ask(config: &str, present: &[(u8, Stake)], next: &[(u8, Stake)]) -> Verdict {
        let committee = |members: &[(u8, Stake)]| {
            members.iter().map(|(n, stake)| Member::numbered(*n, *stake)).collect::<Vec<_>>()
        };
        let mut case = Case::unchanged();
        case.context.present.committee = committee(present);
        case.proposal.next.committee = committee(next);
        case.ask::<CommitteeBounds>(config)
    }

    fn reason(verdict: Verdict) -> String {
        let Verdict::Reject(reason) = verdict else { panic!("{verdict:?}") };
        reason
    }

    const FOUR: [(u8, Stake); 4] = [(0, 100), (1, 100), (2, 100), (3, 100)];

    #[test]
    fn a_committee_within_bounds_may_follow() {
        let five = [(0, 100), (1, 100), (2, 100), (3, 100), (4, 100)];
        assert_eq!(ask("", &FOUR, &five), Verdict::Approve);
        assert_eq!(ask("", &five, &FOUR), Verdict::Approve);
        assert_eq!(ask("", &FOUR, &[(0, 100), (1, 100), (2, 100), (9, 100)]), Verdict::Approve);
    }

    #[test]
    fn too_few_members_are_refused() {
        let text = reason(ask("", &FOUR, &FOUR[..3]));
        assert_eq!(text, "a committee of 3, at least 4 are asked for");
        assert_eq!(ask("min_members=3\nmax_stake_percent=34", &FOUR, &FOUR[..3]), Verdict::Approve);
    }

    #[test]
    fn nobody_may_hold_more_than_the_share() {
        assert_eq!(ask("", &FOUR, &[(0, 33), (1, 33), (2, 33), (3, 1)]), Verdict::Approve);
        let text = reason(ask("", &FOUR, &[(0, 34), (1, 33), (2, 32), (3, 1)]));
        assert!(text.contains("would hold 34 of 100 stake, more than 33 %"), "{text}");
        // Sums beyond 64 bits are sums all the same.
        let all = [(0, Stake::MAX), (1, Stake::MAX), (2, Stake::MAX), (3, Stake::MAX)];
        assert_eq!(ask("", &FOUR, &all), Verdict::Approve);
    }

    #[test]
    fn too_many_may_neither_join_nor_leave_at_once() {
        let six = [(0, 100), (1, 100), (2, 100), (3, 100), (4, 100), (5, 100)];
        let text = reason(ask("", &FOUR, &six));
        assert_eq!(text, "2 join a committee of 4 at once, more than 34 %");
        assert_eq!(ask("max_join_percent=50", &FOUR, &six), Verdict::Approve);
        let text = reason(ask("", &[six.as_slice(), &[(6, 100)]].concat(), &FOUR));
        assert_eq!(text, "3 leave a committee of 7 at once, more than 34 %");
        assert_eq!(ask("", &six, &FOUR), Verdict::Approve, "2 of 6");
    }

    #[test]
    fn a_committee_that_stays_is_not_judged_nor_are_its_keys_and_its_order() {
        let two = [(0, 100), (1, 1)];
        assert_eq!(ask("", &two, &two), Verdict::Approve);
        assert_eq!(ask("", &two, &[two[1], two[0]]), Verdict::Approve);
        let mut case = Case::unchanged();
        for member in &mut case.proposal.next.committee {
            member.key.0[0] ^= 1;
        }
        assert_eq!(case.ask::<CommitteeBounds>("max_join_percent=0\nmin_members=9"), Verdict::Approve);
    }

    #[test]
    fn the_configuration_is_read_strictly() {
        assert_eq!(Bounds::parse(b""), Ok(Bounds::default()));
        for bad in ["min_members", "min_members=x", "max_stake_percent=0", "max_stake_percent=101", "other=1"]
        {
            assert!(Bounds::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Bounds::parse(b"min_members=4\nmin_members=4").is_err());
    }
}
