//! Records of the chain in their written form.

use std::collections::BTreeMap;

use moult_core::governance::FailedEngine;
use moult_core::io::{EpochStart, PhaseRecord};
use moult_types::phase::Resumed;
use moult_types::{BlockRecord, Certificate, Manifest, World};

use crate::api_types::{
    AbortBody, BlockBody, CertificateBody, CertificateVoteBody, EpochBody, FailedEngineBody, ResumedBody,
};
use crate::genesis::PinFile;

pub(super) fn pins(manifest: &Manifest) -> BTreeMap<World, PinFile> {
    manifest.modules.iter().map(|(world, pin)| (*world, PinFile::from(pin))).collect()
}

fn abort(record: &PhaseRecord) -> AbortBody {
    AbortBody {
        phase: record.phase,
        identity: record.identity.to_string(),
        failed: record.failed,
        reason: record.reason.clone(),
        resumed_from: record.resumed().map(|resumed| resumed.point.global.0),
        entered_at_ms: record.entered_at_ms,
    }
}

pub(super) fn failed_engine(failed: &FailedEngine) -> FailedEngineBody {
    FailedEngineBody {
        module: failed.module,
        config_hash: failed.config.to_string(),
        epoch: failed.epoch.0,
        phase: failed.phase,
        resumed_from: failed.resumed_from.0,
    }
}

pub(super) fn block(record: &BlockRecord, certificate: &Certificate) -> BlockBody {
    BlockBody {
        global_exec_index: record.global.0,
        epoch: record.epoch.0,
        index: record.block.index.0,
        hash: record.hash.to_string(),
        parent: record.parent.to_string(),
        time_ms: record.block.time_ms,
        batches: record.block.batches.iter().map(ToString::to_string).collect(),
        state_root: record.block.state_root.map(|root| root.to_string()),
        resumed: record.block.resumed.map(|Resumed { at, point }| ResumedBody {
            at: at.0,
            identity: point.identity.to_string(),
            index: point.index.0,
            hash: point.hash.to_string(),
            global_exec_index: point.global.0,
        }),
        certificate: CertificateBody {
            identity: certificate.identity.to_string(),
            index: certificate.index.0,
            hash: certificate.hash.to_string(),
            votes: certificate
                .votes
                .iter()
                .map(|vote| CertificateVoteBody {
                    authority_index: vote.author.0,
                    index: vote.index.0,
                    signature: vote.signature.to_string(),
                })
                .collect(),
            bodies: certificate.bodies.iter().map(ToString::to_string).collect(),
        },
    }
}

pub(super) fn epoch(start: &EpochStart, phases: &[PhaseRecord]) -> EpochBody {
    let manifest = &start.manifest;
    // Checked when the epoch was proposed; an epoch that is stored has a committee.
    let (stake, quorum) = manifest.committee().map_or((0, 0), |c| (c.total(), c.quorum()));
    EpochBody {
        number: manifest.number.0,
        phase: phases.last().map_or(0, |record| record.phase),
        identity: manifest.identity().to_string(),
        base: start.base.0,
        time_ms: start.time_ms,
        switched_at_ms: start.switched_at_ms,
        fault_model: manifest.fault_model,
        finality: manifest.finality,
        committee: manifest.members.clone(),
        stake,
        quorum,
        modules: pins(manifest),
        fallbacks: manifest.fallbacks.iter().map(PinFile::from).collect(),
        aborts: phases.iter().map(abort).collect(),
        limits: manifest.limits.clone(),
        state_root: start.state_root.map(|root| root.to_string()),
    }
}
