//! The format: one record a line, each a JSON object. `docs/internals/history-format.md` says the same for people.
//!
//! Unknown fields are refused: a misspelt one would be a promise that nobody checks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version that the first line of a history names.
pub const VERSION: u32 = 1;

/// The first line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the format.
    pub history: u32,
    /// What recorded it.
    #[serde(default)]
    pub by: String,
}

/// One operation, or one thing that was seen or done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Who did it. One client does one thing after the other; what runs at once has several names.
    pub client: String,
    /// The node that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// When it was asked: nanoseconds of one monotonic clock for the whole history.
    pub invoke_ns: u64,
    /// When the answer came, or was given up.
    pub return_ns: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The log index that the answer stands for (`triarch-index`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Why it failed or is unknown: a code, or words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What was asked, and what was answered.
    pub op: Op,
}

/// How an operation ended for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered with success.
    Ok,
    /// Answered with a refusal: it was not done.
    Fail,
    /// No answer, or one that promises nothing (a timeout, a broken connection, `503`, `504`): it may have been done, or
    /// may yet be.
    Unknown,
}

/// What was asked, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// A job is submitted.
    Submit {
        /// Its idempotency key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Its tasks, with their ids once they are known.
        tasks: Vec<Submitted>,
        /// The job's id, once it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
        /// The answer said that it was there already.
        #[serde(default, skip_serializing_if = "is_false")]
        duplicate: bool,
        /// One task that fails has the others cancelled.
        #[serde(default, skip_serializing_if = "is_false")]
        fail_fast: bool,
    },
    /// A task is cancelled.
    CancelTask {
        /// The task.
        task: String,
    },
    /// A job is cancelled.
    CancelJob {
        /// The job.
        job: String,
    },
    /// A terminal task is to run again.
    RetryTask {
        /// The task.
        task: String,
    },
    /// A worker asks for work.
    Poll {
        /// The worker's id.
        worker: String,
        /// What it was given.
        #[serde(default)]
        leases: Vec<Lease>,
    },
    /// A worker reports.
    Report {
        /// The worker's id.
        worker: String,
        /// Each result, and the verdict on it.
        results: Vec<Reported>,
    },
    /// A task is read. Answered, and `seen` is missing: there is no such task.
    ReadTask {
        /// The task.
        task: String,
        /// How old the answer may be.
        #[serde(default)]
        consistency: Consistency,
        /// The answer must be at least this new (`triarch-min-index`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min_index: Option<u64>,
        /// The answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<SeenTask>,
    },
    /// A job is read. Answered, and `seen` is missing: there is no such job.
    ReadJob {
        /// The job.
        job: String,
        /// How old the answer may be.
        #[serde(default)]
        consistency: Consistency,
        /// The answer must be at least this new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min_index: Option<u64>,
        /// The answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<JobState>,
    },
    /// A tick of a schedule that was due within the run, whatever came of it.
    Due {
        /// The schedule.
        schedule: String,
        /// The tick's time.
        at: String,
    },
    /// A job that a schedule's tick made, as found in the end.
    Tick {
        /// The schedule.
        schedule: String,
        /// The tick's time.
        at: String,
        /// The job.
        job: String,
    },
    /// A side effect of a task's code at something outside, which keeps them in order: records of one sink stand in the
    /// history in the order that the sink has them.
    Effect {
        /// The sink.
        sink: String,
        /// The task.
        task: String,
        /// The fencing token that the task's code was given.
        token: u64,
    },
    /// A fault that was injected.
    Fault {
        /// What kind: `kill-9`, `partition`, …
        kind: String,
        /// What it was done to: `leader`, `master-2`, …
        target: String,
        /// What shows that it took effect. A fault without counts for nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect: Option<String>,
    },
    /// This run is about faults of this kind: so many must have taken effect, or it has shown nothing.
    Expect {
        /// The kind of fault.
        kind: String,
        /// How many at least.
        count: u64,
    },
    /// The load is over and the cluster whole: whatever is read last of an acknowledged task must be its end.
    Settled {},
}

/// One task of a submission.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submitted {
    /// Its id, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its kind.
    pub kind: String,
    /// Every worker that may run it writes this history: what is not in it was not reported.
    #[serde(default, skip_serializing_if = "is_false")]
    pub observed: bool,
    /// A short form of its payload, see [`crate::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Its name within the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Names of the tasks that must succeed first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// No two unfinished tasks have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    /// It may end by not being started in time.
    #[serde(default, skip_serializing_if = "is_false")]
    pub expires: bool,
}

/// One lease, as a worker is given it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The task.
    pub task: String,
    /// The fencing token.
    pub token: u64,
    /// The attempt's number.
    pub attempt: u64,
    /// A short form of the payload, see [`crate::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Short forms of the results of the tasks that it comes after, by their keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
}

/// One result, as a worker reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// The task.
    pub task: String,
    /// The lease's token.
    pub token: u64,
    /// The lease's attempt.
    pub attempt: u64,
    /// How the attempt ended.
    pub status: Status,
    /// A short form of the result, see [`crate::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// The verdict; none without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<bool>,
    /// Why it was not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// How an attempt ended, by the word of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// With a result.
    Succeeded,
    /// With an error.
    Failed,
    /// Given back untried.
    HandedBack,
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Not older than anything that was acknowledged when it was asked.
    #[default]
    Linearizable,
    /// The asked node's own state.
    Stale,
}

/// A task as an answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenTask {
    /// Its state.
    pub state: TaskState,
    /// The number of its latest attempt, 0 before the first.
    pub attempt: u64,
    /// A short form of its result, see [`crate::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Its latest attempts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<SeenAttempt>,
}

/// An attempt as an answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenAttempt {
    /// Its number.
    pub attempt: u64,
    /// Its token.
    pub token: u64,
    /// How it ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// The states of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// For others to succeed.
    Waiting,
    /// For a time.
    Delayed,
    /// For a worker.
    Queued,
    /// Leased.
    Running,
    /// Terminal.
    Succeeded,
    /// Terminal.
    Failed,
    /// Terminal.
    Cancelled,
    /// Terminal.
    Expired,
}

impl TaskState {
    /// Whether it is an end.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Waiting | Self::Delayed | Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired => true,
        }
    }
}

/// The states of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// A task of it has not ended.
    Running,
    /// All succeeded.
    Succeeded,
    /// One failed or expired.
    Failed,
    /// One was cancelled, none failed.
    Cancelled,
}

impl Op {
    /// Its name, as in the history.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submit { .. } => "submit",
            Self::CancelTask { .. } => "cancel_task",
            Self::CancelJob { .. } => "cancel_job",
            Self::RetryTask { .. } => "retry_task",
            Self::Poll { .. } => "poll",
            Self::Report { .. } => "report",
            Self::ReadTask { .. } => "read_task",
            Self::ReadJob { .. } => "read_job",
            Self::Due { .. } => "due",
            Self::Tick { .. } => "tick",
            Self::Effect { .. } => "effect",
            Self::Fault { .. } => "fault",
            Self::Expect { .. } => "expect",
            Self::Settled {} => "settled",
        }
    }

    /// Whether it was asked of the cluster, and not only seen, done or said by whoever records.
    pub fn is_request(&self) -> bool {
        match self {
            Self::Submit { .. }
            | Self::CancelTask { .. }
            | Self::CancelJob { .. }
            | Self::RetryTask { .. }
            | Self::Poll { .. }
            | Self::Report { .. }
            | Self::ReadTask { .. }
            | Self::ReadJob { .. } => true,
            Self::Due { .. }
            | Self::Tick { .. }
            | Self::Effect { .. }
            | Self::Fault { .. }
            | Self::Expect { .. }
            | Self::Settled {} => false,
        }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}
