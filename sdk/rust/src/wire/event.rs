//! Events: what happened, in the order of the log.

use serde::{Deserialize, Serialize};

use super::job::JobState;
use super::task::{AttemptOutcome, TaskState};
use super::time::Timestamp;
use super::worker::WorkerState;

/// The media type of `GET /v1/events`.
pub const CONTENT_TYPE: &str = "text/event-stream";
/// Request: go on after the event of this id. The name that every reader of server-sent events sends.
pub const LAST_EVENT_ID: &str = "last-event-id";
/// The name of the message that ends a stream whose reader was too slow. Its data is a problem document.
pub const GONE: &str = "gone";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Log index and place within that entry, as in `42.3`; the same on every node.
    pub id: String,
    /// The cluster's time when it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub what: Happened,
}

/// What happened; `type` on the wire. Where a task's `job`, `queue` or `kind` is `null`, it was forgotten at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Happened {
    /// A job came into being.
    JobSubmitted {
        /// The job.
        job: String,
        /// As submitted; empty when it has none.
        #[serde(default)]
        name: Option<String>,
        /// How many tasks it has.
        tasks: u32,
    },
    /// A task came into being in this state, or changed to it.
    TaskChanged {
        /// The task.
        task: String,
        /// Its job.
        #[serde(default)]
        job: Option<String>,
        /// Its queue.
        #[serde(default)]
        queue: Option<String>,
        /// Its kind.
        #[serde(default)]
        kind: Option<String>,
        /// The state it is in now.
        state: TaskState,
        /// Whose lease began or ended with this change.
        #[serde(default)]
        worker: Option<String>,
        /// The number of the attempt that began or ended with this change.
        #[serde(default)]
        attempt: Option<u32>,
    },
    /// A lease was granted.
    LeaseGranted {
        /// The task.
        task: String,
        /// Its job.
        #[serde(default)]
        job: Option<String>,
        /// Its queue.
        #[serde(default)]
        queue: Option<String>,
        /// Its kind.
        #[serde(default)]
        kind: Option<String>,
        /// To whom.
        worker: String,
        /// The number of the attempt.
        #[serde(default)]
        attempt: Option<u32>,
        /// Its fencing token.
        token: u64,
    },
    /// A lease ended.
    LeaseEnded {
        /// The task.
        task: String,
        /// Its job.
        #[serde(default)]
        job: Option<String>,
        /// Its queue.
        #[serde(default)]
        queue: Option<String>,
        /// Its kind.
        #[serde(default)]
        kind: Option<String>,
        /// Whose it was.
        worker: String,
        /// The number of the attempt.
        #[serde(default)]
        attempt: Option<u32>,
        /// Its fencing token.
        token: u64,
        /// How the attempt ended.
        #[serde(default)]
        outcome: Option<AttemptOutcome>,
    },
    /// A job became terminal.
    JobFinished {
        /// The job.
        job: String,
        /// As submitted; empty when it has none.
        #[serde(default)]
        name: Option<String>,
        /// How it ended.
        state: JobState,
    },
    /// A worker may take leases.
    WorkerRegistered {
        /// The worker.
        worker: String,
        /// Its name.
        #[serde(default)]
        name: Option<String>,
    },
    /// A worker gets no new leases.
    WorkerDraining {
        /// The worker.
        worker: String,
        /// Its name.
        #[serde(default)]
        name: Option<String>,
    },
    /// A worker was silent for too long.
    WorkerLost {
        /// The worker.
        worker: String,
        /// Its name.
        #[serde(default)]
        name: Option<String>,
    },
    /// A worker said goodbye.
    WorkerLeft {
        /// The worker.
        worker: String,
        /// Its name.
        #[serde(default)]
        name: Option<String>,
    },
    /// Settings of a queue were changed.
    QueueChanged {
        /// The queue.
        queue: String,
    },
    /// A schedule was put, deleted, paused or resumed.
    ScheduleChanged {
        /// Its name.
        schedule: String,
    },
    /// A tick of a schedule is over.
    ScheduleTicked {
        /// Its name.
        schedule: String,
        /// When the tick was due.
        tick_at: Timestamp,
        /// The job that it made, if it made one.
        #[serde(default)]
        job: Option<String>,
    },
    /// A present worker is paused, quarantined, on probation or live again.
    WorkerChanged {
        /// The worker.
        worker: String,
        /// Its name.
        #[serde(default)]
        name: Option<String>,
        /// What it is now.
        state: WorkerState,
    },
    /// The whole table became that of a backup.
    Restored,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Happened {
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
    ];

    /// Its `type`.
    pub fn type_str(&self) -> &'static str {
        match self {
            Happened::JobSubmitted { .. } => "job_submitted",
            Happened::TaskChanged { .. } => "task_changed",
            Happened::LeaseGranted { .. } => "lease_granted",
            Happened::LeaseEnded { .. } => "lease_ended",
            Happened::JobFinished { .. } => "job_finished",
            Happened::WorkerRegistered { .. } => "worker_registered",
            Happened::WorkerDraining { .. } => "worker_draining",
            Happened::WorkerLost { .. } => "worker_lost",
            Happened::WorkerLeft { .. } => "worker_left",
            Happened::QueueChanged { .. } => "queue_changed",
            Happened::ScheduleChanged { .. } => "schedule_changed",
            Happened::ScheduleTicked { .. } => "schedule_ticked",
            Happened::WorkerChanged { .. } => "worker_changed",
            Happened::Restored => "restored",
            Happened::Unknown => "unknown",
        }
    }
}

/// Query of `GET /v1/events`. Each filter names one or more words, separated by commas; an event must have one of them.
/// Those that have nothing of the kind, as a worker has no queue, are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Only those of tasks in these queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Only those of these jobs and their tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Only those of these tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Only changes of tasks and jobs to these states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only those of these types.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub types: Option<String>,
    /// Go on after the event of this id, or after the entry of this log index; from now on, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::{Event, Happened};

    #[test]
    fn every_type_is_spelled_alike_everywhere() {
        for word in Happened::TYPES {
            let state = if *word == "worker_changed" {
                "paused"
            } else {
                "running"
            };
            let text = format!(
                r#"{{"id":"1.0","at":"2026-11-23T10:00:00Z","type":"{word}","job":"j1-0","tasks":1,"task":"t1-0",
                    "state":"{state}","worker":"w1-0","token":7,"queue":"default","schedule":"s",
                    "tick_at":"2026-11-23T10:00:00Z"}}"#
            );
            let event: Event = serde_json::from_str(&text).expect("valid");
            assert_eq!(event.what.type_str(), *word);
            let back = serde_json::to_value(&event).expect("plain");
            assert_eq!(back["type"], *word);
        }
    }

    #[test]
    fn a_type_of_a_later_version_is_no_error() {
        let text = r#"{"id":"1.0","at":"2026-11-23T10:00:00Z","type":"moon_full","phase":3}"#;
        let event: Event = serde_json::from_str(text).expect("readable");
        assert_eq!(event.what, Happened::Unknown);
    }
}
