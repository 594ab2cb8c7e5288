//! Replies to commands, and reasons for refusals.

use serde::{Deserialize, Serialize};

use crate::types::ids::{JobId, TaskId, Token, WorkerId};

/// The table's deterministic answer to a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Reply to [`Command::SubmitJob`](crate::Command::SubmitJob). `duplicate` when an earlier request with the same
    /// key made the job.
    Submitted {
        /// The job, new or found by its key.
        job: JobId,
        /// Its tasks in the order submitted. Unfinished tasks of other jobs that replace duplicates are at the
        /// positions of those. If there are only such, no job was made and `job` is that of the first.
        tasks: Vec<TaskId>,
        /// Whether the job existed before. A request repeated under its own request id gets its first answer again.
        duplicate: bool,
    },
    /// Reply to [`Command::StagePart`](crate::Command::StagePart), while parts are missing.
    Staged {
        /// The numbers of the parts that have arrived.
        received: Vec<u32>,
        /// The number of parts.
        parts: u32,
    },
    /// Reply to [`Command::RegisterWorker`](crate::Command::RegisterWorker).
    Registered {
        /// Its new id.
        worker: WorkerId,
    },
    /// Reply to [`Command::Grant`](crate::Command::Grant): the leases granted, in the order proposed. Proposals that no
    /// longer held are absent.
    Granted {
        /// The leases to deliver to the workers.
        leases: Vec<Lease>,
    },
    /// Reply to [`Command::Report`](crate::Command::Report).
    Reported {
        /// One decision for each result, in order.
        decisions: Vec<ReportDecision>,
    },
    /// Reply to every command without an answer of its own.
    Done {
        /// The number of tasks that changed their state, or of jobs that were forgotten.
        tasks: u64,
    },
    /// The command was refused and changed nothing.
    Refused(Refusal),
    /// Reply to [`Command::PutSchedule`](crate::Command::PutSchedule).
    SchedulePut {
        /// Whether there was no schedule of this name before.
        created: bool,
    },
    /// Reply to [`Command::RestorePart`](crate::Command::RestorePart), while parts are missing.
    Restoring {
        /// The number of parts that have arrived.
        received: u32,
        /// The number of parts.
        parts: u32,
    },
    /// Reply to [`Command::RestorePart`](crate::Command::RestorePart), once the backup has replaced the table.
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
    /// The worker that holds it.
    pub worker: WorkerId,
    /// Its fencing token.
    pub token: Token,
    /// The number of the attempt, counted from 1.
    pub attempt: u32,
}

/// Decision on one reported result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportDecision {
    /// The result is the task's result, or was already, by this same token.
    Accepted,
    /// The token is not the task's current lease. The lease was lost, timed out, was returned, belongs to another
    /// worker, or is not remembered. The same holds if another attempt has finished the task since.
    StaleToken,
    /// This lease is over, and with it the task: another outcome was reported before, or the task was cancelled during
    /// it.
    AlreadyFinished,
    /// There is no such task, or not any more.
    NotFound,
}

/// Reason why a command was refused. A refused command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No such job.
    #[error("there is no job {0}; finished jobs are kept for a bounded time")]
    JobNotFound(JobId),
    /// No such task.
    #[error("there is no task {0}; finished tasks are kept for a bounded time")]
    TaskNotFound(TaskId),
    /// No such worker, or it was lost or has left.
    #[error("worker {0} is not registered (or was lost): register again")]
    UnknownWorker(WorkerId),
    /// The worker is draining.
    #[error("worker {0} is draining: it takes nothing more and leaves")]
    WorkerDraining(WorkerId),
    /// The idempotency key was used with another body.
    #[error("the idempotency key was used before with another body, by job {job}")]
    KeyConflict {
        /// The job made under the key.
        job: JobId,
    },
    /// The part, the number of parts, the name or the policy differs from an earlier request with the same key.
    #[error(
        "another part came before under key {key:?} that does not fit with this one: use a new key"
    )]
    PartConflict {
        /// The key.
        key: String,
    },
    /// A present worker has this name.
    #[error(
        "the name is in use by live worker {worker}; it is free again when that worker leaves or is lost"
    )]
    WorkerNameTaken {
        /// The worker that has it.
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
        /// The task that has it.
        task: TaskId,
    },
    /// A task cannot be retried while one that it comes after has ended without success.
    #[error(
        "task {task} comes after task {dependency}, which is {state}: retry that one, and this one follows"
    )]
    DependencyEnded {
        /// The task.
        task: TaskId,
        /// The task it comes after.
        dependency: TaskId,
        /// The state of that task.
        state: String,
    },
    /// A task that succeeded cannot be retried once others were promised its result.
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
        /// Final state of the job.
        state: String,
    },
    /// The queue has reached its maximum depth.
    #[error("queue {queue} holds {depth} tasks, its bound is {max_depth}: retry later")]
    QueueFull {
        /// The queue.
        queue: String,
        /// Unfinished tasks in it that do not run.
        depth: u64,
        /// Its maximum depth.
        max_depth: u64,
    },
    /// A bound of the table itself is reached.
    #[error("the table is at its bound of {bound} {what}: retry later")]
    TableFull {
        /// The resource that is at its bound.
        what: String,
        /// The bound.
        bound: u64,
    },
    /// The command breaks a validation rule that the edge should have enforced.
    #[error("{field}: {problem}")]
    Invalid {
        /// Path of the field, for instance `tasks[3].priority`.
        field: String,
        /// The problem with it.
        problem: String,
    },
    /// No such schedule.
    #[error("there is no schedule {0:?}")]
    ScheduleNotFound(String),
    /// The schedule is not the generation that the command was made for.
    #[error("schedule {0:?} was replaced after it was read: read it again and repeat the request")]
    ScheduleReplaced(String),
    /// The table is not empty, and a backup is restored only into an empty one.
    #[error(
        "this cluster holds {what}: a backup is restored into a new cluster, which holds nothing"
    )]
    NotEmpty {
        /// The records that it holds.
        what: String,
    },
    /// The table's time is not ahead of the time that it shall be set back to.
    #[error("the time of the table is not ahead: there is nothing to set back")]
    NotAhead,
    /// All parts have arrived, and do not make a table.
    #[error("the backup is damaged: {problem}")]
    BackupDamaged {
        /// The problem with it.
        problem: String,
    },
    /// A task cannot be retried while another one runs because of its end.
    #[error(
        "task {handler} started because task {task} had ended, and is {state}: wait for its end or cancel it, then retry"
    )]
    HandlerUnfinished {
        /// The task.
        task: TaskId,
        /// The other task.
        handler: TaskId,
        /// The state of the other task.
        state: String,
    },
    /// A task cannot be retried that is meant for another end of one that it comes after.
    #[error(
        "task {task} is meant for the failure of task {dependency}, which is {state}: it is not needed"
    )]
    NotNeeded {
        /// The task.
        task: TaskId,
        /// The task it comes after.
        dependency: TaskId,
        /// The state of that task.
        state: String,
    },
}
