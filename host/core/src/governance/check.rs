//! What a proposal, or a genesis, must be like to become an epoch.

use moult_crypto::{VerifyError, check_possession, check_report};
use moult_types::certification::{REPORT_BYTES_MAX, REPORTS_MAX};
use moult_types::manifest::CONFIG_BYTES_MAX;
use moult_types::{
    Committee, CommitteeError, EpochChangeProposal, EpochLimits, Manifest, ModuleHash, ProposalId, World,
};
use thiserror::Error;

use super::failed::FailedEngine;

/// Furthest deadline, in blocks from the one that carries the proposal.
pub const DEADLINE_BLOCKS_MAX: u64 = 10_000_000;

/// Most engines to fall back to.
pub const FALLBACKS_MAX: usize = 8;
/// So many phases in a row that did not get anywhere fit into what opens the next.
const OPENINGS_MIN: u64 = 8;

/// Why a proposal cannot be put forward.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ProposalError {
    #[error("it is for epoch {given}, but the next epoch is {expected}")]
    WrongEpoch { given: u64, expected: u64 },
    #[error("the proposer is not in the present committee")]
    NotAnAuthority,
    #[error("its signature does not verify")]
    BadSignature,
    #[error("this authority has proposal {0} open already: withdraw it first")]
    OneAtATime(ProposalId),
    #[error("its timestamp {given} does not lie after {last}, that of this authority's proposal before it")]
    Repeated { given: u64, last: u64 },
    #[error("proposal {0} is approved: wait until it is active or expires")]
    RivalApproved(ProposalId),
    #[error("the epoch ends with block {0}, where it graduates: propose in the next one")]
    Graduates(u64),
    #[error("the new committee is not valid: {0}")]
    Committee(#[from] CommitteeError),
    #[error("the key of authority {0} is invalid or its proof of possession does not hold")]
    Possession(moult_types::AuthorityId),
    #[error("it pins no module for the world `{0}`")]
    MissingPin(World),
    #[error("the configuration for the world `{0}` is larger than {CONFIG_BYTES_MAX} bytes")]
    ConfigTooLarge(World),
    #[error("there are {0} fallback engines, at most {FALLBACKS_MAX} can be listed")]
    TooManyFallbacks(usize),
    #[error("it carries {0} reports of certifiers, at most {REPORTS_MAX} are taken")]
    TooManyReports(usize),
    #[error("its report on module {0} has {1} bytes, at most {REPORT_BYTES_MAX} are taken")]
    ReportTooLarge(ModuleHash, usize),
    #[error("it carries a report on module {0}, which it does not pin")]
    ReportUnpinned(ModuleHash),
    #[error("its reports do not rise by module and certifier at the one on module {0}")]
    ReportOrder(ModuleHash),
    #[error("the signature of its report on module {0} does not hold: {1}")]
    ReportSignature(ModuleHash, VerifyError),
    #[error("the limit `{name}` is {given}, outside {min}..={max}")]
    Limit { name: &'static str, given: u64, min: u64, max: u64 },
    #[error(
        "{0}: pin another engine or another configuration; to let this one in again on purpose, propose it \
         with `readmit_failed`"
    )]
    EngineFailed(Box<FailedEngine>),
    #[error(
        "its deadline is block {deadline}; it must lie after block {index} and within {DEADLINE_BLOCKS_MAX} blocks"
    )]
    Deadline { deadline: u64, index: u64 },
}

/// Checks the numbers that all nodes must share.
///
/// # Errors
/// The first one out of range.
pub fn check_limits(limits: &EpochLimits) -> Result<(), ProposalError> {
    let check = |name, given: u64, min: u64, max: u64| {
        if (min..=max).contains(&given) {
            Ok(())
        } else {
            Err(ProposalError::Limit { name, given, min, max })
        }
    };
    check("window_blocks", limits.window_blocks, 1, 1024)?;
    check("barrier_distance_blocks", limits.barrier_distance_blocks, limits.window_blocks, 65_536)?;
    check("graduate_after_blocks", limits.graduate_after_blocks.unwrap_or(1), 1, u64::MAX)?;
    check("stall_timeout_ms", limits.stall_timeout_ms, 100, 86_400_000)?;
    check("readiness_window_blocks", limits.readiness_window_blocks, 10, 10_000_000)?;
    check("batches_in_block_max", limits.batches_in_block_max.into(), 1, 4096)?;
    check("batch_bytes_max", limits.batch_bytes_max.into(), 4096, 4 << 20)?;
    check("engine_message_bytes_max", limits.engine_message_bytes_max.into(), 65_536, 4 << 20)?;
    check("client_window", limits.client_window, 1, 1 << 20)?;
    check("client_idle_blocks", limits.client_idle_blocks, 1000, u64::MAX)?;
    check("module_bytes_max", limits.module_bytes_max.into(), 1024, 256 << 20)
}

/// Checks the reports that a proposal carries: on modules that it pins, for the worlds that it pins
/// them for, one a module and certifier, and signed by the certifier that each names.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_reports(proposal: &EpochChangeProposal) -> Result<(), ProposalError> {
    let reports = &proposal.reports;
    if reports.len() > REPORTS_MAX {
        return Err(ProposalError::TooManyReports(reports.len()));
    }
    let mut last = None;
    for signed in reports {
        let (module, world) = (signed.report.module, signed.report.world);
        let bytes = signed.encoded_bytes();
        if bytes > REPORT_BYTES_MAX {
            return Err(ProposalError::ReportTooLarge(module, bytes));
        }
        let fallbacks = proposal.fallbacks.iter().filter(|_| world == World::Engine);
        if !proposal.modules.get(&world).into_iter().chain(fallbacks).any(|pin| pin.hash == module) {
            return Err(ProposalError::ReportUnpinned(module));
        }
        let place = Some((module, signed.certifier));
        if last >= place {
            return Err(ProposalError::ReportOrder(module));
        }
        last = place;
        check_report(signed).map_err(|problem| ProposalError::ReportSignature(module, problem))?;
    }
    Ok(())
}

/// Checks everything about a manifest's content that needs no chain: also for a genesis.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_manifest(manifest: &Manifest) -> Result<Committee, ProposalError> {
    let committee = manifest.committee()?;
    for member in &manifest.members {
        check_possession(&member.key, member.id, &member.possession)
            .map_err(|_| ProposalError::Possession(member.id))?;
    }
    for world in World::ALL {
        let pin = manifest.pin(world).ok_or(ProposalError::MissingPin(world))?;
        if pin.config.len() > CONFIG_BYTES_MAX {
            return Err(ProposalError::ConfigTooLarge(world));
        }
    }
    if manifest.fallbacks.len() > FALLBACKS_MAX {
        return Err(ProposalError::TooManyFallbacks(manifest.fallbacks.len()));
    }
    if manifest.fallbacks.iter().any(|pin| pin.config.len() > CONFIG_BYTES_MAX) {
        return Err(ProposalError::ConfigTooLarge(World::Engine));
    }
    check_limits(&manifest.limits)?;
    if !manifest.fallbacks.is_empty() {
        // What opens a fallback travels in a batch: a signature and a claim of each member, and a
        // certificate, for each phase that did not get anywhere.
        let bundle = 200 * manifest.members.len() as u64 + 32 * manifest.limits.window_blocks + 4096;
        let (given, min) = (manifest.limits.batch_bytes_max.into(), OPENINGS_MIN * bundle);
        if given < min {
            return Err(ProposalError::Limit { name: "batch_bytes_max", given, min, max: 4 << 20 });
        }
    }
    Ok(committee)
}
