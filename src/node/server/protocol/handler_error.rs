//! Errors of handlers: a problem for the client, or a hint for the leader proxy that the request may be retried elsewhere.

use axum::response::{IntoResponse, Response};
use triarch_raft::{ChangeError, ProposeError, ReadError};
use triarch_table::command::reply::Refusal;

use super::problem::{Code, Problem};
use crate::leader::clock::ClockDisagreement;
use crate::leader::time_correction::TimeCorrectionError;

/// Error of a handler.
#[derive(Debug)]
pub enum HandlerError {
    /// Problem for the client.
    Problem(Problem),
    /// Not executed, because this node does not lead, or no longer does.
    NotLeader,
    /// May have been executed. A retry with the same request id is safe.
    OutcomeUnknown(String),
}

impl From<Problem> for HandlerError {
    fn from(problem: Problem) -> Self {
        HandlerError::Problem(problem)
    }
}

impl From<ProposeError> for HandlerError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { .. } => HandlerError::NotLeader,
            ProposeError::Unknown(why) => HandlerError::OutcomeUnknown(why),
            ProposeError::Overloaded => HandlerError::Problem(Problem::new(
                Code::RateLimited,
                "too many writes are waiting in this cluster; nothing was done, retry later",
            )),
            ProposeError::Malformed(why) => {
                tracing::error!(%why, "a command that this node made cannot be decoded: this is a bug, please report it");
                HandlerError::Problem(Problem::new(
                    Code::InvalidRequest,
                    "the request makes a command that no node can decode; nothing was done",
                ))
            }
            ProposeError::TooLarge { .. } => {
                HandlerError::Problem(Problem::new(Code::PayloadTooLarge, error.to_string()))
            }
            ProposeError::DiskLow(why) => HandlerError::Problem(Problem::disk_low(format!(
                "{why}. Nothing was done; reads and heartbeats still work, and writes are accepted again once there is space"
            ))),
            ProposeError::StorageFailed(why) => {
                HandlerError::Problem(Problem::new(Code::StorageFailed, why))
            }
            ProposeError::ShuttingDown => HandlerError::NotLeader,
        }
    }
}

impl From<ReadError> for HandlerError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotLeader { .. } | ReadError::NoQuorum | ReadError::ShuttingDown => {
                HandlerError::NotLeader
            }
            ReadError::StorageFailed(why) => {
                HandlerError::Problem(Problem::new(Code::StorageFailed, why))
            }
        }
    }
}

impl From<ChangeError> for HandlerError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NotLeader { .. } => HandlerError::NotLeader,
            ChangeError::Refused(why) => HandlerError::Problem(Problem::new(Code::Conflict, why)),
            ChangeError::TooOld {
                id, level, needed, ..
            } => HandlerError::Problem(
                Problem::new(Code::NodeTooOld, error.to_string())
                    .with("node", id)
                    .with("level", level)
                    .with("needed", needed),
            ),
            ChangeError::LevelUnknown { understood, .. } => HandlerError::Problem(
                Problem::invalid("level", error.to_string()).with("understood", understood),
            ),
            ChangeError::Unconfirmed { id, why } => {
                HandlerError::Problem(Problem::new(Code::Conflict, why).with("node", id))
            }
            ChangeError::UnknownNode(id) => HandlerError::Problem(Problem::new(
                Code::NotFound,
                format!("node {id} is not in the cluster"),
            )),
            ChangeError::Unknown(why) => HandlerError::Problem(Problem::new(Code::Timeout, why)),
        }
    }
}

impl From<TimeCorrectionError> for HandlerError {
    fn from(error: TimeCorrectionError) -> Self {
        let conflict = Problem::new(Code::Conflict, error.to_string());
        HandlerError::Problem(match error {
            TimeCorrectionError::Propose(error) => return error.into(),
            TimeCorrectionError::Refused(refusal) => return refusal.into(),
            TimeCorrectionError::LevelTooLow { level, needed } => conflict
                .with("level", level.number())
                .with("needed", needed.number()),
            TimeCorrectionError::Clocks(ClockDisagreement::Unknown { nodes }) => {
                conflict.with("nodes", nodes)
            }
            TimeCorrectionError::Clocks(ClockDisagreement::Apart {
                apart_ms,
                earliest,
                latest,
            }) => conflict
                .with("apart_ms", apart_ms)
                .with("nodes", vec![earliest, latest]),
            TimeCorrectionError::NotAhead { ahead_ms } => conflict.with("ahead_ms", ahead_ms),
            TimeCorrectionError::Schedule { schedule, .. } => conflict.with("schedule", schedule),
        })
    }
}

impl From<Refusal> for HandlerError {
    fn from(refusal: Refusal) -> Self {
        HandlerError::Problem(refusal.into())
    }
}

/// Response extension: the leader proxy may replace the response by retrying the request.
#[derive(Clone)]
pub enum Retryable {
    /// Not executed.
    NotExecuted,
    /// May have been executed; carries the reason for the doubt.
    OutcomeUnknown(String),
}

impl IntoResponse for HandlerError {
    fn into_response(self) -> Response {
        let (retryable, problem) = match self {
            HandlerError::Problem(problem) => return problem.into_response(),
            HandlerError::NotLeader => (
                Retryable::NotExecuted,
                Problem::no_leader("this node is no longer the leader"),
            ),
            HandlerError::OutcomeUnknown(why) => (
                Retryable::OutcomeUnknown(why.clone()),
                Problem::new(Code::Timeout, why),
            ),
        };
        let mut response = problem.into_response();
        response.extensions_mut().insert(retryable);
        response
    }
}
