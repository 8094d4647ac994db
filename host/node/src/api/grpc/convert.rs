//! Between messages and the node's own types.

use bytes::Bytes;
use moult_core::execution::{Outcome, Receipt};
use moult_types::phase::Resumed;
use moult_types::{
    AuthorityId, BlockRecord, Certificate, EpochLimits, FaultModel, Member, ModuleHash, PublicKey, Signature,
};

use super::super::error::ApiError;
use crate::api_types::ProposeBody;
use crate::genesis::PinFile;
use crate::proto;
use crate::proto::receipt::Status;

pub(super) fn bytes(of: &[u8]) -> Bytes {
    Bytes::copy_from_slice(of)
}

pub(super) fn receipt(receipt: Receipt) -> proto::Receipt {
    let (status, code, output) = match receipt.outcome {
        Outcome::Executed { code, output } => (Status::Executed, code, output),
        Outcome::Trapped => (Status::Trapped, 0, Vec::new()),
        Outcome::Stale => (Status::Stale, 0, Vec::new()),
    };
    proto::Receipt { index: receipt.global.0, status: status.into(), code, output: output.into() }
}

pub(super) fn block(record: &BlockRecord, certificate: &Certificate) -> proto::Block {
    let votes = certificate.votes.iter().map(|vote| proto::CertificateVote {
        authority_index: vote.author.0,
        index: vote.index.0,
        signature: bytes(&vote.signature.0),
    });
    proto::Block {
        global_exec_index: record.global.0,
        epoch: record.epoch.0,
        index: record.block.index.0,
        hash: bytes(&record.hash.0),
        parent: bytes(&record.parent.0),
        time_ms: record.block.time_ms,
        batches: record.block.batches.iter().map(|batch| bytes(&batch.0)).collect(),
        state_root: record.block.state_root.map(|root| bytes(&root.0)),
        resumed: record.block.resumed.map(|Resumed { at, point }| proto::Resumed {
            at: at.0,
            identity: bytes(&point.identity.0),
            index: point.index.0,
            hash: bytes(&point.hash.0),
            global_exec_index: point.global.0,
        }),
        certificate: Some(proto::Certificate {
            identity: bytes(&certificate.identity.0),
            index: certificate.index.0,
            hash: bytes(&certificate.hash.0),
            votes: votes.collect(),
            bodies: certificate.bodies.iter().map(|body| bytes(&body.0)).collect(),
        }),
    }
}

pub(super) fn proposal(request: proto::ProposeRequest) -> Result<ProposeBody, ApiError> {
    let fault_model = match request.fault_model() {
        proto::FaultModel::Unspecified if request.fault_model != 0 => {
            return Err(ApiError::bad_request(format!("`fault_model` has no value {}", request.fault_model)));
        }
        proto::FaultModel::Unspecified => None,
        proto::FaultModel::Byzantine => Some(FaultModel::Byzantine),
        proto::FaultModel::Crash => Some(FaultModel::Crash),
    };
    let file = |pin: &proto::ModulePin, whose: &str| {
        let hash = ModuleHash(array(whose, &pin.hash)?);
        Ok::<_, ApiError>(PinFile { hash, config: None, config_hex: Some(hex::encode(&pin.config)) })
    };
    let pin = |(world, pin): (String, proto::ModulePin)| {
        let shown: String = world.chars().take(40).collect();
        let world = world
            .parse()
            .map_err(|_| ApiError::bad_request(format!("`modules`: there is no world `{shown}`")))?;
        Ok::<_, ApiError>((world, file(&pin, "`hash` of a module")?))
    };
    let committee: Vec<Member> = request.committee.into_iter().map(member).collect::<Result<_, _>>()?;
    let fallbacks: Vec<PinFile> =
        request.fallbacks.iter().map(|pin| file(pin, "`hash` of a fallback")).collect::<Result<_, _>>()?;
    Ok(ProposeBody {
        fallbacks: Some(fallbacks).filter(|pins| !pins.is_empty()),
        modules: request.modules.into_iter().map(pin).collect::<Result<_, ApiError>>()?,
        committee: Some(committee).filter(|members| !members.is_empty()),
        fault_model,
        limits: request.limits.map(limits),
        not_before_ms: request.not_before_ms,
        deadline_blocks: request.deadline_blocks,
        readmit_failed: request.readmit_failed,
        reports: request.reports.iter().map(hex::encode).collect(),
    })
}

fn member(member: proto::Member) -> Result<Member, ApiError> {
    Ok(Member {
        id: AuthorityId(array("`id` of a member", &member.id)?),
        key: PublicKey(array("`key` of a member", &member.key)?),
        possession: Signature(array("`possession` of a member", &member.possession)?),
        stake: member.stake,
        address: member.address,
    })
}

fn limits(limits: proto::Limits) -> EpochLimits {
    EpochLimits {
        window_blocks: limits.window_blocks,
        barrier_distance_blocks: limits.barrier_distance_blocks,
        readiness_window_blocks: limits.readiness_window_blocks,
        batches_in_block_max: limits.batches_in_block_max,
        batch_bytes_max: limits.batch_bytes_max,
        engine_message_bytes_max: limits.engine_message_bytes_max,
        client_window: limits.client_window,
        client_idle_blocks: limits.client_idle_blocks,
        module_bytes_max: limits.module_bytes_max,
        graduate_after_blocks: limits.graduate_after_blocks,
        stall_timeout_ms: limits.stall_timeout_ms.unwrap_or(EpochLimits::default().stall_timeout_ms),
    }
}

fn array<const N: usize>(what: &str, given: &[u8]) -> Result<[u8; N], ApiError> {
    let wrong = |_| ApiError::bad_request(format!("{what} has {} bytes, not {N}", given.len()));
    given.try_into().map_err(wrong)
}
