//! Events: the changes that an apply made. They are the same on every replica; only the leader acts on them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::ids::{JobId, TaskId, Token, WorkerId};
use crate::types::state::{JobState, TaskState, WorkerState};

/// Something that became true while a command applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A job with its tasks came into being.
    JobSubmitted {
        /// The job.
        job: JobId,
    },
    /// A task came into being in this state, or changed to it: every change makes exactly one of these, in order.
    /// Where it ends a lease, `LeaseEnded` comes just before; where it finishes its job, `JobFinished` comes after.
    TaskChanged {
        /// The task.
        task: TaskId,
        /// Its job.
        job: JobId,
        /// The state it is in now.
        to: TaskState,
    },
    /// A lease was granted.
    LeaseGranted {
        /// The task.
        task: TaskId,
        /// Who holds or held it.
        worker: WorkerId,
        /// Its fencing token.
        token: Token,
    },
    /// A lease ended (reported, lost, returned, cancelled); the worker's slot is free.
    LeaseEnded {
        /// The task.
        task: TaskId,
        /// Who holds or held it.
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
    /// A worker may take leases.
    WorkerRegistered {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker gets no new leases.
    WorkerDraining {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker is gone, lost or by its own word.
    WorkerGone {
        /// The worker.
        worker: WorkerId,
        /// Lost, as against left.
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
    /// A tick of a schedule is over; it waits for its next one.
    ScheduleTicked {
        /// Its name.
        name: Arc<str>,
        /// When the tick was due, in Unix ms.
        tick_ms: u64,
        /// The job it made, if it made one; submitted just before.
        job: Option<JobId>,
    },
    /// A present worker is paused, quarantined, on probation or live again.
    WorkerChanged {
        /// The worker.
        worker: WorkerId,
        /// What it is now.
        to: WorkerState,
    },
    /// The whole table became that of a backup.
    Restored,
}
