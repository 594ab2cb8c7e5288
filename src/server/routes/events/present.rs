//! Events of the feed in the types of the wire.

use triarch_sdk::wire;

use crate::feed::{About, Happened, Leased, Outcome};
use crate::server::routes::present;

/// Type of an event on the wire.
pub fn event_type(happened: &Happened) -> &'static str {
    match happened {
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
    }
}

/// An event on the wire.
pub fn to_wire(happened: &Happened) -> wire::event::Happened {
    use wire::event::Happened as WireEvent;
    let text = |name: &Option<std::sync::Arc<str>>| name.as_ref().map(|name| name.to_string());
    match happened {
        Happened::JobSubmitted { job, name, tasks } => WireEvent::JobSubmitted {
            job: job.to_string(),
            name: text(name),
            tasks: *tasks,
        },
        Happened::TaskChanged { task, state, lease } => {
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
        Happened::LeaseGranted { task, lease } => {
            let TaskFields {
                task,
                job,
                queue,
                kind,
            } = TaskFields::of(task);
            let Leased {
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
        Happened::LeaseEnded {
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
            let Leased {
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
        Happened::JobFinished { job, name, state } => WireEvent::JobFinished {
            job: job.to_string(),
            name: text(name),
            state: present::job_state(*state),
        },
        Happened::WorkerRegistered { worker, name } => WireEvent::WorkerRegistered {
            worker: worker.to_string(),
            name: text(name),
        },
        Happened::WorkerDraining { worker, name } => WireEvent::WorkerDraining {
            worker: worker.to_string(),
            name: text(name),
        },
        Happened::WorkerLost { worker, name } => WireEvent::WorkerLost {
            worker: worker.to_string(),
            name: text(name),
        },
        Happened::WorkerLeft { worker, name } => WireEvent::WorkerLeft {
            worker: worker.to_string(),
            name: text(name),
        },
        Happened::WorkerChanged {
            worker,
            name,
            state,
        } => WireEvent::WorkerChanged {
            worker: worker.to_string(),
            name: text(name),
            state: present::worker_state(*state),
        },
        Happened::Restored => WireEvent::Restored,
        Happened::QueueChanged { queue } => WireEvent::QueueChanged {
            queue: queue.to_string(),
        },
        Happened::ScheduleChanged { schedule } => WireEvent::ScheduleChanged {
            schedule: schedule.to_string(),
        },
        Happened::ScheduleTicked {
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

/// Fields of a task in the form of the wire.
struct TaskFields {
    task: String,
    job: Option<String>,
    queue: Option<String>,
    kind: Option<String>,
}

impl TaskFields {
    fn of(about: &About) -> Self {
        let class = about.class.as_ref();
        Self {
            task: about.task.to_string(),
            job: about.job.map(|job| job.to_string()),
            queue: class.map(|class| class.queue.to_string()),
            kind: class.map(|class| class.kind.to_string()),
        }
    }
}

fn attempt_outcome(outcome: Outcome) -> wire::AttemptOutcome {
    match outcome {
        Outcome::Succeeded => wire::AttemptOutcome::Succeeded,
        Outcome::Failed => wire::AttemptOutcome::Failed,
        Outcome::TimedOut => wire::AttemptOutcome::TimedOut,
        Outcome::Lost => wire::AttemptOutcome::Lost,
        Outcome::Returned => wire::AttemptOutcome::Returned,
        Outcome::Cancelled => wire::AttemptOutcome::Cancelled,
    }
}
