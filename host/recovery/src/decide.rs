//! Up to which block a chain is carried on, and what that keeps for certain.
//!
//! A write is acknowledged once a quorum has committed to its block, and each of that quorum has
//! the block's prepare certificate in its guard (K4, K17). So where the survivors whose guards were
//! given meet every quorum, the highest of their certificates lies at or above all that was
//! acknowledged, and by S1 on one chain with it. Blocks below it are kept, whether final or not.

use moult_core::governance::Ledger;
use moult_core::guard::GuardState;
use moult_core::io::EpochStart;
use moult_core::kernel::check_certificate;
use moult_crypto::Keyring;
use moult_node::Own;
use moult_types::phase::Phase;
use moult_types::{Certificate, Committee, Digest, EpochIdentity, Finality, GlobalIndex, Round, decode};

use crate::error::RecoveryError;
use crate::survivor::Survivor;

/// Where the former chain ends for the new one.
#[derive(Clone, Debug)]
pub struct Point {
    /// The block, over all epochs.
    pub global: GlobalIndex,
    /// Its hash.
    pub hash: Digest,
    /// Its block time.
    pub time_ms: u64,
    /// The epoch that the chain is in there.
    pub epoch: EpochStart,
    /// The phase that its chain goes on in.
    pub phase: Phase,
    /// The last final block.
    pub last_final: GlobalIndex,
    /// Which survivor is furthest.
    pub best: usize,
    /// Why acknowledged writes may be missing; none if they cannot.
    pub doubts: Vec<String>,
}

/// Chooses the block. The survivors are taken to be honest.
///
/// # Errors
/// There is nothing to choose from.
pub(crate) fn decide(survivors: &[Survivor]) -> Result<Point, RecoveryError> {
    let reach = |survivor: &Survivor| {
        let loaded = &survivor.loaded;
        let last = loaded.last_final.as_ref().map(|(block, _)| block.global);
        (last, loaded.epoch.manifest.number, loaded.phases.len())
    };
    let places = 0..survivors.len();
    let best = places.rev().max_by_key(|at| survivors.get(*at).map(reach)).ok_or(RecoveryError::Nobody)?;
    let loaded = &survivors.get(best).ok_or(RecoveryError::Nobody)?.loaded;
    let (last, _) = loaded.last_final.as_ref().ok_or(RecoveryError::Empty)?;
    let epoch = loaded.epoch.clone();
    let resumed = loaded.phases.iter().rev().find(|record| record.resumption.is_some());
    let (phase, identity) =
        resumed.map_or((0, epoch.manifest.identity()), |record| (record.phase, record.identity));
    let mut point = Point {
        global: last.global,
        hash: last.hash,
        time_ms: last.block.time_ms,
        phase,
        last_final: last.global,
        best,
        doubts: Vec::new(),
        epoch,
    };
    match point.epoch.manifest.finality {
        Finality::Certified => prepared(&mut point, identity, survivors)?,
        Finality::Graduated => ordered(&mut point, identity, survivors)?,
    }
    let ledger = survivors.get(point.best).and_then(|survivor| survivor.loaded.ledger.as_ref());
    let doubt = ledger.and_then(|ledger| doubt_of_next_committee(&point, ledger));
    point.doubts.extend(doubt);
    Ok(point)
}

/// As far as a quorum prepared.
fn prepared(point: &mut Point, identity: EpochIdentity, survivors: &[Survivor]) -> Result<(), RecoveryError> {
    let manifest = &point.epoch.manifest;
    let committee = manifest.committee().map_err(moult_core::governance::ProposalError::from)?;
    let chain =
        survivors.first().map(|survivor| survivor.loaded.genesis.chain()).ok_or(RecoveryError::Nobody)?;
    let guards: Vec<&GuardState> =
        survivors.iter().filter_map(|survivor| survivor.guard.as_ref().ok()).collect();
    point.doubts.extend(doubt_of_stake(&committee, &guards));
    let number = manifest.number.0;
    if guards.iter().any(|guard| guard.epoch == number && guard.phase > point.phase) {
        point
            .doubts
            .push("an engine was being given up: blocks above the last final one are not looked for".into());
        return Ok(());
    }
    let window = manifest.limits.window_blocks;
    let holds = |certificate: &&Certificate| {
        let keyring = Keyring::new(chain, &committee);
        keyring.is_ok_and(|keyring| {
            check_certificate(certificate, Round::Prepare, identity, &committee, &keyring, window).is_ok()
        })
    };
    let of_phase = guards.iter().filter(|guard| guard.epoch == number && guard.identity == identity);
    let claims = of_phase.filter_map(|guard| Some(&guard.certified.as_ref()?.certificate));
    let mut claims: Vec<&Certificate> = claims.filter(holds).collect();
    claims.sort_by_key(|certificate| std::cmp::Reverse(certificate.index));
    let last = survivors.get(point.best).and_then(|survivor| survivor.loaded.last_final.as_ref());
    let settled = last.filter(|(block, _)| block.identity == identity).map(|(block, _)| block.block.index);
    let mut missing = None;
    for claim in claims.iter().filter(|claim| settled.is_none_or(|settled| claim.index > settled)) {
        let tails = survivors.iter().flat_map(|survivor| &survivor.loaded.tail);
        let mut blocks = tails.filter(|record| record.identity == identity);
        if let Some(record) =
            blocks.find(|record| (record.block.index, record.hash) == (claim.index, claim.hash))
        {
            (point.global, point.hash) = (record.global, record.hash);
            point.time_ms = record.block.time_ms;
            break;
        }
        missing = missing.max(Some(claim.index));
    }
    point.doubts.extend(missing.map(|index| {
        format!("a quorum holds block {} of the epoch, and no survivor that was given does", index.0)
    }));
    Ok(())
}

/// Whether another committee may have begun the next epoch, of which no survivor knows: that these
/// meet every quorum of theirs says nothing about it.
fn doubt_of_next_committee(point: &Point, ledger: &Ledger) -> Option<String> {
    let (record, barrier) = ledger.schedule()?;
    // What is carried on above the last final block schedules nothing so near.
    let reached = ledger.index.0 + point.global.0.saturating_sub(point.last_final.0);
    let (next, present) = (&record.proposal, &point.epoch.manifest);
    let is_other = (&next.new_committee, next.fault_model) != (&present.members, present.fault_model);
    (is_other && reached >= barrier.0).then(|| {
        format!(
            "epoch {} of another committee may have begun after block {}: bring a survivor of it, if there is one",
            next.new_epoch, point.global
        )
    })
}

/// Whether the survivors whose guards are there meet every quorum.
fn doubt_of_stake(committee: &Committee, guards: &[&GuardState]) -> Option<String> {
    let indices = guards.iter().filter_map(|guard| committee.index_of_key(&guard.key)).collect();
    let (known, quorum, total) = (committee.stake_of(&indices), committee.quorum(), committee.total());
    (u128::from(known) + u128::from(quorum) <= u128::from(total)).then(|| {
        format!(
            "the survivors with a signer guard hold stake {known} of {total}: a quorum ({quorum}) may have \
             acknowledged writes that none of them committed to"
        )
    })
}

/// A graduated epoch acknowledges on its engine's word: as far as a survivor executed.
fn ordered(point: &mut Point, identity: EpochIdentity, survivors: &[Survivor]) -> Result<(), RecoveryError> {
    point.doubts.push("the epoch is graduated: it acknowledges before any certificate".into());
    for survivor in survivors {
        let state = survivor.store.state();
        let applied = state.applied()?.global;
        let own = state.snapshot().get(moult_node::OWN_KEY);
        let own: Option<Own> = own.and_then(|bytes| decode(&bytes).ok());
        let block = survivor.loaded.tail.iter().find(|record| record.global == applied);
        if let (Some((_, _, hash)), Some(record)) = (own, block)
            && applied > point.global
            && (record.identity, record.hash) == (identity, hash)
        {
            (point.global, point.hash, point.time_ms) = (applied, hash, record.block.time_ms);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "decide_test.rs"]
mod tests;
