//! Jobs: what a user submits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Consistency;
use super::task::{TaskSpec, TaskState};
use super::time::Timestamp;

/// Body of `POST /v1/jobs`. All or nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SubmitJob {
    /// For people; need not be unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 200))]
    pub name: Option<String>,
    /// The same key and body again is the same job, for ever; the same key with another body is a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub idempotency_key: Option<String>,
    /// At least one.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 10000))]
    pub tasks: Vec<TaskSpec>,
    /// What a failed task means for the others; [`OnFailure::Continue`] unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Of a job that is too large for one request: which part of it this is, from 1. Parts share the `idempotency_key`,
    /// `name` and `on_failure`; the last one to come makes the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub part: Option<u32>,
    /// How many parts there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub parts: Option<u32>,
}

impl SubmitJob {
    /// A job of these tasks, without name or key.
    pub fn new(tasks: impl IntoIterator<Item = TaskSpec>) -> Self {
        Self {
            tasks: tasks.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// What one failed task means for the others of its job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// They go on.
    #[default]
    Continue,
    /// The unfinished ones are cancelled.
    FailFast,
}

/// Answer to a part of a job while others are missing: `202`. The part that completes the job is answered as a
/// [`Submitted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartReceived {
    /// The numbers of those that have come.
    pub received: Vec<u32>,
    /// How many there are.
    pub parts: u32,
}

/// Answer to a submission: `201`, or `200` for a duplicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Submitted {
    /// The job.
    pub id: String,
    /// Its tasks, in the order submitted.
    pub tasks: Vec<String>,
    /// An earlier submission with the same key made it.
    #[serde(default)]
    pub duplicate: bool,
}

/// Where a job is in its life.
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
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing but a retry of one of its tasks changes it any more.
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

/// A job as shown and listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Job {
    /// Its id.
    pub id: String,
    /// As submitted; empty when it has none.
    #[serde(default)]
    pub name: String,
    /// Where it is in its life.
    pub state: JobState,
    /// How many of its tasks are in which state; states without tasks may be absent.
    #[serde(default)]
    pub counts: BTreeMap<TaskState, u64>,
    /// As submitted.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// As submitted.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// When its submission was applied.
    pub created_at: Timestamp,
    /// When it became terminal.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
}

impl Job {
    /// All of its tasks.
    pub fn task_count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Its tasks that are terminal.
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
    /// The page.
    pub jobs: Vec<Job>,
    /// Where the next page starts; `null` on the last.
    #[serde(default)]
    pub next: Option<String>,
}

/// Query of `GET /v1/jobs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct JobsQuery {
    /// Only these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Only those of exactly this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
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
