//! Reports of certifiers: a module went through the conformance suite and the simulator, and
//! what came of it, signed. They travel with proposals, for the approval policies of nodes.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::codec::{encode, hash_of};
use crate::ids::{ModuleHash, PublicKey, Signature, TraceHash};
use crate::manifest::World;

/// Most reports of a proposal.
pub const REPORTS_MAX: usize = 16;
/// Longest encoding of a signed report, in bytes.
pub const REPORT_BYTES_MAX: usize = 8 * 1024;
/// Most stretches of seeds that a report has a hash of.
pub const STRETCHES_MAX: usize = 32;
/// Most seeds and names of what failed that a report lists; it counts them all.
pub const FAILURES_LISTED_MAX: usize = 32;

/// What was run, and what came of it. The same module, host version, plan and seeds give the same
/// report anywhere, but for the certifier's key.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificationReport {
    /// Which module.
    pub module: ModuleHash,
    /// What it was certified as.
    pub world: World,
    /// As the module names itself: name and version.
    pub name: String,
    /// Version of the program that ran it.
    pub host_version: String,
    /// The simulator's plan, by name.
    pub plan: String,
    /// Of everything that a run of the simulator depends on but its seed: program, plan, modules.
    pub setting: TraceHash,
    /// Kinds of faults that were injected, and how often over all seeds.
    pub faults: Vec<(String, u64)>,
    /// Names of the promises that were checked after every event.
    pub invariants: Vec<String>,
    /// The first seed of the simulator.
    pub first_seed: u64,
    /// How many seeds.
    pub seeds: u64,
    /// How many of them broke a promise.
    pub failed_seeds: u64,
    /// The first of these.
    pub failures: Vec<u64>,
    /// Seeds of the conformance suite, from the same first one on.
    pub suite_seeds: u64,
    /// Cases of the conformance suite: probes, scenarios, and these seeds.
    pub cases: u64,
    /// How many of them failed.
    pub failed_cases: u64,
    /// The first of these, by name.
    pub case_failures: Vec<String>,
    /// The longest that a healed quorum took, in any seed, to decide all that was asked of it, in
    /// milliseconds of virtual time.
    pub worst_stall_ms: u64,
    /// Commits of the module over all seeds and nodes.
    pub commits: u64,
    /// Fuel of all its calls, divided by these.
    pub fuel_per_commit: u64,
    /// Hashes of everything that happened, of equal stretches of the seeds in order; see
    /// [`stretches`].
    pub traces: Vec<TraceHash>,
}

impl CertificationReport {
    /// Failures of all kinds; 0 for a module that passed.
    pub fn all_failures(&self) -> u64 {
        self.failed_seeds.saturating_add(self.failed_cases)
    }

    /// What the certifier signs: a hash in a domain of its own.
    pub fn signing_bytes(&self) -> [u8; 32] {
        hash_of("moult certification report", self).0
    }
}

/// A report with its certifier's signature.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedReport {
    /// What was found.
    pub report: CertificationReport,
    /// Who says so.
    pub certifier: PublicKey,
    /// Over [`CertificationReport::signing_bytes`].
    pub signature: Signature,
}

impl SignedReport {
    /// Length of its encoding.
    pub fn encoded_bytes(&self) -> usize {
        encode(self).len()
    }
}

/// The stretches into which seeds are cut, in order: at most [`STRETCHES_MAX`], of one length but
/// for the last. The last seed lies below 2^64.
pub fn stretches(first_seed: u64, seeds: u64) -> Vec<std::ops::Range<u64>> {
    let length = seeds.div_ceil(STRETCHES_MAX as u64).max(1);
    let end = first_seed.saturating_add(seeds);
    let mut from = first_seed;
    let mut all = Vec::new();
    while from < end {
        let to = from.saturating_add(length).min(end);
        all.push(from..to);
        from = to;
    }
    all
}

/// The hash of a stretch: of each seed in order, the hash of everything that happened, and whether
/// a promise was broken.
pub fn stretch_hash(traces: &[(u64, u64, bool)]) -> TraceHash {
    TraceHash(hash_of("moult certification stretch", &traces).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_cover_each_seed_once_and_are_few() {
        for (first, seeds) in [(0, 0), (0, 1), (7, 32), (7, 33), (100, 300), (u64::MAX - 10, 10)] {
            let all = stretches(first, seeds);
            assert!(all.len() <= STRETCHES_MAX, "{seeds}: {}", all.len());
            let covered: Vec<u64> = all.into_iter().flatten().collect();
            assert_eq!(covered, (first..first + seeds).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_signed_changes_with_the_report() {
        let report = sample();
        let other = CertificationReport { seeds: report.seeds + 1, ..report.clone() };
        assert_ne!(report.signing_bytes(), other.signing_bytes());
        let hash = |trace, failed| stretch_hash(&[(1, 2, false), (2, trace, failed)]);
        assert_ne!(hash(3, false), hash(4, false));
        assert_ne!(hash(3, false), hash(3, true));
    }

    #[test]
    fn a_report_that_is_as_long_as_it_may_be_fits() {
        let names = |count: usize, bytes: usize| vec!["x".repeat(bytes); count];
        let report = CertificationReport {
            faults: names(64, 24).into_iter().map(|name| (name, u64::MAX)).collect(),
            invariants: names(40, 32),
            failures: vec![u64::MAX; FAILURES_LISTED_MAX],
            case_failures: names(FAILURES_LISTED_MAX, 48),
            traces: vec![TraceHash([1; 32]); STRETCHES_MAX],
            ..sample()
        };
        let signed = SignedReport { report, certifier: PublicKey([1; 32]), signature: Signature([2; 64]) };
        assert!(signed.encoded_bytes() <= REPORT_BYTES_MAX, "{} bytes", signed.encoded_bytes());
    }

    fn sample() -> CertificationReport {
        CertificationReport {
            module: ModuleHash([1; 32]),
            world: World::Engine,
            name: "pbft 0.1.0".into(),
            host_version: "0.1.0".into(),
            plan: "short".into(),
            setting: TraceHash([2; 32]),
            faults: Vec::new(),
            invariants: Vec::new(),
            first_seed: 0,
            seeds: 300,
            failed_seeds: 0,
            failures: Vec::new(),
            suite_seeds: 300,
            cases: 400,
            failed_cases: 0,
            case_failures: Vec::new(),
            worst_stall_ms: 1_200,
            commits: 40_000,
            fuel_per_commit: 90_000,
            traces: Vec::new(),
        }
    }
}
