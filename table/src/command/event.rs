//! Events: the changes that an apply made. They are the same on every replica; only the leader acts on them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::ids::{JobId, TaskId, Token, WorkerId};
use crate::types::state::{JobState, TaskState, WorkerState};

/// A change that became true while a command applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A job was created with its tasks.
    JobSubmitted {
        /// The job.
        job: JobId,
    },
    /// A task was created in this state, or changed to it. Every change makes exactly one of these events, in order. If
    /// it ends a lease, `LeaseEnded` comes just before; if it finishes its job, `JobFinished` comes after.
    TaskChanged {
        /// The task.
        task: TaskId,
        /// Its job.
        job: JobId,
        /// Its new state.
        to: TaskState,
    },
    /// A lease was granted.
    LeaseGranted {
        /// The task.
        task: TaskId,
        /// The worker that holds it.
        worker: WorkerId,
        /// Its fencing token.
        token: Token,
    },
    /// A lease ended (reported, lost, returned, cancelled); the worker's slot is free.
    LeaseEnded {
        /// The task.
        task: TaskId,
        /// The worker that held it.
        worker: WorkerId,
        /// Its fencing token.
        token: Token,
    },
    /// A job reached a terminal state.
    JobFinished {
        /// The job.
        job: JobId,
        /// How it ended.
        state: JobState,
    },
    /// A worker registered; it may now take leases.
    WorkerRegistered {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker drains: it gets no new leases.
    WorkerDraining {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker is gone: it was lost, or it left.
    WorkerGone {
        /// The worker.
        worker: WorkerId,
        /// Whether it was lost; `false`: it left.
        lost: bool,
    },
    /// Settings of a queue were changed.
    QueueChanged {
        /// Its name.
        queue: Arc<str>,
    },
    /// A schedule was put, deleted, paused or resumed.
    ScheduleChanged {
        /// Its name.
        name: Arc<str>,
    },
    /// A tick of a schedule was handled; the schedule waits for its next one.
    ScheduleTicked {
        /// Its name.
        name: Arc<str>,
        /// Time at which the tick was due, in Unix ms.
        tick_ms: u64,
        /// The job that the tick made, if any; submitted just before.
        job: Option<JobId>,
    },
    /// A present worker is paused, quarantined, on probation or live again.
    WorkerChanged {
        /// The worker.
        worker: WorkerId,
        /// Its new state.
        to: WorkerState,
    },
    /// The whole table was replaced by that of a backup.
    Restored,
    /// The table's time was set back.
    TimeSetBack {
        /// The time before, in Unix ms.
        from_ms: u64,
        /// The time since, in Unix ms.
        to_ms: u64,
    },
}
