//! What is kept of an event: enough to present and to filter it later, when the table has moved on.
//!
//! The table's own events name things by id. What those ids stood for is looked up as soon as the entry has applied, so
//! every node tells the same of it, whenever it is asked. Payloads, results and errors are not kept: they may be large,
//! and the task can be asked for.

use std::sync::Arc;

use triarch_table::records::task::{AttemptEnd, Class};
use triarch_table::types::state::{JobState, TaskState, WorkerState};
use triarch_table::{Event, JobId, Table, TaskId, Token, WorkerId};

/// Something that happened, as it is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Happened {
    /// A job came into being.
    JobSubmitted {
        job: JobId,
        name: Option<Arc<str>>,
        tasks: u32,
    },
    /// A task came into being in this state, or changed to it.
    TaskChanged {
        task: About,
        state: TaskState,
        /// The lease that began or ended with this change.
        lease: Option<Leased>,
    },
    /// A lease was granted.
    LeaseGranted { task: About, lease: Leased },
    /// A lease ended.
    LeaseEnded {
        task: About,
        lease: Leased,
        outcome: Option<Outcome>,
    },
    /// A job became terminal.
    JobFinished {
        job: JobId,
        name: Option<Arc<str>>,
        state: JobState,
    },
    /// A worker may take leases.
    WorkerRegistered {
        worker: WorkerId,
        name: Option<Arc<str>>,
    },
    /// A worker gets no new leases.
    WorkerDraining {
        worker: WorkerId,
        name: Option<Arc<str>>,
    },
    /// A worker was silent for too long.
    WorkerLost {
        worker: WorkerId,
        name: Option<Arc<str>>,
    },
    /// A worker said goodbye.
    WorkerLeft {
        worker: WorkerId,
        name: Option<Arc<str>>,
    },
    /// Settings of a queue were changed.
    QueueChanged { queue: Arc<str> },
    /// A schedule was put, deleted, paused or resumed.
    ScheduleChanged { schedule: Arc<str> },
    /// A tick of a schedule is over.
    ScheduleTicked {
        schedule: Arc<str>,
        tick_ms: u64,
        job: Option<JobId>,
    },
    /// A present worker is paused, quarantined, on probation or live again.
    WorkerChanged {
        worker: WorkerId,
        name: Option<Arc<str>>,
        state: WorkerState,
    },
    /// The whole table became that of a backup.
    Restored,
}

/// A task. What is `None` was forgotten in the very entry that it happened in.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    pub task: TaskId,
    pub job: Option<JobId>,
    pub class: Option<Arc<Class>>,
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leased {
    pub worker: WorkerId,
    pub token: Token,
    pub attempt: Option<u32>,
}

/// How an attempt ended, without the error it may have ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
    TimedOut,
    Lost,
    Returned,
    Cancelled,
}

impl Outcome {
    fn of(end: &AttemptEnd) -> Self {
        match end {
            AttemptEnd::Succeeded => Outcome::Succeeded,
            AttemptEnd::Failed { .. } => Outcome::Failed,
            AttemptEnd::TimedOut => Outcome::TimedOut,
            AttemptEnd::Lost | AttemptEnd::LeaseExpired => Outcome::Lost,
            AttemptEnd::Returned => Outcome::Returned,
            AttemptEnd::Cancelled => Outcome::Cancelled,
        }
    }
}

/// What the events of one entry are told as; `table` is as that entry left it.
pub fn told(table: &Table, events: &[Event]) -> Vec<Happened> {
    let before = std::iter::once(None).chain(events.iter().map(Some));
    let told = before.zip(events);
    told.map(|(before, event)| tell(table, before, event))
        .collect()
}

fn tell(table: &Table, before: Option<&Event>, event: &Event) -> Happened {
    match *event {
        Event::JobSubmitted { job } => {
            let found = table.job(job);
            Happened::JobSubmitted {
                job,
                name: found.map(|job| Arc::clone(&job.name)),
                tasks: found.map_or(0, |job| job.tasks),
            }
        }
        Event::TaskChanged { task, job, to } => Happened::TaskChanged {
            task: About {
                job: Some(job),
                ..about(table, task)
            },
            state: to,
            lease: before.and_then(|before| lease_of(table, task, before)),
        },
        Event::LeaseGranted {
            task,
            worker,
            token,
        } => Happened::LeaseGranted {
            task: about(table, task),
            lease: leased(table, task, worker, token),
        },
        Event::LeaseEnded {
            task,
            worker,
            token,
        } => Happened::LeaseEnded {
            task: about(table, task),
            lease: leased(table, task, worker, token),
            outcome: table.task(task).and_then(|task| {
                let attempts = task.history.iter().rev();
                let mut ended = attempts.filter(|attempt| attempt.token == token);
                ended.next().map(|attempt| Outcome::of(&attempt.end))
            }),
        },
        Event::JobFinished { job, state } => Happened::JobFinished {
            job,
            name: table.job(job).map(|job| Arc::clone(&job.name)),
            state,
        },
        Event::WorkerRegistered { worker } => Happened::WorkerRegistered {
            worker,
            name: name(table, worker),
        },
        Event::WorkerDraining { worker } => Happened::WorkerDraining {
            worker,
            name: name(table, worker),
        },
        Event::WorkerGone { worker, lost: true } => Happened::WorkerLost {
            worker,
            name: name(table, worker),
        },
        Event::WorkerGone {
            worker,
            lost: false,
        } => Happened::WorkerLeft {
            worker,
            name: name(table, worker),
        },
        Event::WorkerChanged { worker, to } => Happened::WorkerChanged {
            worker,
            name: name(table, worker),
            state: to,
        },
        Event::Restored => Happened::Restored,
        Event::QueueChanged { ref queue } => Happened::QueueChanged {
            queue: Arc::clone(queue),
        },
        Event::ScheduleChanged { ref name } => Happened::ScheduleChanged {
            schedule: Arc::clone(name),
        },
        Event::ScheduleTicked {
            ref name,
            tick_ms,
            job,
        } => Happened::ScheduleTicked {
            schedule: Arc::clone(name),
            tick_ms,
            job,
        },
    }
}

/// The lease that the event just before tells of, if it is one of this task: the table tells of a lease first and of the
/// change that it made next.
fn lease_of(table: &Table, changed: TaskId, before: &Event) -> Option<Leased> {
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
        } => (task == changed).then(|| leased(table, task, worker, token)),
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
        | Event::Restored => None,
    }
}

fn about(table: &Table, task: TaskId) -> About {
    let found = table.task(task);
    About {
        task,
        job: found.map(|task| task.job),
        class: found.map(|task| Arc::clone(&task.spec.class)),
    }
}

fn leased(table: &Table, task: TaskId, worker: WorkerId, token: Token) -> Leased {
    let attempt = table.task(task).and_then(|task| {
        let running = task.lease().filter(|lease| lease.token == token);
        let attempts = task.history.iter().rev();
        let mut ended = attempts.filter(|attempt| attempt.token == token);
        running
            .map(|lease| lease.attempt)
            .or_else(|| ended.next().map(|attempt| attempt.attempt))
    });
    Leased {
        worker,
        token,
        attempt,
    }
}

fn name(table: &Table, worker: WorkerId) -> Option<Arc<str>> {
    table.worker(worker).map(|worker| Arc::clone(&worker.name))
}
