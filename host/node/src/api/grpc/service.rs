//! The calls.

use axum::http::StatusCode;
use moult_kv::{Query, decode_value};
use moult_types::ProposalId;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::{Request, Response, Status, Streaming};

use super::super::app::App;
use super::super::error::ApiError;
use super::super::{kv, proposals, transactions};
use super::status;
use super::{blocks, convert, submit};
use crate::api_types::OperatorVoteBody;
use crate::proto;
use crate::proto::consensus_server::Consensus;
use crate::proto::get_state_request::Request as Question;

/// What all calls share.
pub(super) struct Service {
    pub(super) app: App,
    pub(super) stopped: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Consensus for Service {
    type SubmitStreamStream = submit::Answers;
    type StreamBlocksStream = blocks::Answers;

    async fn submit(
        &self,
        request: Request<proto::SubmitRequest>,
    ) -> Result<Response<proto::SubmitResponse>, Status> {
        done(submit::one(&self.app, request.into_inner()).await)
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<proto::SubmitStreamRequest>>,
    ) -> Result<Response<submit::Answers>, Status> {
        let place = self.place()?;
        Ok(Response::new(submit::many(&self.app, request.into_inner(), self.stopped.clone(), place)))
    }

    async fn get_state(
        &self,
        request: Request<proto::GetStateRequest>,
    ) -> Result<Response<proto::GetStateResponse>, Status> {
        done(self.read(request.into_inner()).await)
    }

    async fn propose(
        &self,
        request: Request<proto::ProposeRequest>,
    ) -> Result<Response<proto::ProposeResponse>, Status> {
        let body = convert::proposal(request.into_inner()).map_err(|e| status::of(&e))?;
        done(proposals::put_forward(&self.app, body).map(|put| proto::ProposeResponse {
            proposer: convert::bytes(&put.proposer.0),
            made_ms: put.made_ms,
            new_epoch: put.new_epoch.0,
        }))
    }

    async fn cast_vote(
        &self,
        request: Request<proto::CastVoteRequest>,
    ) -> Result<Response<proto::CastVoteResponse>, Status> {
        let proto::CastVoteRequest { proposal, approve, reason } = request.into_inner();
        let vote = OperatorVoteBody { approve, reason };
        let handed = proposals::hand_over(&self.app, ProposalId(proposal), vote).await;
        done(
            handed
                .map(|(_, record)| proto::CastVoteResponse { proposal_hash: convert::bytes(&record.hash.0) }),
        )
    }

    async fn stream_blocks(
        &self,
        request: Request<proto::StreamBlocksRequest>,
    ) -> Result<Response<blocks::Answers>, Status> {
        let place = self.place()?;
        Ok(Response::new(blocks::follow(&self.app, request.into_inner().from, self.stopped.clone(), place)))
    }
}

impl Service {
    async fn read(&self, request: proto::GetStateRequest) -> Result<proto::GetStateResponse, ApiError> {
        let app = &self.app;
        match request.request {
            Some(Question::Key(key)) => {
                if key.is_empty() || key.len() > moult_kv::KEY_BYTES_MAX {
                    let n = key.len();
                    let message =
                        format!("the key has {n} bytes; keys have 1 to {}", moult_kv::KEY_BYTES_MAX);
                    return Err(ApiError::bad_request(message));
                }
                kv::check_kv(app)?;
                let (index, answer) = app.handle.query_at(&Query::Get { key: key.to_vec() }.encode())?;
                let value = decode_value(&answer)
                    .map_err(|e| ApiError::internal(format!("the application's answer is no value: {e}")))?;
                let value = value.ok_or_else(|| {
                    ApiError::not_found(format!("the key holds nothing (as of block {index})"))
                })?;
                Ok(proto::GetStateResponse { value: value.into(), index: index.0 })
            }
            Some(Question::Query(question)) => {
                if question.len() > transactions::QUERY_BYTES_MAX {
                    let max = transactions::QUERY_BYTES_MAX;
                    return Err(ApiError::too_large(format!("the question is larger than {max} bytes")));
                }
                let (index, answer) = transactions::ask(app, question).await?;
                Ok(proto::GetStateResponse { value: answer.into(), index: index.0 })
            }
            None => Err(ApiError::bad_request("give `key` or `query`")),
        }
    }

    /// For a stream, as long as it lasts.
    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full = |_| {
            let message = "too many streams are open on this node: try again, or at another node";
            status::of(&ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message))
        };
        self.app.streams.clone().try_acquire_owned().map_err(full)
    }
}

fn done<T>(result: Result<T, ApiError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|e| status::of(&e))
}
