//! Events: the changes of tasks, jobs, workers, queues and schedules, in the order of the log.

use serde::{Deserialize, Serialize};

use super::job::JobState;
use super::task::{AttemptOutcome, TaskState};
use super::time::Timestamp;
use super::worker::WorkerState;

/// Media type of `GET /v1/events`.
pub const CONTENT_TYPE: &str = "text/event-stream";
/// Request header: resume after the event with this id. Every reader of server-sent events sends it.
pub const LAST_EVENT_ID: &str = "last-event-id";
/// Name of the message that ends the stream of a reader that was too slow. Its data is a problem document.
pub const GONE: &str = "gone";

/// One event of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Log index and position within that entry, such as `42.3`; the same on every node.
    pub id: String,
    /// Cluster time of the event.
    pub at: Timestamp,
    /// Type and details of the event.
    #[serde(flatten)]
    pub detail: EventDetail,
}

/// Type and details of an event, tagged by `type`. If `job`, `queue` or `kind` of a task is `null`, the task was
/// deleted in the same log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Happened))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventDetail {
    /// A job was submitted.
    JobSubmitted {
        /// Id of the job.
        job: String,
        /// Name of the job; empty if it has none.
        #[serde(default)]
        name: Option<String>,
        /// Number of its tasks.
        tasks: u32,
    },
    /// A task was created in this state, or changed to it.
    TaskChanged {
        /// Id of the task.
        task: String,
        /// Id of its job.
        #[serde(default)]
        job: Option<String>,
        /// Name of its queue.
        #[serde(default)]
        queue: Option<String>,
        /// Kind of the task.
        #[serde(default)]
        kind: Option<String>,
        /// New state of the task.
        state: TaskState,
        /// Id of the worker whose lease began or ended with this change.
        #[serde(default)]
        worker: Option<String>,
        /// Number of the attempt that began or ended with this change.
        #[serde(default)]
        attempt: Option<u32>,
    },
    /// A lease was granted.
    LeaseGranted {
        /// Id of the task.
        task: String,
        /// Id of its job.
        #[serde(default)]
        job: Option<String>,
        /// Name of its queue.
        #[serde(default)]
        queue: Option<String>,
        /// Kind of the task.
        #[serde(default)]
        kind: Option<String>,
        /// Id of the worker that holds the lease.
        worker: String,
        /// Number of the attempt.
        #[serde(default)]
        attempt: Option<u32>,
        /// Fencing token of the lease.
        token: u64,
    },
    /// A lease ended.
    LeaseEnded {
        /// Id of the task.
        task: String,
        /// Id of its job.
        #[serde(default)]
        job: Option<String>,
        /// Name of its queue.
        #[serde(default)]
        queue: Option<String>,
        /// Kind of the task.
        #[serde(default)]
        kind: Option<String>,
        /// Id of the worker that held the lease.
        worker: String,
        /// Number of the attempt.
        #[serde(default)]
        attempt: Option<u32>,
        /// Fencing token of the lease.
        token: u64,
        /// Outcome of the attempt.
        #[serde(default)]
        outcome: Option<AttemptOutcome>,
    },
    /// A job reached a terminal state.
    JobFinished {
        /// Id of the job.
        job: String,
        /// Name of the job; empty if it has none.
        #[serde(default)]
        name: Option<String>,
        /// Terminal state of the job.
        state: JobState,
    },
    /// A worker registered and may poll for tasks.
    WorkerRegistered {
        /// Id of the worker.
        worker: String,
        /// Name of the worker.
        #[serde(default)]
        name: Option<String>,
    },
    /// A worker is draining and gets no new leases.
    WorkerDraining {
        /// Id of the worker.
        worker: String,
        /// Name of the worker.
        #[serde(default)]
        name: Option<String>,
    },
    /// A worker sent no heartbeat in time.
    WorkerLost {
        /// Id of the worker.
        worker: String,
        /// Name of the worker.
        #[serde(default)]
        name: Option<String>,
    },
    /// A worker left the cluster.
    WorkerLeft {
        /// Id of the worker.
        worker: String,
        /// Name of the worker.
        #[serde(default)]
        name: Option<String>,
    },
    /// Settings of a queue were changed.
    QueueChanged {
        /// Name of the queue.
        queue: String,
    },
    /// A schedule was created, replaced, deleted, paused or resumed.
    ScheduleChanged {
        /// Name of the schedule.
        schedule: String,
    },
    /// A tick of a schedule was processed.
    ScheduleTicked {
        /// Name of the schedule.
        schedule: String,
        /// Time at which the tick was due.
        tick_at: Timestamp,
        /// Id of the job that the tick submitted; `null` if it submitted none.
        #[serde(default)]
        job: Option<String>,
    },
    /// A registered worker changed to paused, quarantined, probation or live.
    WorkerChanged {
        /// Id of the worker.
        worker: String,
        /// Name of the worker.
        #[serde(default)]
        name: Option<String>,
        /// New state of the worker.
        state: WorkerState,
    },
    /// The whole table was replaced by that of a backup.
    Restored,
    /// The time of the table was set back, after most of the masters' clocks were ahead once.
    TimeSetBack {
        /// Time of the table before.
        from: Timestamp,
        /// Time of the table since.
        to: Timestamp,
    },
    /// An event of a type that this version does not know.
    #[serde(other)]
    Unknown,
}

impl EventDetail {
    /// The words that `type` has, and that a reader may ask for.
    pub const TYPES: &[&str] = &[
        "job_submitted",
        "task_changed",
        "lease_granted",
        "lease_ended",
        "job_finished",
        "worker_registered",
        "worker_draining",
        "worker_lost",
        "worker_left",
        "queue_changed",
        "schedule_changed",
        "schedule_ticked",
        "worker_changed",
        "restored",
        "time_set_back",
    ];

    /// Its `type`.
    pub fn type_str(&self) -> &'static str {
        match self {
            EventDetail::JobSubmitted { .. } => "job_submitted",
            EventDetail::TaskChanged { .. } => "task_changed",
            EventDetail::LeaseGranted { .. } => "lease_granted",
            EventDetail::LeaseEnded { .. } => "lease_ended",
            EventDetail::JobFinished { .. } => "job_finished",
            EventDetail::WorkerRegistered { .. } => "worker_registered",
            EventDetail::WorkerDraining { .. } => "worker_draining",
            EventDetail::WorkerLost { .. } => "worker_lost",
            EventDetail::WorkerLeft { .. } => "worker_left",
            EventDetail::QueueChanged { .. } => "queue_changed",
            EventDetail::ScheduleChanged { .. } => "schedule_changed",
            EventDetail::ScheduleTicked { .. } => "schedule_ticked",
            EventDetail::WorkerChanged { .. } => "worker_changed",
            EventDetail::Restored => "restored",
            EventDetail::TimeSetBack { .. } => "time_set_back",
            EventDetail::Unknown => "unknown",
        }
    }
}

/// Query of `GET /v1/events`. Each filter has one or more values, separated by commas, and an event must have one of
/// them. Events without such an attribute are excluded; a worker, for instance, has no queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Only events of tasks in these queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Only events of these jobs and their tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Only events of these tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Only changes of tasks and jobs to these states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only events of these types.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub types: Option<String>,
    /// Event id or log index to resume after. Default: events from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::{Event, EventDetail};

    #[test]
    fn every_type_is_spelled_alike_everywhere() {
        for word in EventDetail::TYPES {
            let state = if *word == "worker_changed" {
                "paused"
            } else {
                "running"
            };
            let text = format!(
                r#"{{"id":"1.0","at":"2026-11-23T10:00:00Z","type":"{word}","job":"j1-0","tasks":1,"task":"t1-0",
                    "state":"{state}","worker":"w1-0","token":7,"queue":"default","schedule":"s",
                    "tick_at":"2026-11-23T10:00:00Z","from":"2036-11-23T10:00:00Z","to":"2026-11-23T10:00:00Z"}}"#
            );
            let event: Event = serde_json::from_str(&text).expect("valid");
            assert_eq!(event.detail.type_str(), *word);
            let back = serde_json::to_value(&event).expect("plain");
            assert_eq!(back["type"], *word);
        }
    }

    #[test]
    fn a_type_of_a_later_version_is_no_error() {
        let text = r#"{"id":"1.0","at":"2026-11-23T10:00:00Z","type":"moon_full","phase":3}"#;
        let event: Event = serde_json::from_str(text).expect("readable");
        assert_eq!(event.detail, EventDetail::Unknown);
    }
}
