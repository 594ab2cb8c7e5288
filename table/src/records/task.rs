//! Task records: the specification of a task, its state and the history of its attempts.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::reply::Lease;
use crate::command::{Backoff, Concurrency, DependencyCondition, Requires};
use crate::records::paged::Record;
use crate::types::ids::{JobId, TaskId, Token, WorkerId};
use crate::types::state::TaskState;

/// A task. Its mutable part is kept apart from the immutable one, so that a page of tasks is cheap to copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The job it belongs to.
    pub job: JobId,
    /// Time at which it was submitted, in Unix ms.
    pub created_ms: u64,
    /// The specification as submitted.
    pub spec: Arc<TaskSpec>,
    /// Its state with the data of that state.
    pub life: Life,
    /// The task expires at this time, in Unix ms, unless it is running or an attempt was really made by then.
    pub expires_at_ms: Option<u64>,
    /// The number of attempts granted so far, which is the number of the current or last one.
    pub attempt: u32,
    /// Attempts that failed or timed out, since the last manual retry.
    pub failures: u32,
    /// Attempts lost with their worker, since the last manual retry.
    pub losses: u32,
    /// The latest ended attempts, oldest first. The list is bounded; `attempt` is the total.
    pub history: Vec<Attempt>,
}

/// Specification of a task as submitted; it never changes.
#[derive(Debug, PartialEq)]
pub struct TaskSpec {
    /// Queue, kind and requirements; shared by all tasks that are alike for the scheduler.
    pub class: Arc<Class>,
    /// Retry and timing policy; shared by all tasks with the same settings.
    pub policy: Arc<Policy>,
    /// The submitter's name for it within its job.
    pub key: Option<Box<str>>,
    /// Raw JSON text.
    pub payload: Bytes,
    /// Its relations to other tasks; most tasks have none.
    pub constraints: Option<Box<TaskConstraints>>,
}

/// Relations of a task to other tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskConstraints {
    /// The tasks of its job that it comes after, ascending.
    pub after: Box<[TaskId]>,
    /// See [`crate::command::NewTask::unique`].
    pub unique_key: Option<Arc<str>>,
    /// See [`crate::command::NewTask::concurrency`].
    pub concurrency: Option<Concurrency>,
    /// The condition of each task in `after`; empty if all are the default. A snapshot has it in a record of its own.
    #[serde(skip)]
    pub conditions: Box<[DependencyCondition]>,
}

/// Scheduling class: the properties that decide which workers may take a task. Tasks of one class differ for the
/// scheduler only in priority and age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Class {
    /// Queue name.
    pub queue: Arc<str>,
    /// `exec` or a function name.
    pub kind: Arc<str>,
    /// Requirements on a worker.
    pub requires: Requires,
}

/// Priority, time limits and retry policy of a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Policy {
    /// Priority, 0–9; higher first.
    pub priority: u8,
    /// Time after its submission, in ms. A task not started by then expires.
    pub expires_ms: Option<u64>,
    /// One attempt's time limit, in ms.
    pub timeout_ms: Option<u64>,
    /// Attempts that failed or timed out before it is dead-lettered.
    pub max_attempts: u32,
    /// Attempts lost with their worker before it is dead-lettered.
    pub max_losses: u32,
    /// Wait between a failed attempt and the next.
    pub backoff: Backoff,
    /// Arbitrary words to filter by.
    pub tags: Vec<String>,
}

/// A task's state together with the data that this state owns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Life {
    /// See [`TaskState::Waiting`].
    Waiting {
        /// Number of dependencies that have not succeeded yet; at least 1.
        on: u32,
        /// Earliest start, in Unix ms.
        not_before_ms: u64,
        /// Delay after the last dependency has succeeded, in ms. The later of the two earliest starts counts.
        delay_ms: u64,
    },
    /// See [`TaskState::Delayed`].
    Delayed {
        /// Start of the queued state, in Unix ms.
        until_ms: u64,
    },
    /// See [`TaskState::Queued`].
    Queued {
        /// Its position in the queue.
        position: QueuePosition,
    },
    /// See [`TaskState::Running`].
    Running {
        /// The worker that runs it.
        worker: WorkerId,
        /// The lease's fencing token.
        token: Token,
        /// Time at which the lease was granted, in Unix ms.
        started_ms: u64,
        /// Its position in its queue. The task gets it back if this attempt is lost or returned.
        position: QueuePosition,
    },
    /// See [`TaskState::Succeeded`].
    Succeeded {
        /// Raw JSON text of the result.
        result: Bytes,
        /// Time at which the result was accepted, in Unix ms.
        finished_ms: u64,
    },
    /// See [`TaskState::Failed`].
    Failed {
        /// Raw JSON text of the error.
        error: Bytes,
        /// Time at which it was dead-lettered, in Unix ms.
        finished_ms: u64,
    },
    /// See [`TaskState::Cancelled`].
    Cancelled {
        /// Time at which it was cancelled, in Unix ms.
        finished_ms: u64,
        /// The reason.
        cause: CancelCause,
    },
    /// See [`TaskState::Expired`].
    Expired {
        /// Time at which it expired, in Unix ms.
        finished_ms: u64,
    },
}

/// Why a task was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelCause {
    /// A user cancelled it.
    Asked,
    /// This task of its job ended without success, and the job fails fast.
    JobFailed(TaskId),
    /// This task, on which it depends, ended without success.
    Dependency(TaskId),
    /// This task, on which it depends, ended in a way for which it is not meant, such as a success where it handles a
    /// failure. It counts as no failure of the job. Clusters of level 1 have no such cause.
    NotNeeded(TaskId),
    /// This job, which its job comes after, ended in another way than it was to. Clusters of level 1 have no such cause.
    JobDependency(JobId),
}

/// Position in a queue, assigned when a task becomes ready and kept until an attempt was really made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePosition {
    /// Order over the whole table: grows with every position assigned; lower starts first.
    pub order: u64,
    /// Time at which it was assigned, in Unix ms.
    pub since_ms: u64,
}

/// An attempt that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, counted from 1.
    pub attempt: u32,
    /// The worker that made it.
    pub worker: WorkerId,
    /// The fencing token of its lease.
    pub token: Token,
    /// Time at which the lease was granted, in Unix ms.
    pub started_ms: u64,
    /// Time at which it ended, in Unix ms.
    pub ended_ms: u64,
    /// End of the attempt.
    pub end: AttemptEnd,
}

/// End of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AttemptEnd {
    /// Its result was accepted.
    Succeeded,
    /// Its worker reported a failure.
    Failed {
        /// Raw JSON text.
        error: Bytes,
    },
    /// The attempt exceeded its time limit and its worker did not report.
    TimedOut,
    /// Its worker was lost.
    Lost,
    /// Its worker lives but did not keep the lease alive.
    LeaseExpired,
    /// Its worker returned it; counts as nothing.
    Returned,
    /// The task was cancelled during it.
    Cancelled,
}

impl AttemptEnd {
    /// Returns the word used in the API.
    pub fn as_str(&self) -> &'static str {
        match self {
            AttemptEnd::Succeeded => "succeeded",
            AttemptEnd::Failed { .. } => "failed",
            AttemptEnd::TimedOut => "timed_out",
            AttemptEnd::Lost => "lost",
            AttemptEnd::LeaseExpired => "lease_expired",
            AttemptEnd::Returned => "returned",
            AttemptEnd::Cancelled => "cancelled",
        }
    }

    /// Returns the reported error, if any.
    pub fn error(&self) -> Option<&Bytes> {
        match self {
            AttemptEnd::Failed { error } => Some(error),
            AttemptEnd::Succeeded
            | AttemptEnd::TimedOut
            | AttemptEnd::Lost
            | AttemptEnd::LeaseExpired
            | AttemptEnd::Returned
            | AttemptEnd::Cancelled => None,
        }
    }
}

impl Life {
    /// Returns the state without its data.
    pub fn state(&self) -> TaskState {
        match self {
            Life::Waiting { .. } => TaskState::Waiting,
            Life::Delayed { .. } => TaskState::Delayed,
            Life::Queued { .. } => TaskState::Queued,
            Life::Running { .. } => TaskState::Running,
            Life::Succeeded { .. } => TaskState::Succeeded,
            Life::Failed { .. } => TaskState::Failed,
            Life::Cancelled { .. } => TaskState::Cancelled,
            Life::Expired { .. } => TaskState::Expired,
        }
    }
}

impl Task {
    /// Returns its state without the data.
    pub fn state(&self) -> TaskState {
        self.life.state()
    }

    /// Returns its kind: `exec` or a function name.
    pub fn kind(&self) -> &str {
        &self.spec.class.kind
    }

    /// Returns the name of its queue.
    pub fn queue(&self) -> &str {
        &self.spec.class.queue
    }

    /// Returns the submitter's name for it within its job.
    pub fn key(&self) -> Option<&str> {
        self.spec.key.as_deref()
    }

    /// Returns its priority, 0–9; higher first.
    pub fn priority(&self) -> u8 {
        self.spec.policy.priority
    }

    /// Returns the raw JSON text of its payload.
    pub fn payload(&self) -> &Bytes {
        &self.spec.payload
    }

    /// Returns the tasks it depends on, ascending.
    pub fn after(&self) -> &[TaskId] {
        self.spec
            .constraints
            .as_ref()
            .map_or(&[], |constraints| &constraints.after)
    }

    /// Returns the tasks it depends on, ascending, each with the condition on its end.
    pub fn dependencies(&self) -> impl Iterator<Item = (TaskId, DependencyCondition)> + '_ {
        let conditions = self.conditions().iter().copied();
        let conditions = conditions.chain(std::iter::repeat(DependencyCondition::default()));
        self.after().iter().copied().zip(conditions)
    }

    /// Returns the conditions of its dependencies; empty if all are the default.
    pub fn conditions(&self) -> &[DependencyCondition] {
        self.spec
            .constraints
            .as_ref()
            .map_or(&[], |constraints| &constraints.conditions)
    }

    /// Returns the condition on the end of a task that it depends on.
    pub(crate) fn condition_on(&self, first: TaskId) -> DependencyCondition {
        let at = self.after().binary_search(&first).ok();
        at.and_then(|at| self.conditions().get(at).copied())
            .unwrap_or_default()
    }

    /// Returns whether its end meets this condition of a dependent; `None` while it has not ended.
    pub(crate) fn meets(&self, condition: DependencyCondition) -> Option<bool> {
        let failed = match self.life {
            Life::Succeeded { .. } => false,
            Life::Failed { .. } | Life::Expired { .. } => true,
            Life::Cancelled { cause, .. } => match cause {
                CancelCause::Dependency(_)
                | CancelCause::JobFailed(_)
                | CancelCause::JobDependency(_) => true,
                CancelCause::Asked | CancelCause::NotNeeded(_) => false,
            },
            Life::Waiting { .. }
            | Life::Delayed { .. }
            | Life::Queued { .. }
            | Life::Running { .. } => return None,
        };
        Some(match condition {
            DependencyCondition::Succeeded => self.state() == TaskState::Succeeded,
            DependencyCondition::Failed => failed,
            DependencyCondition::Ended => true,
        })
    }

    /// Returns whether it was cancelled because it is not needed.
    pub fn is_not_needed(&self) -> bool {
        matches!(self.cancel_cause(), Some(CancelCause::NotNeeded(_)))
    }

    /// Returns its unique key: at most one unfinished task has it.
    pub fn unique_key(&self) -> Option<&Arc<str>> {
        self.spec.constraints.as_ref()?.unique_key.as_ref()
    }

    /// Returns its concurrency key, with the limit on running tasks of that key.
    pub fn concurrency(&self) -> Option<&Concurrency> {
        self.spec.constraints.as_ref()?.concurrency.as_ref()
    }

    /// Returns why it was cancelled, if it was.
    pub fn cancel_cause(&self) -> Option<CancelCause> {
        match self.life {
            Life::Cancelled { cause, .. } => Some(cause),
            Life::Waiting { .. }
            | Life::Delayed { .. }
            | Life::Queued { .. }
            | Life::Running { .. }
            | Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Expired { .. } => None,
        }
    }

    /// Returns the lease under which it runs.
    pub fn lease(&self) -> Option<Lease> {
        match self.life {
            Life::Running { worker, token, .. } => Some(Lease {
                task: self.id,
                worker,
                token,
                attempt: self.attempt,
            }),
            Life::Waiting { .. }
            | Life::Delayed { .. }
            | Life::Queued { .. }
            | Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => None,
        }
    }

    /// Returns the worker that runs it, or that made the last attempt.
    pub fn worker(&self) -> Option<WorkerId> {
        self.lease()
            .map(|lease| lease.worker)
            .or_else(|| Some(self.history.last()?.worker))
    }

    /// Returns the raw JSON text of its result, once it has succeeded.
    pub fn result(&self) -> Option<&Bytes> {
        match &self.life {
            Life::Succeeded { result, .. } => Some(result),
            Life::Waiting { .. }
            | Life::Delayed { .. }
            | Life::Queued { .. }
            | Life::Running { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => None,
        }
    }

    /// Returns the raw JSON text of the error with which it failed. Errors of earlier attempts are in the history.
    pub fn error(&self) -> Option<&Bytes> {
        match &self.life {
            Life::Failed { error, .. } => Some(error),
            Life::Waiting { .. }
            | Life::Delayed { .. }
            | Life::Queued { .. }
            | Life::Running { .. }
            | Life::Succeeded { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => None,
        }
    }

    /// Returns when the current or last attempt began, in Unix ms.
    pub fn started_ms(&self) -> Option<u64> {
        match self.life {
            Life::Running { started_ms, .. } => Some(started_ms),
            Life::Waiting { .. }
            | Life::Delayed { .. }
            | Life::Queued { .. }
            | Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => self.history.last().map(|attempt| attempt.started_ms),
        }
    }

    /// Returns when it became terminal, in Unix ms; `None` while it is not.
    pub fn finished_ms(&self) -> Option<u64> {
        match self.life {
            Life::Succeeded { finished_ms, .. }
            | Life::Failed { finished_ms, .. }
            | Life::Cancelled { finished_ms, .. }
            | Life::Expired { finished_ms } => Some(finished_ms),
            Life::Waiting { .. }
            | Life::Delayed { .. }
            | Life::Queued { .. }
            | Life::Running { .. } => None,
        }
    }

    /// Returns the bytes of its payload, result and errors.
    pub(crate) fn bytes(&self) -> u64 {
        let ended = self
            .history
            .iter()
            .filter_map(|attempt| attempt.end.error());
        let last = self.result().into_iter().chain(self.error());
        let all = std::iter::once(&self.spec.payload).chain(last).chain(ended);
        all.map(|text| text.len() as u64).sum()
    }

    /// Returns when it would expire, in Unix ms, while its state allows that.
    pub(crate) fn may_expire(&self) -> Option<u64> {
        match self.life {
            Life::Waiting { .. } | Life::Delayed { .. } | Life::Queued { .. } => self.expires_at_ms,
            Life::Running { .. }
            | Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => None,
        }
    }

    /// Returns whether its expiry is due, so that it may not start any more.
    pub(crate) fn is_too_late(&self, now_ms: u64) -> bool {
        self.may_expire().is_some_and(|at_ms| at_ms <= now_ms)
    }
}

impl Record for Task {
    type Key = TaskId;
    fn key(&self) -> TaskId {
        self.id
    }
}
