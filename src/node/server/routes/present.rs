//! Conversions between the table's types and wire types.

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use triarch_raft::DiskStatus;
use triarch_sdk::wire;
use triarch_table::command::DependencyCondition;
use triarch_table::records::task::{CancelCause, Life, Task};
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
        CancelCause::JobDependency(job) => {
            let message = format!(
                "job {job}, after which this task's job comes, ended in another way than it was to"
            );
            let error = json!({"type": "job_dependency_failed", "message": message, "job": job.to_string()});
            return serde_json::value::to_raw_value(&error).ok();
        }
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
        CancelCause::NotNeeded(task) => (
            "not_needed",
            task,
            format!("task {task} ended in a way for which this task is not meant"),
        ),
    };
    let error = json!({"type": kind, "message": message, "task": task.to_string()});
    serde_json::value::to_raw_value(&error).ok()
}

/// Returns the error of a task that ended without success. `None` if a client requested its cancellation.
fn error_of(task: &Task) -> Option<Box<RawValue>> {
    if let Life::Expired { .. } = task.life {
        let message = format!("task {} was not started in time", task.id);
        let error = json!({"type": "expired", "message": message});
        return serde_json::value::to_raw_value(&error).ok();
    }
    task.error()
        .and_then(raw_json)
        .or_else(|| cancellation_error(task.cancel_cause()?))
}

/// Returns what a task that has ended gives to one that comes after it: its result, its error, or either with its state.
pub fn input_of(task: &Task, when: DependencyCondition) -> Option<Box<RawValue>> {
    /// How a task ended.
    #[derive(serde::Serialize)]
    struct End {
        state: wire::TaskState,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Box<RawValue>>,
    }
    let result = || task.result().and_then(raw_json);
    match when {
        DependencyCondition::Succeeded => result(),
        DependencyCondition::Failed => error_of(task),
        DependencyCondition::Ended => serde_json::value::to_raw_value(&End {
            state: task_state(task.state()),
            result: result(),
            error: error_of(task),
        })
        .ok(),
    }
}

/// Converts the condition on a dependency from its wire type.
pub fn condition_from_wire(when: wire::EndCondition) -> DependencyCondition {
    match when {
        wire::EndCondition::Succeeded => DependencyCondition::Succeeded,
        wire::EndCondition::Failed => DependencyCondition::Failed,
        wire::EndCondition::Ended => DependencyCondition::Ended,
    }
}

/// Converts the condition on a dependency to its wire type.
pub fn condition_to_wire(when: DependencyCondition) -> wire::EndCondition {
    match when {
        DependencyCondition::Succeeded => wire::EndCondition::Succeeded,
        DependencyCondition::Failed => wire::EndCondition::Failed,
        DependencyCondition::Ended => wire::EndCondition::Ended,
    }
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
