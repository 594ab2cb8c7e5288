//! What happened in an apply. The same on every replica; only the leader acts on them.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, TaskId, Token, WorkerId};
use crate::model::{JobState, TaskState};

/// Something that became true while a command applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A job with its tasks came into being.
    JobSubmitted { job: JobId },
    /// A task changed its state; every change of state makes exactly one of these, in order.
    TaskChanged { task: TaskId, job: JobId, to: TaskState },
    /// A lease was granted.
    LeaseGranted { task: TaskId, worker: WorkerId, token: Token },
    /// A lease ended (reported, lost, returned, cancelled); the worker's slot is free.
    LeaseEnded { task: TaskId, worker: WorkerId, token: Token },
    /// A job reached a terminal state.
    JobFinished { job: JobId, state: JobState },
    /// A worker may take leases.
    WorkerRegistered { worker: WorkerId },
    /// A worker gets no new leases.
    WorkerDraining { worker: WorkerId },
    /// A worker is gone, lost or by its own word.
    WorkerGone { worker: WorkerId, lost: bool },
}
