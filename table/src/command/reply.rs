//! Replies to commands, and reasons for refusals.

use serde::{Deserialize, Serialize};

use crate::types::ids::{JobId, TaskId, Token, WorkerId};

/// The table's answer to a command. Deterministic, like everything here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Command::SubmitJob`](crate::Command::SubmitJob). `duplicate` when an earlier request with the same key made the job.
    Submitted {
        /// The job, new or found by its key.
        job: JobId,
        /// Its tasks in the order submitted; among them, in their places, unfinished tasks of other jobs that stand in
        /// for duplicates. When there are only such, no job was made and `job` is that of the first.
        tasks: Vec<TaskId>,
        /// Whether the job was there before. A request repeated under its own request id gets its first answer again.
        duplicate: bool,
    },
    /// To [`Command::StagePart`](crate::Command::StagePart), while parts are missing.
    Staged {
        /// The numbers of those that have come.
        received: Vec<u32>,
        /// How many there are.
        parts: u32,
    },
    /// To [`Command::RegisterWorker`](crate::Command::RegisterWorker).
    Registered {
        /// Its id from now on.
        worker: WorkerId,
    },
    /// To [`Command::Grant`](crate::Command::Grant): the leases that came of it, in the order proposed; proposals that no longer held are absent.
    Granted {
        /// What the workers are to be told.
        leases: Vec<Lease>,
    },
    /// To [`Command::Report`](crate::Command::Report), one verdict per result in order.
    Reported {
        /// One for each result.
        verdicts: Vec<Verdict>,
    },
    /// To everything whose answer is only that it is done; the number of tasks it touched.
    Done {
        /// How many changes of state that were.
        tasks: u64,
    },
    /// The command was refused and changed nothing.
    Refused(Refusal),
    /// To [`Command::PutSchedule`](crate::Command::PutSchedule).
    SchedulePut {
        /// Whether there was none of this name before.
        created: bool,
    },
    /// To [`Command::RestorePart`](crate::Command::RestorePart), while parts are missing.
    Restoring {
        /// How many have come.
        received: u32,
        /// How many there are.
        parts: u32,
    },
    /// To [`Command::RestorePart`](crate::Command::RestorePart), once the backup is the table.
    Restored {
        /// Jobs in the table now.
        jobs: u64,
        /// Tasks in the table now.
        tasks: u64,
    },
}

/// The result of applying a command; a refusal has changed nothing.
pub(crate) type ApplyResult = Result<Reply, Refusal>;

/// A lease as granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The task.
    pub task: TaskId,
    /// Who holds it.
    pub worker: WorkerId,
    /// Its fencing token.
    pub token: Token,
    /// Counted from 1.
    pub attempt: u32,
}

/// What became of one reported result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is the task's result (or was already, by this same token).
    Accepted,
    /// The token is not the task's current lease: it was lost, timed out, was given back, belongs to another worker, or is
    /// not remembered. Also when another attempt has finished the task since.
    StaleToken,
    /// This lease is over, and with it the task: by another outcome reported before, or cancelled under it.
    AlreadyFinished,
    /// There is no such task (any more).
    NotFound,
}

/// Why a command was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No such job.
    #[error("there is no job {0}; finished jobs are kept for a bounded time")]
    JobNotFound(JobId),
    /// No such task.
    #[error("there is no task {0}; finished tasks are kept for a bounded time")]
    TaskNotFound(TaskId),
    /// No such worker, or it is lost or has left.
    #[error("worker {0} is not registered (or was lost): register again")]
    UnknownWorker(WorkerId),
    /// The worker is on its way out.
    #[error("worker {0} is draining: it takes nothing more and leaves")]
    WorkerDraining(WorkerId),
    /// The idempotency key was used with another body.
    #[error("the idempotency key was used before with another body, by job {job}")]
    KeyConflict {
        /// The job made under the key.
        job: JobId,
    },
    /// This part, or the number of parts, the name or the policy, is not what came under the key before.
    #[error(
        "another part came before under key {key:?} that does not fit with this one: use a new key"
    )]
    PartConflict {
        /// The key.
        key: String,
    },
    /// A live worker has this name.
    #[error(
        "the name is in use by live worker {worker}; it is free again when that worker leaves or is lost"
    )]
    WorkerNameTaken {
        /// Who has it.
        worker: WorkerId,
    },
    /// The task is terminal already (cancel), or not yet (retry).
    #[error("task {task} is {state}")]
    WrongState {
        /// The task.
        task: TaskId,
        /// The state it is in.
        state: String,
    },
    /// The task's unique key belongs to another unfinished task.
    #[error("unique key {key:?} belongs to task {task}, which is not finished")]
    UniqueKeyTaken {
        /// The key.
        key: String,
        /// Who has it.
        task: TaskId,
    },
    /// A task cannot be tried again while one that it comes after has ended without success.
    #[error(
        "task {task} comes after task {dependency}, which is {state}: retry that one, and this one follows"
    )]
    DependencyEnded {
        /// The task.
        task: TaskId,
        /// What it comes after.
        dependency: TaskId,
        /// How that ended.
        state: String,
    },
    /// A task that succeeded cannot be tried again once others were promised its result.
    #[error(
        "task {task} succeeded and other tasks of its job come after it: submit the job again instead"
    )]
    ResultPromised {
        /// The task.
        task: TaskId,
    },
    /// The job is terminal already.
    #[error("job {job} is {state} already")]
    JobFinished {
        /// The job.
        job: JobId,
        /// How it ended.
        state: String,
    },
    /// The queue is at its bound.
    #[error("queue {queue} holds {depth} tasks, its bound is {max_depth}: retry later")]
    QueueFull {
        /// The queue.
        queue: String,
        /// Unfinished tasks in it that do not run.
        depth: u64,
        /// Its bound.
        max_depth: u64,
    },
    /// A bound of the table itself is reached.
    #[error("the table is at its bound of {bound} {what}: retry later")]
    TableFull {
        /// What there is too much of.
        what: String,
        /// The bound.
        bound: u64,
    },
    /// The command breaks a rule of its shape that the edge should have refused.
    #[error("{field}: {problem}")]
    Invalid {
        /// Path of the field, for instance `tasks[3].priority`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such schedule.
    #[error("there is no schedule {0:?}")]
    ScheduleNotFound(String),
    /// The schedule is not the one that the command was made for.
    #[error("schedule {0:?} was replaced meanwhile: look at it and ask again")]
    ScheduleReplaced(String),
    /// A backup is restored only where there is nothing yet.
    #[error(
        "this cluster holds {what}: a backup is restored into a new cluster, which holds nothing"
    )]
    NotEmpty {
        /// What it holds.
        what: String,
    },
    /// All parts have come, and do not make a table.
    #[error("the backup is damaged: {problem}")]
    BackupDamaged {
        /// What is wrong with it.
        problem: String,
    },
}
