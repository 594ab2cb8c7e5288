//! Outcomes of attempts as results for the cluster.

use serde_json::value::RawValue;

use super::executor::{Outcome, StopReason, error_object};
use crate::wire::{ReportStatus, TaskResult};

/// The identity of an attempt: a task's lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LeaseKey {
    pub(super) task: String,
    pub(super) token: u64,
}

/// Returns what to report of an outcome, given why the attempt was stopped, if it was.
pub(super) fn task_result(
    key: &LeaseKey,
    outcome: Outcome,
    reason: Option<StopReason>,
) -> Option<TaskResult> {
    match (outcome, reason) {
        (_, Some(StopReason::Cancelled | StopReason::Lost)) => None,
        (Outcome::Succeeded(result), _) => Some(TaskResult {
            task: key.task.clone(),
            token: key.token,
            status: ReportStatus::Succeeded,
            result,
            error: None,
            retryable: None,
            retry_after_ms: None,
        }),
        // It failed because the worker stopped it for its own sake, which is no failure of the task. Its lease goes
        // back when the worker leaves.
        (
            Outcome::Failed { .. }
            | Outcome::RetryAfter { .. }
            | Outcome::Stopped
            | Outcome::Returned { .. },
            Some(StopReason::ShuttingDown),
        ) => None,
        (Outcome::Returned { .. }, None | Some(StopReason::TimedOut)) => Some(TaskResult {
            task: key.task.clone(),
            token: key.token,
            status: ReportStatus::Returned,
            result: None,
            error: None,
            retryable: None,
            retry_after_ms: None,
        }),
        (Outcome::Failed { error, retryable }, None | Some(StopReason::TimedOut)) => {
            Some(failure(key, error, retryable))
        }
        (Outcome::RetryAfter { error, delay }, None | Some(StopReason::TimedOut)) => {
            let retry_after_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            Some(TaskResult {
                retry_after_ms: Some(retry_after_ms),
                ..failure(key, error, true)
            })
        }
        (Outcome::Stopped, Some(StopReason::TimedOut)) => Some(failure(
            key,
            error_object("timeout", "the attempt reached its time limit"),
            true,
        )),
        (Outcome::Stopped, None) => Some(failure(
            key,
            error_object("stopped", "the attempt ended without an outcome"),
            true,
        )),
    }
}

pub(super) fn failure(key: &LeaseKey, error: Box<RawValue>, retryable: bool) -> TaskResult {
    TaskResult {
        task: key.task.clone(),
        token: key.token,
        status: ReportStatus::Failed,
        result: None,
        error: Some(error),
        retryable: Some(retryable),
        retry_after_ms: None,
    }
}

pub(super) fn size_of_result(result: &TaskResult) -> usize {
    let raw = |value: &Option<Box<RawValue>>| value.as_ref().map_or(0, |raw| raw.get().len());
    128 + result.task.len() + raw(&result.result) + raw(&result.error)
}
