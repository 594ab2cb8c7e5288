//! States of tasks, jobs and workers, as readers see them.

use serde::{Deserialize, Serialize};

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskState {
    /// For other tasks of its job.
    Waiting,
    /// Until a time: a delay or a retry's back-off.
    Delayed,
    /// For a worker.
    Queued,
    /// Leased to a worker.
    Running,
    /// Terminal: its one result is accepted.
    Succeeded,
    /// Terminal: its attempts are used up (a dead letter).
    Failed,
    /// Terminal: by a user's word, or by its job's policy.
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

    /// The word used in the API.
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

    /// Whether nothing but a retry by hand changes it any more.
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

/// Where a job is in its life.
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
    /// The word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing but a retry of one of its tasks changes it any more.
    pub fn is_terminal(self) -> bool {
        self != JobState::Running
    }
}

/// Whether a worker is to be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WorkerState {
    /// It takes leases.
    Live,
    /// It finishes what it has, and leaves.
    Draining,
    /// It was silent for its whole TTL. Kept for a while, so that its late reports meet a clear answer.
    Lost,
    /// It said goodbye.
    Left,
    /// A user has set it aside: it keeps what it has and gets nothing more until it is resumed.
    Paused,
    /// Many tasks failed on it that others succeeded with: it gets nothing for a while.
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

    /// Whether it is there: it sends heartbeats and may hold leases.
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

    /// The word used in the API.
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
