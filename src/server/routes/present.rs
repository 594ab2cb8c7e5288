//! Conversions between the table's types and wire types.

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use triarch_raft::DiskStatus;
use triarch_sdk::wire;
use triarch_table::records::task::CancelCause;
use triarch_table::types::state::{JobState, TaskState, WorkerState};

use crate::server::protocol::problem::Problem;

/// Parses the state of a task in a query.
pub fn parse_task_state(text: &str) -> Result<TaskState, Problem> {
    TaskState::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| {
            let known: Vec<&str> = TaskState::ALL.iter().map(|state| state.as_str()).collect();
            Problem::invalid("state", format!("must be one of {}", known.join(", ")))
        })
}

/// Converts the state of a task from its wire type.
pub fn task_state_from_wire(state: wire::TaskState) -> TaskState {
    match state {
        wire::TaskState::Waiting => TaskState::Waiting,
        wire::TaskState::Delayed => TaskState::Delayed,
        wire::TaskState::Queued => TaskState::Queued,
        wire::TaskState::Running => TaskState::Running,
        wire::TaskState::Succeeded => TaskState::Succeeded,
        wire::TaskState::Failed => TaskState::Failed,
        wire::TaskState::Cancelled => TaskState::Cancelled,
        wire::TaskState::Expired => TaskState::Expired,
    }
}

/// Converts the state of a task to its wire type.
pub fn task_state(state: TaskState) -> wire::TaskState {
    match state {
        TaskState::Waiting => wire::TaskState::Waiting,
        TaskState::Delayed => wire::TaskState::Delayed,
        TaskState::Queued => wire::TaskState::Queued,
        TaskState::Running => wire::TaskState::Running,
        TaskState::Succeeded => wire::TaskState::Succeeded,
        TaskState::Failed => wire::TaskState::Failed,
        TaskState::Cancelled => wire::TaskState::Cancelled,
        TaskState::Expired => wire::TaskState::Expired,
    }
}

/// Parses the state of a job in a query.
pub fn parse_job_state(text: &str) -> Result<JobState, Problem> {
    [
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
    ]
    .into_iter()
    .find(|state| state.as_str() == text)
    .ok_or_else(|| {
        Problem::invalid(
            "state",
            "must be one of running, succeeded, failed, cancelled",
        )
    })
}

/// Converts the state of a job to its wire type.
pub fn job_state(state: JobState) -> wire::JobState {
    match state {
        JobState::Running => wire::JobState::Running,
        JobState::Succeeded => wire::JobState::Succeeded,
        JobState::Failed => wire::JobState::Failed,
        JobState::Cancelled => wire::JobState::Cancelled,
    }
}

/// Parses the state of a worker in a query.
pub fn parse_worker_state(text: &str) -> Result<WorkerState, Problem> {
    WorkerState::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| {
            let known: Vec<&str> = WorkerState::ALL
                .iter()
                .map(|state| state.as_str())
                .collect();
            Problem::invalid("state", format!("must be one of {}", known.join(", ")))
        })
}

/// Converts the state of a worker to its wire type.
pub fn worker_state(state: WorkerState) -> wire::WorkerState {
    match state {
        WorkerState::Live => wire::WorkerState::Live,
        WorkerState::Paused => wire::WorkerState::Paused,
        WorkerState::Quarantined => wire::WorkerState::Quarantined,
        WorkerState::Probation => wire::WorkerState::Probation,
        WorkerState::Draining => wire::WorkerState::Draining,
        WorkerState::Lost => wire::WorkerState::Lost,
        WorkerState::Left => wire::WorkerState::Left,
    }
}

/// Converts the cause of a cancellation to an error. `None` if a client requested the cancellation.
pub fn cancellation_error(cause: CancelCause) -> Option<Box<RawValue>> {
    let (kind, task, message) = match cause {
        CancelCause::Asked => return None,
        CancelCause::JobFailed(task) => (
            "job_failed",
            task,
            format!("task {task} ended without success, and the job has on_failure = fail_fast"),
        ),
        CancelCause::Dependency(task) => (
            "dependency_failed",
            task,
            format!("task {task}, on which this one depends, ended without success"),
        ),
    };
    let error = json!({"type": kind, "message": message, "task": task.to_string()});
    serde_json::value::to_raw_value(&error).ok()
}

/// Converts the status of a node's disk to its wire type.
pub fn node_disk(disk: DiskStatus) -> wire::NodeDisk {
    wire::NodeDisk {
        free_bytes: disk.free_bytes,
        low: disk.low,
        unfinished_sync_ms: disk.unfinished_sync_ms,
    }
}

/// Returns JSON text as received. It was validated on arrival, so `None` means that the table itself damaged it.
pub fn raw_json(text: &Bytes) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(text).ok()?;
    RawValue::from_string(text.to_string()).ok()
}
