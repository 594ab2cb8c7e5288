//! Tasks: the unit a worker runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Consistency;
use super::exec::ExecPayload;
use super::time::Timestamp;

/// One task as submitted. Only `kind` is required; a field left out has the default told in its documentation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// `exec`, or the name of a function; the task waits until a worker takes its kind.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub kind: String,
    /// What the worker is given; `null` unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub payload: Option<Box<RawValue>>,
    /// `default` unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub queue: Option<String>,
    /// 0–9, higher first; 0 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 9))]
    pub priority: Option<u8>,
    /// Starts no sooner than this after its submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Starts no sooner than at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// Ends as `expired` when it has not started this long after its submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub expires_ms: Option<u64>,
    /// One attempt's time limit; none unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub timeout_ms: Option<u64>,
    /// Attempts that may fail or time out; 3 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub max_attempts: Option<u32>,
    /// Attempts that may be lost with their worker; 5 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub max_losses: Option<u32>,
    /// The wait between a failed attempt and the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// What its worker must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requires>,
    /// Its name within the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub key: Option<String>,
    /// Keys of tasks of the same job that must succeed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<String>>,
    /// At most one unfinished task of the cluster has this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub unique_key: Option<String>,
    /// What happens when `unique_key` is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_duplicate: Option<OnDuplicate>,
    /// Tasks that share this key share `concurrency_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub concurrency_key: Option<String>,
    /// At most so many tasks of the same `concurrency_key` run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub concurrency_limit: Option<u32>,
    /// Free words to filter by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub tags: Option<Vec<String>>,
}

impl TaskSpec {
    /// A task of this kind with everything else at its default.
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            ..Self::default()
        }
    }

    /// A task that runs this command line.
    pub fn exec<A: Into<String>>(argv: impl IntoIterator<Item = A>) -> Self {
        let payload = ExecPayload {
            argv: argv.into_iter().map(Into::into).collect(),
            ..ExecPayload::default()
        };
        Self {
            payload: Some(payload.to_raw()),
            ..Self::new(super::exec::KIND)
        }
    }

    /// With this payload.
    pub fn with_payload<T: Serialize + ?Sized>(
        mut self,
        payload: &T,
    ) -> Result<Self, serde_json::Error> {
        self.payload = Some(serde_json::value::to_raw_value(payload)?);
        Ok(self)
    }

    /// In this queue.
    pub fn in_queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }
}

/// Exponential back-off: the n-th retry waits `initial_ms * factor^(n-1)`, at most `max_ms`, spread by `±jitter`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// 1000 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_ms: Option<u64>,
    /// At least 1; 2 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub factor: Option<f64>,
    /// 60000 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<u64>,
    /// 0 to 1, a share of the wait; 0.1 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
    pub jitter: Option<f64>,
}

/// What a worker must have to be given the task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Requires {
    /// Each label with exactly this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Each amount, taken for the time of the attempt.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, u64>,
}

impl Requires {
    /// Whether any worker will do.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.resources.is_empty()
    }
}

/// What a taken `unique_key` means for the new task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    /// The submission is refused, naming the task that has the key.
    #[default]
    Refuse,
    /// The id of the task that has the key stands in the new one's place.
    Return,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// For other tasks of its job.
    Waiting,
    /// Until a time: a delay, or the back-off of a retry.
    Delayed,
    /// For a worker.
    Queued,
    /// Leased to a worker.
    Running,
    /// Terminal: its one result is accepted.
    Succeeded,
    /// Terminal: its attempts are used up.
    Failed,
    /// Terminal: by a user's word or its job's policy.
    Cancelled,
    /// Terminal: not started in time.
    Expired,
}

impl TaskState {
    /// All of them, in the order of a task's life.
    pub const ALL: [TaskState; 8] = [
        TaskState::Waiting,
        TaskState::Delayed,
        TaskState::Queued,
        TaskState::Running,
        TaskState::Succeeded,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::Expired,
    ];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Waiting => "waiting",
            TaskState::Delayed => "delayed",
            TaskState::Queued => "queued",
            TaskState::Running => "running",
            TaskState::Succeeded => "succeeded",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
            TaskState::Expired => "expired",
        }
    }

    /// Whether nothing but a retry by hand changes it any more.
    pub fn is_terminal(self) -> bool {
        match self {
            TaskState::Waiting | TaskState::Delayed | TaskState::Queued | TaskState::Running => {
                false
            }
            TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Expired => true,
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A task as shown and listed. Lists leave out `attempts` and `payload`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Its job.
    pub job: String,
    /// Its name within the job.
    #[serde(default)]
    pub key: Option<String>,
    /// `exec`, or the name of a function.
    pub kind: String,
    /// Where it waits.
    pub queue: String,
    /// Where it is in its life.
    pub state: TaskState,
    /// 0–9, higher first.
    #[serde(default)]
    pub priority: u8,
    /// Number of the latest attempt; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// Attempts that may fail or time out.
    #[serde(default)]
    pub max_attempts: u32,
    /// Attempts that failed or timed out since it was submitted or last retried by hand.
    #[serde(default)]
    pub failures: u32,
    /// Attempts that may be lost with their worker.
    #[serde(default)]
    pub max_losses: u32,
    /// Attempts lost since it was submitted or last retried by hand.
    #[serde(default)]
    pub losses: u32,
    /// The worker of the latest attempt.
    #[serde(default)]
    pub worker: Option<String>,
    /// Of the one accepted report; only when it succeeded.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub result: Option<Box<RawValue>>,
    /// What it ended with when it failed, or what it was cancelled for when that was another task's end.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub error: Option<Box<RawValue>>,
    /// One attempt's time limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// While `delayed`: when it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// While it has not started: when it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What its worker must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requires>,
    /// Free words to filter by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Keys of the tasks of its job that it comes after; only when shown by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// No other unfinished task has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    /// Shared with the tasks that it shares `concurrency_limit` with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// At most so many tasks with its `concurrency_key` run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    /// While running: its worker's last word, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// While running: its worker's last word, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// As submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub payload: Option<Box<RawValue>>,
    /// When its submission was applied.
    pub created_at: Timestamp,
    /// When its latest attempt was leased.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it became terminal.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// Its attempts, oldest first; a bounded number of the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Vec<Attempt>>,
}

/// One run of a task by one worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Attempt {
    /// Counted from 1.
    pub attempt: u32,
    /// Who ran it.
    pub worker: String,
    /// The fencing token of its lease.
    pub token: u64,
    /// When it was leased.
    pub started_at: Timestamp,
    /// When its lease ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// How it ended; `null` while it runs.
    #[serde(default)]
    pub outcome: Option<AttemptOutcome>,
    /// When it failed.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub error: Option<Box<RawValue>>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// Its report was accepted as the task's result.
    Succeeded,
    /// Its worker reported a failure.
    Failed,
    /// It outlived its time limit and its worker did not report.
    TimedOut,
    /// Its worker was lost, or did not confirm the lease in time.
    Lost,
    /// Its worker handed it back, or never got it.
    Returned,
    /// The task was cancelled meanwhile.
    Cancelled,
}

impl AttemptOutcome {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            AttemptOutcome::Succeeded => "succeeded",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::TimedOut => "timed_out",
            AttemptOutcome::Lost => "lost",
            AttemptOutcome::Returned => "returned",
            AttemptOutcome::Cancelled => "cancelled",
        }
    }
}

/// One page of tasks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskList {
    /// The page, in submission order.
    pub tasks: Vec<Task>,
    /// Where the next page starts; `null` on the last.
    #[serde(default)]
    pub next: Option<String>,
}

/// Which tasks are meant; at least one of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskSelection {
    /// Those of this queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// Those of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Those whose latest attempt is this worker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Those of this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// Body of `POST /v1/tasks/wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AwaitedTasks {
    /// Their ids; each once.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 10000))]
    pub tasks: Vec<String>,
}

/// Answer to `POST /v1/tasks/wait`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndedTasks {
    /// Those that are terminal, in the order asked.
    pub ended: Vec<EndedTask>,
    /// Those that are not there (any more).
    #[serde(default)]
    pub missing: Vec<String>,
    /// More of them are terminal than fit into one answer: ask again for the others.
    #[serde(default)]
    pub more: bool,
}

/// How a task ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndedTask {
    /// Its id.
    pub id: String,
    /// Its terminal state.
    pub state: TaskState,
    /// As in [`Task`].
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub result: Option<Box<RawValue>>,
    /// As in [`Task`].
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub error: Option<Box<RawValue>>,
}

/// Answer to what is done to many tasks or jobs at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Swept {
    /// For how many it held.
    pub count: u64,
}

/// Answer to `GET /v1/tasks/{id}/explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// The task.
    pub task: String,
    /// Where it is in its life.
    pub state: TaskState,
    /// All reasons in a sentence.
    pub summary: String,
    /// Everything that holds it back; each must go before it can start.
    pub reasons: Vec<Reason>,
}

/// One reason why a task does not run. Which fields are there goes by its code.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reason {
    /// Stable: `finished`, `running`, `dependencies`, `delayed`, `backoff`, `queue_paused`, `queue_max_running`,
    /// `queue_rate`, `concurrency_key`, `no_worker`, `no_worker_for_queue`, `no_worker_for_kind`,
    /// `no_worker_with_labels`, `no_worker_with_resources`, `workers_busy` or `ready`.
    pub code: String,
    /// For people.
    pub message: String,
    /// When it goes away by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The first of the tasks it comes after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<String>>,
    /// The concurrency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The bound that is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How many tasks, or workers, it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// Query of `GET /v1/tasks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct TasksQuery {
    /// Only those of this queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// Only those of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only those whose latest attempt is this worker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// See [`Consistency`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

#[cfg(test)]
mod tests {
    use super::{TaskSpec, TaskState};

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = serde_json::from_str::<TaskSpec>(r#"{"kind":"exec","retries":3}"#)
            .expect_err("unknown field");
        assert!(
            error.to_string().contains("unknown field `retries`"),
            "{error}"
        );
    }

    #[test]
    fn a_payload_is_kept_to_the_byte() {
        let text = r#"{"kind":"f","payload":{ "b" : 1.0,  "a":12345678901234567890123 }}"#;
        let spec: TaskSpec = serde_json::from_str(text).expect("valid");
        let payload = spec.payload.expect("given");
        assert_eq!(
            payload.get(),
            r#"{ "b" : 1.0,  "a":12345678901234567890123 }"#
        );
    }

    #[test]
    fn words_on_the_wire_match_their_names() {
        for state in TaskState::ALL {
            assert_eq!(
                serde_json::to_string(&state).expect("plain"),
                format!("\"{}\"", state.as_str())
            );
        }
    }
}
