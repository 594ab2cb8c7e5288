//! States of tasks, jobs and workers, as readers see them.

use serde::{Deserialize, Serialize};

/// Lifecycle state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskState {
    /// The task waits for other tasks of its job.
    Waiting,
    /// The task waits for a time: a delay or a retry's back-off.
    Delayed,
    /// The task waits for a worker.
    Queued,
    /// Leased to a worker.
    Running,
    /// Terminal: its one result is accepted.
    Succeeded,
    /// Terminal: its attempts are used up (a dead letter).
    Failed,
    /// Terminal: cancelled by a user, or by its job's policy.
    Cancelled,
    /// Terminal: not started in time.
    Expired,
}

impl TaskState {
    /// All states in the order of a task's life.
    pub const ALL: [TaskState; 8] = [
        TaskState::Waiting,
        TaskState::Delayed,
        TaskState::Queued,
        TaskState::Running,
        TaskState::Succeeded,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::Expired,
    ];

    /// Returns the word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Waiting => "waiting",
            TaskState::Delayed => "delayed",
            TaskState::Queued => "queued",
            TaskState::Running => "running",
            TaskState::Succeeded => "succeeded",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
            TaskState::Expired => "expired",
        }
    }

    /// Returns whether only a manual retry can still change it.
    pub fn is_terminal(self) -> bool {
        match self {
            TaskState::Waiting | TaskState::Delayed | TaskState::Queued | TaskState::Running => {
                false
            }
            TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Expired => true,
        }
    }
}

/// Lifecycle state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// At least one task is not terminal.
    Running,
    /// Every task succeeded.
    Succeeded,
    /// Every task is terminal, and at least one failed or expired.
    Failed,
    /// Every task is terminal, none failed or expired, at least one was cancelled.
    Cancelled,
}

impl JobState {
    /// Returns the word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Returns whether only a retry of one of its tasks can still change it.
    pub fn is_terminal(self) -> bool {
        self != JobState::Running
    }
}

/// Lifecycle state of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WorkerState {
    /// The worker may get leases.
    Live,
    /// The worker finishes its leases, gets no new ones, and leaves.
    Draining,
    /// The worker was silent for its whole TTL. It is kept for a while, so that its late reports get a clear answer.
    Lost,
    /// The worker deregistered itself.
    Left,
    /// Paused by a user: it keeps its leases and gets no new ones until it is resumed.
    Paused,
    /// Set aside for a while, because many tasks failed on it that others succeeded with: it gets no new leases.
    Quarantined,
    /// After a quarantine: it gets one task at a time, until one succeeds.
    Probation,
}

impl WorkerState {
    /// All states in the order of a worker's life.
    pub const ALL: [WorkerState; 7] = [
        WorkerState::Live,
        WorkerState::Paused,
        WorkerState::Quarantined,
        WorkerState::Probation,
        WorkerState::Draining,
        WorkerState::Lost,
        WorkerState::Left,
    ];

    /// Returns whether it is present: it sends heartbeats and may hold leases.
    pub fn is_present(self) -> bool {
        match self {
            WorkerState::Live
            | WorkerState::Paused
            | WorkerState::Quarantined
            | WorkerState::Probation
            | WorkerState::Draining => true,
            WorkerState::Lost | WorkerState::Left => false,
        }
    }

    /// Returns the word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Live => "live",
            WorkerState::Draining => "draining",
            WorkerState::Lost => "lost",
            WorkerState::Left => "left",
            WorkerState::Paused => "paused",
            WorkerState::Quarantined => "quarantined",
            WorkerState::Probation => "probation",
        }
    }
}
