//! Task records: the specification of a task, its state and the history of its attempts.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::reply::Lease;
use crate::command::{Backoff, Concurrency, Requires};
use crate::records::paged::Record;
use crate::types::ids::{JobId, TaskId, Token, WorkerId};
use crate::types::state::TaskState;

/// A task. What changes is kept apart from what does not, so that a page of tasks is cheap to copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The job it belongs to.
    pub job: JobId,
    /// When it was submitted, in Unix ms.
    pub created_ms: u64,
    /// What was submitted.
    pub spec: Arc<TaskSpec>,
    /// Where it is in its life.
    pub life: Life,
    /// Ends as expired at this time, unless it is running or an attempt was really made by then.
    pub expires_at_ms: Option<u64>,
    /// Attempts granted so far; the number of the present or last one.
    pub attempt: u32,
    /// Attempts that failed or timed out, since the last retry by hand.
    pub failures: u32,
    /// Attempts lost with their worker, since the last retry by hand.
    pub losses: u32,
    /// The last attempts that ended, oldest first; bounded, `attempt` is the total.
    pub history: Vec<Attempt>,
}

/// What was submitted, and never changes.
#[derive(Debug, PartialEq)]
pub struct TaskSpec {
    /// Queue, kind and requirements; shared by all tasks that are alike for the scheduler.
    pub class: Arc<Class>,
    /// How it is to be tried; shared by all tasks with the same settings.
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
}

/// What decides which workers may take a task. Tasks of one class are interchangeable for the scheduler but for
/// priority and age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Class {
    /// Queue name.
    pub queue: Arc<str>,
    /// `exec` or a function name.
    pub kind: Arc<str>,
    /// What a worker must have.
    pub requires: Requires,
}

/// How a task is to be tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Policy {
    /// 0–9, higher first.
    pub priority: u8,
    /// Not started this long after its submission, it expires.
    pub expires_ms: Option<u64>,
    /// One attempt's time limit.
    pub timeout_ms: Option<u64>,
    /// Attempts that failed or timed out before it is dead-lettered.
    pub max_attempts: u32,
    /// Attempts lost with their worker before it is dead-lettered.
    pub max_losses: u32,
    /// Wait between a failed attempt and the next.
    pub backoff: Backoff,
    /// Free words.
    pub tags: Vec<String>,
}

/// A task's state together with the data that this state owns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Life {
    /// See [`TaskState::Waiting`].
    Waiting {
        /// How many of the tasks it comes after have not succeeded yet; at least 1.
        on: u32,
        /// When it becomes ready: not before this time, in Unix ms.
        not_before_ms: u64,
        /// Nor before this long after the last of them.
        delay_ms: u64,
    },
    /// See [`TaskState::Delayed`].
    Delayed {
        /// Queued from this time on.
        until_ms: u64,
    },
    /// See [`TaskState::Queued`].
    Queued {
        /// Its position.
        position: QueuePosition,
    },
    /// See [`TaskState::Running`].
    Running {
        /// Who runs it.
        worker: WorkerId,
        /// The lease's fencing token.
        token: Token,
        /// When the lease was granted.
        started_ms: u64,
        /// Its position in its queue, which it gets back if this attempt is lost or returned.
        position: QueuePosition,
    },
    /// See [`TaskState::Succeeded`].
    Succeeded {
        /// Raw JSON text.
        result: Bytes,
        /// When it was accepted.
        finished_ms: u64,
    },
    /// See [`TaskState::Failed`].
    Failed {
        /// Raw JSON text.
        error: Bytes,
        /// When it was given up.
        finished_ms: u64,
    },
    /// See [`TaskState::Cancelled`].
    Cancelled {
        /// When it was cancelled.
        finished_ms: u64,
        /// What for.
        cause: CancelCause,
    },
    /// See [`TaskState::Expired`].
    Expired {
        /// When it expired.
        finished_ms: u64,
    },
}

/// Why a task was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelCause {
    /// A user's word.
    Asked,
    /// This task of its job ended without success, and the job fails fast.
    JobFailed(TaskId),
    /// This task, which it comes after, ended without success.
    Dependency(TaskId),
}

/// A position in a queue, assigned when a task becomes ready and kept until an attempt was really made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePosition {
    /// Grows with every position assigned in the whole table; lower comes first.
    pub order: u64,
    /// When it was assigned, in Unix ms.
    pub since_ms: u64,
}

/// An attempt that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counted from 1.
    pub attempt: u32,
    /// Who made it.
    pub worker: WorkerId,
    /// Under which lease.
    pub token: Token,
    /// When the lease was granted, in Unix ms.
    pub started_ms: u64,
    /// When it ended, in Unix ms.
    pub ended_ms: u64,
    /// How it ended.
    pub end: AttemptEnd,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AttemptEnd {
    /// Its result was accepted.
    Succeeded,
    /// Its worker reported a failure.
    Failed {
        /// Raw JSON text.
        error: Bytes,
    },
    /// It outlived its time limit and its worker did not report.
    TimedOut,
    /// Its worker was lost.
    Lost,
    /// Its worker lives but did not keep the lease alive.
    LeaseExpired,
    /// It was handed back; counts as nothing.
    Returned,
    /// The task was cancelled under it.
    Cancelled,
}

impl AttemptEnd {
    /// The word used in the API.
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

    /// The reported error, if there was one.
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
    /// The state without its data.
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
    /// Its state without the data.
    pub fn state(&self) -> TaskState {
        self.life.state()
    }

    /// `exec` or a function name.
    pub fn kind(&self) -> &str {
        &self.spec.class.kind
    }

    /// Queue name.
    pub fn queue(&self) -> &str {
        &self.spec.class.queue
    }

    /// The submitter's name for it within its job.
    pub fn key(&self) -> Option<&str> {
        self.spec.key.as_deref()
    }

    /// 0–9, higher first.
    pub fn priority(&self) -> u8 {
        self.spec.policy.priority
    }

    /// Raw JSON text.
    pub fn payload(&self) -> &Bytes {
        &self.spec.payload
    }

    /// The tasks that it comes after, ascending.
    pub fn after(&self) -> &[TaskId] {
        self.spec
            .constraints
            .as_ref()
            .map_or(&[], |constraints| &constraints.after)
    }

    /// At most one unfinished task has it.
    pub fn unique_key(&self) -> Option<&Arc<str>> {
        self.spec.constraints.as_ref()?.unique_key.as_ref()
    }

    /// At most so many tasks with its key run at once.
    pub fn concurrency(&self) -> Option<&Concurrency> {
        self.spec.constraints.as_ref()?.concurrency.as_ref()
    }

    /// Why it was cancelled, if it was.
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

    /// The lease under which it runs.
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

    /// Who runs it, or who made the last attempt.
    pub fn worker(&self) -> Option<WorkerId> {
        self.lease()
            .map(|lease| lease.worker)
            .or_else(|| Some(self.history.last()?.worker))
    }

    /// Raw JSON text of its result, once it has succeeded.
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

    /// Raw JSON text of the error that it ended with. Errors of earlier attempts are in the history.
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

    /// When the present or last attempt began.
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

    /// When it became terminal, while it is.
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

    /// Bytes that its submitter and its workers put into it.
    pub(crate) fn bytes(&self) -> u64 {
        let ended = self
            .history
            .iter()
            .filter_map(|attempt| attempt.end.error());
        let last = self.result().into_iter().chain(self.error());
        let all = std::iter::once(&self.spec.payload).chain(last).chain(ended);
        all.map(|text| text.len() as u64).sum()
    }

    /// Whether it ends as expired when its time comes.
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

    /// Whether it is to end as expired, and may not start any more.
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
