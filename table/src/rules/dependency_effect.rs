//! Effect of a task's transition on other tasks of its job, see [`dependencies`](crate::rules::dependencies).

use crate::command::OnFailure;
use crate::types::ids::{JobId, TaskId};
use crate::types::state::TaskState;

/// Effect of one task's transition on other tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DependencyEffect {
    /// The task ended: each of its dependents has one dependency less to wait for, or cannot start any more.
    Ended(TaskId),
    /// The task ended without success in a job with `fail_fast`: the unfinished tasks of the job are cancelled first.
    JobFailed(TaskId),
    /// The job ended: jobs that wait for it have one job less to wait for, or cannot start any more.
    JobEnded(JobId),
}

impl DependencyEffect {
    /// Returns the effect of a transition from one state to another, if any.
    pub fn of(
        task: TaskId,
        before: TaskState,
        now: TaskState,
        on_failure: OnFailure,
    ) -> Option<Self> {
        if before == now {
            return None;
        }
        match (now, on_failure) {
            (TaskState::Failed | TaskState::Expired, OnFailure::FailFast) => {
                Some(DependencyEffect::JobFailed(task))
            }
            (TaskState::Failed | TaskState::Expired, OnFailure::Continue)
            | (
                TaskState::Succeeded | TaskState::Cancelled,
                OnFailure::Continue | OnFailure::FailFast,
            ) => Some(DependencyEffect::Ended(task)),
            (
                TaskState::Waiting | TaskState::Delayed | TaskState::Queued | TaskState::Running,
                OnFailure::Continue | OnFailure::FailFast,
            ) => None,
        }
    }
}
