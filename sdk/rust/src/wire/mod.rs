//! Types of the requests and responses of the HTTP interface, one file per resource (tasks, jobs, workers, …).
//!
//! Rules for all of these types:
//! - A request with an unknown field is refused. Responses may get new fields, so readers ignore unknown ones.
//! - Payloads, results and errors are JSON of the user. They stay raw text, and no node parses them.
//! - Times are RFC 3339 in UTC with milliseconds, named `…_at`; durations are integers, named `…_ms`.
//! - The main fields of a response are always present, and `null` without a value. Other fields may be absent.

pub mod after;
pub mod backoff;
pub mod cluster;
pub mod event;
pub mod exec;
pub mod headers;
pub mod health;
pub mod job;
mod number;
pub mod output;
pub mod problem;
pub mod queue;
pub mod schedule;
pub mod task;
pub mod task_query;
pub mod time;
pub mod worker;

pub use after::{After, AfterJob, AfterWhen, EndCondition, JobBefore};
pub use backoff::Backoff;
pub use cluster::{
    AddNode, AreaDigest, ClusterNode, ClusterQuery, ClusterStatus, DivergenceCheck, Forming,
    FormingMember, HoldQuery, NodeDisk, NodeRole, NodeState, RestoreProgress, RestoreQuery,
    Restored, SnapshotTransfer, SnapshotWritten, TableDigest, TimeSetBack, TransferLeader,
    UpgradeCluster,
};
pub use event::{Event, EventsQuery};
pub use exec::{ExecError, ExecPayload, ExecResult, Omitted, RawOutput};
pub use health::{Health, Ready};
pub use job::{Job, JobList, JobState, JobsQuery, OnFailure, PartReceived, SubmitJob, Submitted};
pub use output::{
    LogChunk, Logs, LogsNext, LogsQuery, OutputEnds, OutputStream, SendOutput, SendOutputAnswer,
    SentChunk,
};
pub use problem::{Problem, ProblemCode};
pub use queue::{Placement, Purge, Purged, Queue, QueueList, QueueSettings};
pub use schedule::{
    CatchUp, DeletedSchedule, Overlap, PutSchedule, Schedule, ScheduleList, ScheduledRun,
};
pub use task::{
    Attempt, AttemptOutcome, AwaitedTasks, EndedTask, EndedTasks, Explanation, OnDuplicate, Reason,
    Requires, Swept, Task, TaskList, TaskSelection, TaskSpec, TaskState,
};
pub use task_query::{JobTasksQuery, ListOrder, TasksQuery};
pub use time::Timestamp;
pub use worker::{
    Heartbeat, HeartbeatAnswer, LeasedTask, LeaveAnswer, Load, NOTE_BYTES_MAX, PartProblem, Poll,
    PollAnswer, Register, Registered, Report, ReportAnswer, ReportStatus, ResultAcknowledgement,
    RunningTask, TaskResult, UnreadableTask, Worker, WorkerList, WorkerState, WorkersQuery,
};

use serde::{Deserialize, Serialize};
/// Raw JSON text, passed on without changes.
pub use serde_json::value::RawValue;

/// Query of a read that may wait until its subject is terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    /// Maximum time in ms to hold the response until the subject is terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Freshness of the read. Default: `linearizable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// Query of a plain read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ReadQuery {
    /// Freshness of the read. Default: `linearizable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// Query of one page of a list without filters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Maximum number of items in the page.
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

/// Freshness of a read: `linearizable` sees every write acknowledged before the read began; `stale` reads the
/// responding node's own state, however old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// Reads the responding node's own state, however old.
    Stale,
}
