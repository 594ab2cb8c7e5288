//! Format of a history: one record per line, each a JSON object. `docs/internals/history-format.md` describes the same.
//!
//! Unknown fields are refused, because a misspelt field would be a guarantee that is not checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the format, in the first line of a history.
pub const VERSION: u32 = 1;

/// First line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the format.
    pub history: u32,
    /// Name of the recorder.
    #[serde(default)]
    pub by: String,
}

/// One operation, or one observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Name of the client. One client does one operation after the other; concurrent operations have different names.
    pub client: String,
    /// Id of the node that received the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// Time of the request: nanoseconds of one monotonic clock for the whole history.
    pub invoke_ns: u64,
    /// Time at which the answer arrived, or at which the client gave up.
    pub return_ns: u64,
    /// Outcome of the operation.
    pub outcome: Outcome,
    /// Log index that the answer reflects (`triarch-index`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Reason for a failure or an unknown outcome: a code or a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Request, with the content of the answer.
    pub op: Op,
}

/// Outcome of an operation for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The answer reports success.
    Ok,
    /// The answer is a refusal: nothing was done.
    Fail,
    /// There is no answer, or one without a guarantee (a timeout, a broken connection, `503`, `504`). The operation may
    /// have taken effect, or may do so later.
    Unknown,
}

/// A request, with the content of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Submission of a job.
    Submit {
        /// Idempotency key of the job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Tasks of the job, with their ids once they are known.
        tasks: Vec<Submitted>,
        /// Id of the job, once it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
        /// Whether the answer says that the job existed already.
        #[serde(default, skip_serializing_if = "is_false")]
        duplicate: bool,
        /// Whether the failure of one task cancels the others.
        #[serde(default, skip_serializing_if = "is_false")]
        fail_fast: bool,
    },
    /// Cancellation of a task.
    CancelTask {
        /// Id of the task.
        task: String,
    },
    /// Cancellation of a job.
    CancelJob {
        /// Id of the job.
        job: String,
    },
    /// Retry of a terminal task.
    RetryTask {
        /// Id of the task.
        task: String,
    },
    /// Poll of a worker.
    Poll {
        /// Id of the worker.
        worker: String,
        /// Leases in the answer.
        #[serde(default)]
        leases: Vec<Lease>,
    },
    /// Report of a worker.
    Report {
        /// Id of the worker.
        worker: String,
        /// Results, each with its verdict.
        results: Vec<Reported>,
    },
    /// Read of a task. An answer without `seen` means that the task does not exist.
    ReadTask {
        /// Id of the task.
        task: String,
        /// Freshness of the read.
        #[serde(default)]
        consistency: Consistency,
        /// Minimum index of the answer (`triarch-min-index`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min_index: Option<u64>,
        /// The task in the answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<SeenTask>,
    },
    /// Read of a job. An answer without `seen` means that the job does not exist.
    ReadJob {
        /// Id of the job.
        job: String,
        /// Freshness of the read.
        #[serde(default)]
        consistency: Consistency,
        /// Minimum index of the answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min_index: Option<u64>,
        /// The job in the answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<JobState>,
    },
    /// A tick of a schedule that was due within the run, with or without a job.
    Due {
        /// Name of the schedule.
        schedule: String,
        /// Time of the tick.
        at: String,
    },
    /// A job that a tick of a schedule made, found at the end of the run.
    Tick {
        /// Name of the schedule.
        schedule: String,
        /// Time of the tick.
        at: String,
        /// Id of the job.
        job: String,
    },
    /// A side effect of a task's code on an external sink, which keeps the order. The history contains the records of
    /// one sink in the order of the sink.
    Effect {
        /// Name of the sink.
        sink: String,
        /// Id of the task.
        task: String,
        /// Fencing token that the task's code received.
        token: u64,
    },
    /// A fault that was injected.
    Fault {
        /// Kind of the fault: `kill-9`, `partition`, …
        kind: String,
        /// Target of the fault: `leader`, `master-2`, …
        target: String,
        /// Evidence that the fault took effect. A fault without evidence does not count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect: Option<String>,
    },
    /// An expectation of the run: at least this many faults of the kind must have taken effect. Otherwise the run
    /// proves nothing.
    Expect {
        /// Kind of the fault.
        kind: String,
        /// Minimum number of faults.
        count: u64,
    },
    /// The load has ended and the cluster has recovered. The last read of each acknowledged task must show its terminal
    /// state.
    Settled {},
}

/// One task of a submission.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submitted {
    /// Id of the task, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Kind of the task.
    pub kind: String,
    /// Whether every worker that may run the task records to this history. Then every report of the task is in the
    /// history.
    #[serde(default, skip_serializing_if = "is_false")]
    pub observed: bool,
    /// Short form of the payload, see [`crate::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Name of the task within the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Names of the tasks that must succeed first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Key that at most one unfinished task has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    /// Whether the task may expire.
    #[serde(default, skip_serializing_if = "is_false")]
    pub expires: bool,
}

/// One lease, as a worker receives it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Id of the task.
    pub task: String,
    /// The fencing token.
    pub token: u64,
    /// Number of the attempt.
    pub attempt: u64,
    /// Short form of the payload, see [`crate::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Short forms of the results of the tasks that it depends on, by their keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
}

/// One result, as a worker reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// Id of the task.
    pub task: String,
    /// Token of the lease.
    pub token: u64,
    /// Number of the attempt.
    pub attempt: u64,
    /// Outcome of the attempt.
    pub status: Status,
    /// Short form of the result, see [`crate::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Verdict; absent without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<bool>,
    /// Reason why the result was not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Outcome of an attempt, as its worker reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Success, with a result.
    Succeeded,
    /// Failure, with an error.
    Failed,
    /// Returned without an attempt.
    HandedBack,
}

/// Freshness of a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Linearizable: not older than anything acknowledged before the request.
    #[default]
    Linearizable,
    /// Stale: the state of the responding node.
    Stale,
}

/// A task as an answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenTask {
    /// State of the task.
    pub state: TaskState,
    /// Number of its latest attempt; 0 before the first.
    pub attempt: u64,
    /// Short form of its result, see [`crate::digest`].
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
    /// Number of the attempt.
    pub attempt: u64,
    /// Fencing token of its lease.
    pub token: u64,
    /// Outcome, if it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// The states of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for other tasks to succeed.
    Waiting,
    /// Waits for a time.
    Delayed,
    /// Waits for a worker.
    Queued,
    /// Leased to a worker.
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
    /// Returns whether the state is terminal.
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
    /// A task of the job has not ended.
    Running,
    /// All tasks succeeded.
    Succeeded,
    /// One task failed or expired.
    Failed,
    /// One task was cancelled, and none failed.
    Cancelled,
}

impl Op {
    /// Returns the name in the history.
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

    /// Returns whether this is a request to the cluster. All others are observations of the recorder.
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
