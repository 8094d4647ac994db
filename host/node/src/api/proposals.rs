//! `/v1/proposals`: epoch changes.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use moult_core::governance::{ProposalError, ProposalRecord, ProposalState};
use moult_types::governance::{Decision, REASON_BYTES_MAX};
use moult_types::{
    Activation, AuthorityId, CommitIndex, EpochChangeProposal, EpochNumber, ProposalId, SignedReport,
};

use super::app::{Api, App};
use super::error::ApiError;
use super::gate::Admin;
use super::proposal_body::{self, Facts};
use super::{body, parse};
use crate::api_types::{OperatorVoteBody, ProposalBody, ProposeBody};
use crate::genesis::PinFile;
use crate::modules::blocking;
use crate::view::View;

/// A thousand authorities and three configurations fit.
const PROPOSE_BYTES_MAX: usize = 4 << 20;
const VOTE_BYTES_MAX: usize = 16 << 10;
/// Where the body names no deadline, in blocks.
const DEADLINE_BLOCKS: u64 = 50_000;
/// A proposal or withdrawal that is not final by then is answered 504.
const FINAL_TIMEOUT: Duration = Duration::from_secs(15);
/// How often this is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Most proposals of one answer, beside the open ones.
const LIST_MAX: u64 = 1000;
const LIST_DEFAULT: u64 = 100;

pub(super) async fn list(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Vec<ProposalBody>>, ApiError> {
    let params = parse::Params::parse(request.uri(), ["open", "limit"])?;
    let only_open = match params.get(0) {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(_) => return Err(ApiError::bad_request("`open` is `true` or `false`")),
    };
    let limit = params.number(1, "`limit`", LIST_DEFAULT)?.min(LIST_MAX);
    let view = app.handle.view();
    let mut records: Vec<ProposalRecord> = Vec::new();
    if !only_open {
        // Numbers are dense, and what is not open is history.
        let first = view.ledger.next_proposal.0.saturating_sub(limit);
        records = history(&app, ProposalId(first), limit as usize).await?;
        records.retain(|record| !view.ledger.open.contains_key(&record.id));
        let stored: BTreeSet<_> = records.iter().map(|record| record.id).collect();
        let fresh =
            view.closed.values().filter(|record| record.id.0 >= first && !stored.contains(&record.id));
        records.extend(fresh.map(|record| record.as_ref().clone()));
    }
    records.extend(view.ledger.open.values().cloned());
    records.sort_unstable_by_key(|record| std::cmp::Reverse(record.id));
    let mut bodies = Vec::with_capacity(records.len());
    for record in &records {
        bodies.push(describe(&app, &view, record).await?);
    }
    Ok(Json(bodies))
}

pub(super) async fn get(State(app): State<App>, request: Request) -> Result<Json<ProposalBody>, ApiError> {
    parse::Params::parse(request.uri(), [])?;
    let id = id_of(&request, "")?;
    let view = app.handle.view();
    let record = find(&app, &view, id).await?;
    describe(&app, &view, &record).await.map(Json)
}

pub(super) async fn post(
    _: Admin,
    State(app): State<App>,
    request: Request,
) -> Result<Json<ProposalBody>, ApiError> {
    let (parts, body) = request.into_parts();
    parse::Params::parse(&parts.uri, [])?;
    let body: ProposeBody = body::json(&app, &parts.headers, body, PROPOSE_BYTES_MAX).await?;
    let PutForward { proposer, made_ms, .. } = put_forward(&app, body)?;
    // The replica completes the proposal; what names it before it is final is its author and
    // time. Both stay.
    let is_ours = |record: &ProposalRecord| {
        record.proposal.proposer == proposer && record.proposal.new_epoch_timestamp_ms == made_ms
    };
    let record = wait_for(&app, is_ours).await.ok_or_else(|| {
        ApiError::unknown(
            "timeout",
            "the proposal is not final yet; it may still become so. Look at GET /v1/proposals",
        )
    })?;
    describe(&app, &app.handle.view(), &record).await.map(Json)
}

/// What names a proposal until it is final.
pub(super) struct PutForward {
    pub(super) proposer: AuthorityId,
    /// Later than any other of this proposer.
    pub(super) made_ms: u64,
    pub(super) new_epoch: EpochNumber,
}

/// Checks a proposal and puts it forward; waits for nothing.
pub(super) fn put_forward(app: &App, body: ProposeBody) -> Result<PutForward, ApiError> {
    let view = app.handle.view();
    check_authority(&view)?;
    let proposal = proposal_of(app, &view, body)?;
    let (proposer, made_ms, new_epoch) =
        (proposal.proposer, proposal.new_epoch_timestamp_ms, proposal.new_epoch);
    app.handle.propose(proposal).map_err(refused)?;
    Ok(PutForward { proposer, made_ms, new_epoch })
}

pub(super) async fn delete(
    _: Admin,
    State(app): State<App>,
    request: Request,
) -> Result<Json<ProposalBody>, ApiError> {
    let id = id_of(&request, "")?;
    let view = app.handle.view();
    check_authority(&view)?;
    let record = find(&app, &view, id).await?;
    if record.proposal.proposer != app.shared.authority {
        return Err(ApiError::conflict(
            "not-the-proposer",
            format!("only the node of authority {} can withdraw it", record.proposal.proposer),
        ));
    }
    if !matches!(record.state, ProposalState::Proposed | ProposalState::Approved) {
        let state = proposal_body::state_name(record.state);
        return Err(ApiError::conflict(
            "decided",
            format!("proposal {id} is {state}: it cannot be withdrawn any more"),
        ));
    }
    app.handle.withdraw(id);
    let is_decided = |record: &ProposalRecord| {
        record.id == id && !matches!(record.state, ProposalState::Proposed | ProposalState::Approved)
    };
    let record = wait_for(&app, is_decided).await.ok_or_else(|| {
        ApiError::unknown("timeout", "the withdrawal is not final yet; it may still become so")
    })?;
    if record.state != ProposalState::Withdrawn {
        let state = proposal_body::state_name(record.state);
        return Err(ApiError::conflict(
            "decided",
            format!("the withdrawal came too late: proposal {id} is {state}"),
        ));
    }
    describe(&app, &app.handle.view(), &record).await.map(Json)
}

/// Hands the operator's word to the policy, which makes the vote of it, or not.
pub(super) async fn vote(_: Admin, State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let id = id_of(&request, "/vote")?;
    let (parts, body) = request.into_parts();
    let body: OperatorVoteBody = body::json(&app, &parts.headers, body, VOTE_BYTES_MAX).await?;
    let (view, record) = hand_over(&app, id, body).await?;
    let body = describe(&app, &view, &record).await?;
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

/// Checks the operator's word and hands it over; waits for nothing but the store.
pub(super) async fn hand_over(
    app: &App,
    id: ProposalId,
    vote: OperatorVoteBody,
) -> Result<(View, ProposalRecord), ApiError> {
    if vote.reason.len() > REASON_BYTES_MAX {
        return Err(ApiError::bad_request(format!("the reason is longer than {REASON_BYTES_MAX} bytes")));
    }
    let view = app.handle.view();
    check_authority(&view)?;
    let record = find(app, &view, id).await?;
    if record.state != ProposalState::Proposed {
        let state = proposal_body::state_name(record.state);
        return Err(ApiError::conflict(
            "decided",
            format!("proposal {id} is {state}: votes are not counted any more"),
        ));
    }
    if view.me.is_some_and(|me| record.votes.contains_key(&me)) {
        return Err(ApiError::conflict(
            "voted",
            format!("this authority's vote on proposal {id} is counted already; it is final"),
        ));
    }
    let decision = if vote.approve { Decision::Approve } else { Decision::Reject(vote.reason) };
    app.handle.operator_vote(id, decision);
    Ok((view, record))
}

fn id_of(request: &Request, suffix: &str) -> Result<ProposalId, ApiError> {
    let text = parse::segment(request.uri(), "/v1/proposals/", suffix);
    parse::number("the proposal", text).map(ProposalId)
}

fn check_authority(view: &View) -> Result<(), ApiError> {
    if view.me.is_none() {
        return Err(ApiError::conflict(
            "not-an-authority",
            "this node is not in the present committee: call one that is",
        ));
    }
    match &view.signing_stopped {
        Some(reason) => {
            Err(ApiError::conflict("signing-stopped", format!("this node signs nothing: {reason}")))
        }
        None => Ok(()),
    }
}

/// What the body leaves out stays as it is.
fn proposal_of(app: &Api, view: &View, body: ProposeBody) -> Result<EpochChangeProposal, ApiError> {
    let ProposeBody {
        modules: changed,
        fallbacks,
        committee,
        fault_model,
        limits,
        not_before_ms,
        deadline_blocks,
        readmit_failed,
        reports,
    } = body;
    let present = &view.epoch.manifest;
    let mut modules = present.modules.clone();
    for (world, pin) in changed {
        let pin = pin.to_pin().map_err(|e| ApiError::bad_request(format!("`modules.{world}`: {e}")))?;
        modules.insert(world, pin);
    }
    let fallbacks = match fallbacks {
        None => present.fallbacks.clone(),
        Some(pins) => {
            let pins = pins.iter().map(PinFile::to_pin).collect::<Result<Vec<_>, String>>();
            pins.map_err(|e| ApiError::bad_request(format!("`fallbacks`: {e}")))?
        }
    };
    let deadline = view.ledger.index.0.checked_add(deadline_blocks.unwrap_or(DEADLINE_BLOCKS));
    let deadline = deadline.ok_or_else(|| ApiError::bad_request("`deadline_blocks` is too large"))?;
    Ok(EpochChangeProposal {
        new_epoch: present.number.next(),
        new_committee: committee.unwrap_or_else(|| present.members.clone()),
        new_epoch_timestamp_ms: app.proposal_time_ms(),
        proposal_commit_index: view.ledger.index,
        modules,
        fallbacks,
        fault_model: fault_model.unwrap_or(present.fault_model),
        limits: limits.unwrap_or_else(|| present.limits.clone()),
        activation: not_before_ms.map_or(Activation::AsSoonAsReady, Activation::NotBefore),
        deadline: CommitIndex(deadline),
        proposer: app.shared.authority,
        readmit_failed,
        reports: reports
            .iter()
            .enumerate()
            .map(|(at, digits)| report(at, digits))
            .collect::<Result<_, _>>()?,
    })
}

/// A report from the hex of its encoding.
fn report(at: usize, digits: &str) -> Result<SignedReport, ApiError> {
    let bytes = hex::decode(digits).map_err(|e| ApiError::bad_request(format!("`reports[{at}]`: {e}")))?;
    moult_types::decode(&bytes).map_err(|e| ApiError::bad_request(format!("`reports[{at}]`: {e}")))
}

fn refused(e: ProposalError) -> ApiError {
    let message = e.to_string();
    match e {
        ProposalError::WrongEpoch { .. } => {
            ApiError::conflict("wrong-epoch", format!("{message}: an epoch has just begun, try again"))
        }
        ProposalError::NotAnAuthority => ApiError::conflict("not-an-authority", message),
        ProposalError::OneAtATime(_) => ApiError::conflict("one-at-a-time", message),
        ProposalError::EngineFailed(_) => ApiError::conflict("engine-failed", message),
        ProposalError::RivalApproved(_) => ApiError::conflict("rival-approved", message),
        _ => ApiError::new(StatusCode::BAD_REQUEST, "invalid-proposal", message),
    }
}

async fn history(app: &App, from: ProposalId, limit: usize) -> Result<Vec<ProposalRecord>, ApiError> {
    let store = app.shared.store.clone();
    let found = blocking(move || store.history(from, limit)).await.map_err(ApiError::internal)?;
    found.map_err(|e| ApiError::internal(e.to_string()))
}

async fn find(app: &App, view: &View, id: ProposalId) -> Result<ProposalRecord, ApiError> {
    let known = view.ledger.open.get(&id).or_else(|| view.closed.get(&id).map(AsRef::as_ref));
    if let Some(record) = known {
        return Ok(record.clone());
    }
    let found = history(app, id, 1).await?.into_iter().find(|record| record.id == id);
    found.ok_or_else(|| ApiError::not_found(format!("there is no proposal {id} here")))
}

/// The proposal that is as wanted, once it is final.
async fn wait_for(app: &App, wanted: impl Fn(&ProposalRecord) -> bool) -> Option<ProposalRecord> {
    let end = tokio::time::Instant::now() + FINAL_TIMEOUT;
    let mut poll = tokio::time::interval(POLL);
    while tokio::time::Instant::now() < end && !app.shared.is_stopping() {
        poll.tick().await;
        let found = app.shared.peek(|view| {
            let closed = view.closed.values().map(AsRef::as_ref);
            view.ledger.open.values().chain(closed).find(|record| wanted(record)).cloned()
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

async fn describe(app: &App, view: &View, record: &ProposalRecord) -> Result<ProposalBody, ApiError> {
    let present = &view.epoch.manifest;
    let committee = if present.number.next() == record.proposal.new_epoch {
        present.committee().ok()
    } else {
        let store = app.shared.store.clone();
        let voted_in = EpochNumber(record.proposal.new_epoch.0.saturating_sub(1));
        let start = blocking(move || store.epoch(voted_in)).await.map_err(ApiError::internal)?;
        let start = start.map_err(|e| ApiError::internal(e.to_string()))?;
        start.and_then(|start| start.manifest.committee().ok())
    };
    let checks = view.checks.get(&record.hash).map(Vec::as_slice).unwrap_or_default();
    let shadow = view.shadows.get(&record.hash).map(AsRef::as_ref);
    let facts = Facts { committee, checks, shadow, ledger: &view.ledger, limits: &present.limits };
    Ok(proposal_body::body(record, &facts))
}
