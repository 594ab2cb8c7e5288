//! Conversions of feed events to wire types.

use triarch_sdk::wire;

use crate::feed::{EventRecord, LeaseOutcome, LeaseRef, TaskRef};
use crate::server::routes::present;

/// Returns the wire name of an event's type.
pub fn event_type(record: &EventRecord) -> &'static str {
    match record {
        EventRecord::JobSubmitted { .. } => "job_submitted",
        EventRecord::TaskChanged { .. } => "task_changed",
        EventRecord::LeaseGranted { .. } => "lease_granted",
        EventRecord::LeaseEnded { .. } => "lease_ended",
        EventRecord::JobFinished { .. } => "job_finished",
        EventRecord::WorkerRegistered { .. } => "worker_registered",
        EventRecord::WorkerDraining { .. } => "worker_draining",
        EventRecord::WorkerLost { .. } => "worker_lost",
        EventRecord::WorkerLeft { .. } => "worker_left",
        EventRecord::QueueChanged { .. } => "queue_changed",
        EventRecord::ScheduleChanged { .. } => "schedule_changed",
        EventRecord::ScheduleTicked { .. } => "schedule_ticked",
        EventRecord::WorkerChanged { .. } => "worker_changed",
        EventRecord::Restored => "restored",
        EventRecord::TimeSetBack { .. } => "time_set_back",
    }
}

/// Converts an event to its wire type.
pub fn to_wire(record: &EventRecord) -> wire::event::EventDetail {
    use wire::event::EventDetail as WireEvent;
    let text = |name: &Option<std::sync::Arc<str>>| name.as_ref().map(|name| name.to_string());
    match record {
        EventRecord::JobSubmitted { job, name, tasks } => WireEvent::JobSubmitted {
            job: job.to_string(),
            name: text(name),
            tasks: *tasks,
        },
        EventRecord::TaskChanged { task, state, lease } => {
            let TaskFields {
                task,
                job,
                queue,
                kind,
            } = TaskFields::of(task);
            WireEvent::TaskChanged {
                task,
                job,
                queue,
                kind,
                state: present::task_state(*state),
                worker: lease.map(|lease| lease.worker.to_string()),
                attempt: lease.and_then(|lease| lease.attempt),
            }
        }
        EventRecord::LeaseGranted { task, lease } => {
            let TaskFields {
                task,
                job,
                queue,
                kind,
            } = TaskFields::of(task);
            let LeaseRef {
                worker,
                token,
                attempt,
            } = *lease;
            WireEvent::LeaseGranted {
                task,
                job,
                queue,
                kind,
                worker: worker.to_string(),
                attempt,
                token: token.0,
            }
        }
        EventRecord::LeaseEnded {
            task,
            lease,
            outcome,
        } => {
            let TaskFields {
                task,
                job,
                queue,
                kind,
            } = TaskFields::of(task);
            let LeaseRef {
                worker,
                token,
                attempt,
            } = *lease;
            WireEvent::LeaseEnded {
                task,
                job,
                queue,
                kind,
                worker: worker.to_string(),
                attempt,
                token: token.0,
                outcome: outcome.map(attempt_outcome),
            }
        }
        EventRecord::JobFinished { job, name, state } => WireEvent::JobFinished {
            job: job.to_string(),
            name: text(name),
            state: present::job_state(*state),
        },
        EventRecord::WorkerRegistered { worker, name } => WireEvent::WorkerRegistered {
            worker: worker.to_string(),
            name: text(name),
        },
        EventRecord::WorkerDraining { worker, name } => WireEvent::WorkerDraining {
            worker: worker.to_string(),
            name: text(name),
        },
        EventRecord::WorkerLost { worker, name } => WireEvent::WorkerLost {
            worker: worker.to_string(),
            name: text(name),
        },
        EventRecord::WorkerLeft { worker, name } => WireEvent::WorkerLeft {
            worker: worker.to_string(),
            name: text(name),
        },
        EventRecord::WorkerChanged {
            worker,
            name,
            state,
        } => WireEvent::WorkerChanged {
            worker: worker.to_string(),
            name: text(name),
            state: present::worker_state(*state),
        },
        EventRecord::Restored => WireEvent::Restored,
        EventRecord::TimeSetBack { from_ms, to_ms } => WireEvent::TimeSetBack {
            from: wire::Timestamp::from_unix_ms(*from_ms),
            to: wire::Timestamp::from_unix_ms(*to_ms),
        },
        EventRecord::QueueChanged { queue } => WireEvent::QueueChanged {
            queue: queue.to_string(),
        },
        EventRecord::ScheduleChanged { schedule } => WireEvent::ScheduleChanged {
            schedule: schedule.to_string(),
        },
        EventRecord::ScheduleTicked {
            schedule,
            tick_ms,
            job,
        } => WireEvent::ScheduleTicked {
            schedule: schedule.to_string(),
            tick_at: wire::Timestamp::from_unix_ms(*tick_ms),
            job: job.map(|job| job.to_string()),
        },
    }
}

/// Wire fields of a task.
struct TaskFields {
    task: String,
    job: Option<String>,
    queue: Option<String>,
    kind: Option<String>,
}

impl TaskFields {
    fn of(about: &TaskRef) -> Self {
        let class = about.class.as_ref();
        Self {
            task: about.task.to_string(),
            job: about.job.map(|job| job.to_string()),
            queue: class.map(|class| class.queue.to_string()),
            kind: class.map(|class| class.kind.to_string()),
        }
    }
}

fn attempt_outcome(outcome: LeaseOutcome) -> wire::AttemptOutcome {
    match outcome {
        LeaseOutcome::Succeeded => wire::AttemptOutcome::Succeeded,
        LeaseOutcome::Failed => wire::AttemptOutcome::Failed,
        LeaseOutcome::TimedOut => wire::AttemptOutcome::TimedOut,
        LeaseOutcome::Lost => wire::AttemptOutcome::Lost,
        LeaseOutcome::Returned => wire::AttemptOutcome::Returned,
        LeaseOutcome::Cancelled => wire::AttemptOutcome::Cancelled,
    }
}
