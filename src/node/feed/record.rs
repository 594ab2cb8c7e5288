//! Event records: the part of an event that the change feed keeps, enough to present and filter it after the table has
//! moved on.
//!
//! The table's own events refer to things by id. The ids are resolved as soon as the entry has applied, so every node
//! keeps the same record whenever it is read. Payloads, results and errors are not kept: they may be large, and the
//! task can be read.

use std::sync::Arc;

use triarch_table::records::task::{AttemptEnd, Class};
use triarch_table::types::state::{JobState, TaskState, WorkerState};
use triarch_table::{Event, JobId, Table, TaskId, Token, WorkerId};

/// One event of the feed.
#[derive(Debug, Clone, PartialEq)]
pub enum EventRecord {
    /// A job was submitted.
    JobSubmitted {
        job: JobId,
        name: Option<Arc<str>>,
        tasks: u32,
    },
    /// A task was created in this state, or changed to it.
    TaskChanged {
        task: TaskRef,
        state: TaskState,
        /// Lease that began or ended with this change.
        lease: Option<LeaseRef>,
    },
    /// A lease was granted.
    LeaseGranted { task: TaskRef, lease: LeaseRef },
    /// A lease ended.
    LeaseEnded {
        task: TaskRef,
        lease: LeaseRef,
        outcome: Option<LeaseOutcome>,
    },
    /// A job became terminal.
    JobFinished {
        job: JobId,
        name: Option<Arc<str>>,
        state: JobState,
    },
    /// A worker registered; it may now poll for tasks.
    WorkerRegistered {
        worker: WorkerId,
        name: Option<Arc<str>>,
    },
    /// A worker drains; it gets no new leases.
    WorkerDraining {
        worker: WorkerId,
        name: Option<Arc<str>>,
    },
    /// A worker was lost after too long a silence.
    WorkerLost {
        worker: WorkerId,
        name: Option<Arc<str>>,
    },
    /// A worker left.
    WorkerLeft {
        worker: WorkerId,
        name: Option<Arc<str>>,
    },
    /// Settings of a queue were changed.
    QueueChanged { queue: Arc<str> },
    /// A schedule was put, deleted, paused or resumed.
    ScheduleChanged { schedule: Arc<str> },
    /// A tick of a schedule fired or was missed.
    ScheduleTicked {
        schedule: Arc<str>,
        tick_ms: u64,
        job: Option<JobId>,
    },
    /// A registered worker is paused, quarantined, on probation or live again.
    WorkerChanged {
        worker: WorkerId,
        name: Option<Arc<str>>,
        state: WorkerState,
    },
    /// The whole table was replaced by a backup.
    Restored,
    /// The table's time was set back.
    TimeSetBack { from_ms: u64, to_ms: u64 },
}

/// Reference to a task. A field is `None` if the task was forgotten in the entry of the event itself.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRef {
    pub task: TaskId,
    pub job: Option<JobId>,
    pub class: Option<Arc<Class>>,
}

/// Reference to a lease.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeaseRef {
    pub worker: WorkerId,
    pub token: Token,
    pub attempt: Option<u32>,
}

/// Outcome of a lease, without the error of its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseOutcome {
    Succeeded,
    Failed,
    TimedOut,
    Lost,
    Returned,
    Cancelled,
}

impl LeaseOutcome {
    fn of(end: &AttemptEnd) -> Self {
        match end {
            AttemptEnd::Succeeded => LeaseOutcome::Succeeded,
            AttemptEnd::Failed { .. } => LeaseOutcome::Failed,
            AttemptEnd::TimedOut => LeaseOutcome::TimedOut,
            AttemptEnd::Lost | AttemptEnd::LeaseExpired => LeaseOutcome::Lost,
            AttemptEnd::Returned => LeaseOutcome::Returned,
            AttemptEnd::Cancelled => LeaseOutcome::Cancelled,
        }
    }
}

/// Returns the records of the events of one entry. `table` is the table right after that entry.
pub fn records_of(table: &Table, events: &[Event]) -> Vec<EventRecord> {
    let before = std::iter::once(None).chain(events.iter().map(Some));
    let pairs = before.zip(events);
    pairs
        .map(|(before, event)| record_of(table, before, event))
        .collect()
}

fn record_of(table: &Table, before: Option<&Event>, event: &Event) -> EventRecord {
    match *event {
        Event::JobSubmitted { job } => {
            let found = table.job(job);
            EventRecord::JobSubmitted {
                job,
                name: found.map(|job| Arc::clone(&job.name)),
                tasks: found.map_or(0, |job| job.tasks),
            }
        }
        Event::TaskChanged { task, job, to } => EventRecord::TaskChanged {
            task: TaskRef {
                job: Some(job),
                ..task_ref(table, task)
            },
            state: to,
            lease: before.and_then(|before| lease_of(table, task, before)),
        },
        Event::LeaseGranted {
            task,
            worker,
            token,
        } => EventRecord::LeaseGranted {
            task: task_ref(table, task),
            lease: lease_ref(table, task, worker, token),
        },
        Event::LeaseEnded {
            task,
            worker,
            token,
        } => EventRecord::LeaseEnded {
            task: task_ref(table, task),
            lease: lease_ref(table, task, worker, token),
            outcome: table.task(task).and_then(|task| {
                let attempts = task.history.iter().rev();
                let mut ended = attempts.filter(|attempt| attempt.token == token);
                ended.next().map(|attempt| LeaseOutcome::of(&attempt.end))
            }),
        },
        Event::JobFinished { job, state } => EventRecord::JobFinished {
            job,
            name: table.job(job).map(|job| Arc::clone(&job.name)),
            state,
        },
        Event::WorkerRegistered { worker } => EventRecord::WorkerRegistered {
            worker,
            name: name(table, worker),
        },
        Event::WorkerDraining { worker } => EventRecord::WorkerDraining {
            worker,
            name: name(table, worker),
        },
        Event::WorkerGone { worker, lost: true } => EventRecord::WorkerLost {
            worker,
            name: name(table, worker),
        },
        Event::WorkerGone {
            worker,
            lost: false,
        } => EventRecord::WorkerLeft {
            worker,
            name: name(table, worker),
        },
        Event::WorkerChanged { worker, to } => EventRecord::WorkerChanged {
            worker,
            name: name(table, worker),
            state: to,
        },
        Event::Restored => EventRecord::Restored,
        Event::TimeSetBack { from_ms, to_ms } => EventRecord::TimeSetBack { from_ms, to_ms },
        Event::QueueChanged { ref queue } => EventRecord::QueueChanged {
            queue: Arc::clone(queue),
        },
        Event::ScheduleChanged { ref name } => EventRecord::ScheduleChanged {
            schedule: Arc::clone(name),
        },
        Event::ScheduleTicked {
            ref name,
            tick_ms,
            job,
        } => EventRecord::ScheduleTicked {
            schedule: Arc::clone(name),
            tick_ms,
            job,
        },
    }
}

/// Returns the lease of the preceding event, if that event concerns this task. The table reports a lease first, and the
/// change of state that comes with it next.
fn lease_of(table: &Table, changed: TaskId, before: &Event) -> Option<LeaseRef> {
    match *before {
        Event::LeaseGranted {
            task,
            worker,
            token,
        }
        | Event::LeaseEnded {
            task,
            worker,
            token,
        } => (task == changed).then(|| lease_ref(table, task, worker, token)),
        Event::JobSubmitted { .. }
        | Event::TaskChanged { .. }
        | Event::JobFinished { .. }
        | Event::WorkerRegistered { .. }
        | Event::WorkerDraining { .. }
        | Event::WorkerGone { .. }
        | Event::QueueChanged { .. }
        | Event::ScheduleChanged { .. }
        | Event::ScheduleTicked { .. }
        | Event::WorkerChanged { .. }
        | Event::Restored
        | Event::TimeSetBack { .. } => None,
    }
}

fn task_ref(table: &Table, task: TaskId) -> TaskRef {
    let found = table.task(task);
    TaskRef {
        task,
        job: found.map(|task| task.job),
        class: found.map(|task| Arc::clone(&task.spec.class)),
    }
}

fn lease_ref(table: &Table, task: TaskId, worker: WorkerId, token: Token) -> LeaseRef {
    let attempt = table.task(task).and_then(|task| {
        let running = task.lease().filter(|lease| lease.token == token);
        let attempts = task.history.iter().rev();
        let mut ended = attempts.filter(|attempt| attempt.token == token);
        running
            .map(|lease| lease.attempt)
            .or_else(|| ended.next().map(|attempt| attempt.attempt))
    });
    LeaseRef {
        worker,
        token,
        attempt,
    }
}

fn name(table: &Table, worker: WorkerId) -> Option<Arc<str>> {
    table.worker(worker).map(|worker| Arc::clone(&worker.name))
}
