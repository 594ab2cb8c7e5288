//! Jobs: the unit of submission, one or more tasks, all of them accepted or none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Consistency;
use super::after::{AfterJob, JobBefore};
use super::task::{TaskSpec, TaskState};
use super::task_query::ListOrder;
use super::time::Timestamp;

/// Body of `POST /v1/jobs`. Either all tasks are accepted or none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SubmitJob {
    /// Display name; need not be unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 200))]
    pub name: Option<String>,
    /// Key that identifies the job. The same key and body return the existing job; the same key with another body is a
    /// conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub idempotency_key: Option<String>,
    /// Tasks of the job; at least one.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 10000))]
    pub tasks: Vec<TaskSpec>,
    /// Effect of a failed task on the others. Default: `continue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Jobs that must end before any of its tasks may start; not for a job in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub after_jobs: Option<Vec<AfterJob>>,
    /// Number of this part, from 1, of a job that is too large for one request. Parts share `idempotency_key`, `name`
    /// and `on_failure`. The last part to arrive creates the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub part: Option<u32>,
    /// Total number of parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub parts: Option<u32>,
}

impl SubmitJob {
    /// A job of these tasks, without name or key.
    ///
    /// ```
    /// use triarch_sdk::wire::{SubmitJob, TaskSpec};
    ///
    /// let job = SubmitJob {
    ///     idempotency_key: Some("report-2026-11".to_owned()),
    ///     ..SubmitJob::new([TaskSpec::exec(["make", "report"])])
    /// };
    /// assert_eq!(
    ///     serde_json::to_value(&job)?["tasks"][0]["payload"]["argv"],
    ///     serde_json::json!(["make", "report"]),
    /// );
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn new(tasks: impl IntoIterator<Item = TaskSpec>) -> Self {
        Self {
            tasks: tasks.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// Effect of one failed task on the other tasks of its job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The others continue.
    #[default]
    Continue,
    /// Unfinished tasks are cancelled.
    FailFast,
}

/// Response to a part of a job while others are missing: `202`. The part that completes the job gets a `Submitted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartReceived {
    /// Numbers of the parts received.
    pub received: Vec<u32>,
    /// Total number of parts.
    pub parts: u32,
}

/// Response to a submission: `201`, or `200` for a duplicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Submitted {
    /// Id of the job.
    pub id: String,
    /// Ids of its tasks, in the order of submission.
    pub tasks: Vec<String>,
    /// Whether an earlier submission with the same key created the job.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub duplicate: bool,
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// At least one task is not terminal.
    Running,
    /// Every task succeeded.
    Succeeded,
    /// Every task is terminal, at least one failed or expired.
    Failed,
    /// Every task is terminal, none failed or expired, at least one was cancelled.
    Cancelled,
}

impl JobState {
    /// All values.
    pub const ALL: [JobState; 4] = [
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
    ];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Returns whether the state is terminal: only a requested retry of a task changes it.
    pub fn is_terminal(self) -> bool {
        match self {
            JobState::Running => false,
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
        }
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Job {
    /// Id of the job.
    pub id: String,
    /// Name as submitted; empty if it has none.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub name: String,
    /// State of the job.
    pub state: JobState,
    /// Number of its tasks in each state; states without tasks may be absent.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub counts: BTreeMap<TaskState, u64>,
    /// Idempotency key as submitted.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// Effect of a failed task on the others, as submitted.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub on_failure: OnFailure,
    /// Jobs that it comes after, and whether they have ended as they must.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after_jobs: Vec<JobBefore>,
    /// Time at which the submission was applied.
    pub created_at: Timestamp,
    /// Time at which the job became terminal.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
}

impl Job {
    /// Returns the number of all tasks of the job.
    pub fn task_count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Returns the number of terminal tasks of the job.
    pub fn finished_count(&self) -> u64 {
        self.counts
            .iter()
            .filter(|(state, _)| state.is_terminal())
            .map(|(_, count)| count)
            .sum()
    }
}

/// One page of jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobList {
    /// Jobs of the page.
    pub jobs: Vec<Job>,
    /// Cursor of the next page; `null` on the last one.
    #[serde(default)]
    pub next: Option<String>,
    /// Number of all jobs that match, on all pages. Present if the query asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Query of `GET /v1/jobs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct JobsQuery {
    /// Only jobs in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Only jobs with exactly this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only jobs whose first task is in this queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Only jobs whose first task is of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only jobs whose first task has this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only jobs that ticks of this schedule submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Only jobs submitted at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_after: Option<Timestamp>,
    /// Only jobs submitted before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_before: Option<Timestamp>,
    /// Only jobs finished at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_after: Option<Timestamp>,
    /// Only jobs finished before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_before: Option<Timestamp>,
    /// Order of the jobs: `asc` in the order of submission, `desc` newest first. Default: `desc`. Use a cursor only with
    /// the order of its page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<ListOrder>,
    /// Whether to add the number of all jobs that match, on all pages. Default: `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<bool>,
    /// Maximum number of jobs in the page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// Cursor: `next` of the previous page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Freshness of the read. Default: `linearizable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}
