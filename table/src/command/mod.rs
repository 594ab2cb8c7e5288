//! Log commands of the table, with their replies, events, validation and log format.
//!
//! Commands are log entries, which live until they are compacted. So variants and fields are only ever appended, under
//! a new codec version (see [`codec`]).

pub mod codec;
pub(crate) mod dependency;
pub mod event;
pub(crate) mod later_parts;
mod level_2;
pub mod reply;
pub(crate) mod validate;

pub use dependency::{AfterJob, Dependency, DependencyCondition};

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::ids::{JobId, TaskId, Token, WorkerId};
use crate::types::queue_options::{Placement, Rate};

/// The name of one mutating request, made by its first node or by the client. The table remembers the answer under it.
pub type RequestId = String;

/// One change to the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Creates a job with all of its tasks, or none.
    SubmitJob(SubmitJob),
    /// Cancels every unfinished task of a job.
    CancelJob {
        /// The job.
        job: JobId,
    },
    /// Cancels one task in any unfinished state.
    CancelTask {
        /// The task.
        task: TaskId,
    },
    /// Puts a terminal task back to `queued` with a fresh attempt budget.
    RetryTask {
        /// A terminal task.
        task: TaskId,
        /// Deduplicates a repeated request after an unknown outcome.
        request_id: Option<RequestId>,
    },
    /// Registers a worker: it gets an id and may take leases.
    RegisterWorker(RegisterWorker),
    /// The worker deregisters itself: its leases are returned at once and count neither as failures nor as losses.
    LeaveWorker {
        /// The worker that leaves.
        worker: WorkerId,
    },
    /// The worker gets no new leases.
    DrainWorker {
        /// The worker that drains.
        worker: WorkerId,
    },
    /// Proposed by the leader: these workers were silent for their whole TTL; their attempts are lost.
    LoseWorkers {
        /// The lost workers. Those that are gone already are skipped.
        workers: Vec<WorkerId>,
    },
    /// Proposed by the leader: leases by the scheduler's plan. Each is verified again; a grant that no longer holds is
    /// skipped.
    Grant {
        /// The grants, in the order in which they are tried.
        grants: Vec<Grant>,
    },
    /// Proposed by the leader: end exactly these leases. A token that is no longer current is skipped.
    EndLeases {
        /// The leases, each with its token and reason.
        leases: Vec<EndLease>,
    },
    /// A worker's results, each fenced by its token. Each is accepted or refused by its token alone; the report is
    /// never refused as a whole. A result counts if its token is the task's current lease and this worker holds it. So
    /// results of a worker that was lost, has left or was never known come back stale one by one.
    Report {
        /// The worker that reports.
        worker: WorkerId,
        /// The results, processed in order.
        results: Vec<TaskReport>,
    },
    /// Proposed by the leader: runs time-triggered changes that are due at the stamp, a bounded number per command.
    /// These changes end delays and back-offs, expire tasks, and delete jobs whose retention is over.
    AdvanceTime,
    /// Changes settings of a queue; the queue need not be in use.
    ChangeQueue {
        /// Its name.
        queue: String,
        /// The changes.
        change: QueueChange,
    },
    /// Creates a schedule, or replaces the one of this name.
    PutSchedule(PutSchedule),
    /// Forgets a schedule; the jobs it made are kept.
    DeleteSchedule {
        /// Its name.
        name: String,
    },
    /// Pauses a schedule: its ticks have no effect until it is resumed.
    PauseSchedule {
        /// Its name.
        name: String,
    },
    /// Lets a paused schedule tick again.
    ResumeSchedule {
        /// Its name.
        name: String,
        /// The generation that `next_tick_ms` was computed from.
        generation: u64,
        /// Its first tick from now on, in Unix ms.
        next_tick_ms: Option<u64>,
    },
    /// Makes one job of a schedule now, outside of its ticks.
    TriggerSchedule {
        /// Its name.
        name: String,
        /// Deduplicates a repeated request after an unknown outcome.
        request_id: Option<RequestId>,
    },
    /// Proposed by the leader: a schedule's next tick is due. Ignored unless it is exactly the tick that the schedule
    /// waits for.
    TickSchedule(TickSchedule),
    /// Pauses a worker: it keeps its running attempts and gets no new leases until it is resumed.
    PauseWorker {
        /// The worker.
        worker: WorkerId,
    },
    /// Resumes a worker: ends a pause or a quarantine.
    ResumeWorker {
        /// The worker.
        worker: WorkerId,
    },
    /// Cancels many tasks; those that have finished are skipped.
    CancelTasks {
        /// The tasks.
        tasks: Vec<TaskId>,
        /// Whether running tasks are cancelled; otherwise they are skipped too.
        include_running: bool,
    },
    /// Retries many tasks; those that cannot be retried are skipped.
    RetryTasks {
        /// The tasks.
        tasks: Vec<TaskId>,
    },
    /// Stages one part of a multipart job. The last part to arrive creates the job.
    StagePart(StagePart),
    /// Forgets many finished jobs with their tasks; others are skipped.
    ForgetJobs {
        /// The jobs.
        jobs: Vec<JobId>,
    },
    /// Stages one part of a backup. The last part to arrive replaces this table, which must hold nothing.
    RestorePart(RestorePart),
    /// Proposed by the leader, at the end of an entry: leases queued tasks to waiting workers. It follows the
    /// scheduler's own rules and the table as it is by then. So a task that this same entry submits, or makes ready, is
    /// leased in it, too, and needs no entry of its own.
    GrantNext {
        /// The workers that wait; demands of the same worker add up.
        demands: Vec<WorkerDemand>,
    },
    /// Sets the table's time back, after most of the masters' clocks were ahead once. Level 2 and above.
    SetTimeBack(SetTimeBack),
    /// As [`Command::RestorePart`], for a backup that may have parts of level 2. Clusters of level 1 have no such command.
    RestorePartOfLevel2(RestorePart),
}

/// New time of a table whose time is ahead. See [`Command::SetTimeBack`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetTimeBack {
    /// The new time, in Unix ms.
    pub to_ms: u64,
    /// The first tick after `to_ms` of every schedule that is not paused.
    pub ticks: Vec<NextTick>,
}

/// Next tick of a schedule. See [`SetTimeBack::ticks`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextTick {
    /// Name of the schedule.
    pub schedule: String,
    /// The generation that the tick was computed from.
    pub generation: u64,
    /// The tick, in Unix ms; `None` if there are no more.
    pub next_tick_ms: Option<u64>,
}

/// A worker that waits for tasks. See [`Command::GrantNext`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerDemand {
    /// The worker.
    pub worker: WorkerId,
    /// Maximum number of tasks that the worker wants. It never gets more than its free slots.
    pub wanted: u32,
    /// Whether its machine is overloaded: other workers are preferred.
    pub overloaded: bool,
}

/// One part of a backup. See [`Command::RestorePart`]. A part that arrived before may be sent again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestorePart {
    /// Identifies the backup; the same in every part.
    pub backup: String,
    /// The number of this part, from 1.
    pub part: u32,
    /// The number of parts.
    pub parts: u32,
    /// A piece of the bytes that [`Frozen::write`](crate::Frozen::write) wrote.
    pub bytes: Bytes,
}

/// Settings to change: `None` leaves one as it is, and an inner `None` removes the bound. See
/// [`QueueSettings`](crate::types::queue_options::QueueSettings).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueChange {
    /// Whether the queue is paused, so that no task of it starts.
    pub paused: Option<bool>,
    /// Maximum number of tasks that run at once.
    pub max_running: Option<Option<u32>>,
    /// Rate limit of task starts.
    pub rate: Option<Option<Rate>>,
    /// Maximum number of unfinished tasks that do not run.
    pub max_depth: Option<Option<u64>>,
    /// Weight of the queue where several queues compete for workers.
    pub weight: Option<u32>,
    /// Choice among several workers for a task.
    pub placement: Option<Placement>,
    /// Time for which finished jobs of the queue are kept, in ms.
    pub retain_ms: Option<Option<u64>>,
    /// Maximum number of finished jobs of the queue that are kept.
    pub retain_jobs: Option<Option<u64>>,
}

/// Beginning of the text that is in place of a cron expression where a schedule has an interval. The rest of it is never
/// parsed here. Clusters of level 1 have no such schedule.
pub const INTERVAL_PREFIX: &str = "@every ";

/// A schedule as it is put. See [`Command::PutSchedule`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutSchedule {
    /// Name of the schedule, which identifies it.
    pub name: String,
    /// Cron expression, or an interval after [`INTERVAL_PREFIX`]. It is parsed at the edge and by the leader, never here.
    pub cron: String,
    /// Name of the time zone; never parsed here, as `cron`.
    pub timezone: String,
    /// The job that each tick submits. It has no keys of its own, because each tick has its own.
    pub job: SubmitJob,
    /// Raw JSON text of the job, for display.
    pub job_text: Bytes,
    /// Whether a tick fires while the job of an earlier one is unfinished.
    pub overlap: Overlap,
    /// Handling of ticks whose time passed while no leader could act on them.
    pub catch_up: CatchUp,
    /// Whether the schedule is created paused.
    pub paused: bool,
    /// Its first tick from now on, in Unix ms. A schedule of the same times keeps the tick that it already waits for.
    pub next_tick_ms: Option<u64>,
}

/// Overlap policy: whether a tick fires while the job of an earlier one is unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Overlap {
    /// The tick makes its job all the same.
    #[default]
    Allow,
    /// The tick makes no job.
    Forbid,
}

/// Catch-up policy: handling of ticks whose time passed while no leader could act on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CatchUp {
    /// Missed ticks make no jobs.
    None,
    /// The last missed tick makes one job.
    #[default]
    One,
    /// Each missed tick makes a job, in order.
    All,
}

/// A due tick. See [`Command::TickSchedule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickSchedule {
    /// The schedule's name.
    pub name: String,
    /// The generation that the times were computed from.
    pub generation: u64,
    /// The tick, in Unix ms. It must be the one that the schedule waits for, and not in the future.
    pub tick_ms: u64,
    /// The next tick after it, in Unix ms.
    pub next_tick_ms: Option<u64>,
    /// The action of the tick.
    pub action: TickAction,
}

/// Action of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TickAction {
    /// Makes a job, unless an unfinished one forbids it.
    Fire,
    /// Skips this tick and those between it and `next_tick_ms`, because they are too late.
    Miss {
        /// The number of skipped ticks.
        ticks: u64,
    },
}

/// A job as submitted. See [`Command::SubmitJob`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubmitJob {
    /// Deduplicates this request: a retry after an unknown outcome gets the same answer.
    pub request_id: Option<RequestId>,
    /// The submitter's own key. The same key and body again is the same job; another body is a conflict.
    pub idempotency_key: Option<String>,
    /// Digest of the canonical request body, compared on a repeated key.
    pub body_digest: [u8; 32],
    /// Digests of the parts of a multipart job; else empty.
    pub part_digests: Vec<[u8; 32]>,
    /// Display name; may be empty.
    pub name: String,
    /// Effect of one failed task on the rest of the job.
    pub on_failure: OnFailure,
    /// Its tasks; at least one.
    pub tasks: Vec<NewTask>,
    /// Jobs that must end before any of its tasks may start. Travels after the command, see [`codec`].
    #[serde(skip)]
    pub after_jobs: Vec<AfterJob>,
}

/// One part of a multipart job. See [`Command::StagePart`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePart {
    /// The job's idempotency key, which its parts share.
    pub key: String,
    /// The number of this part, from 1.
    pub part: u32,
    /// The number of parts.
    pub parts: u32,
    /// Digest of the canonical request body.
    pub digest: [u8; 32],
    /// The job's name; the same in all parts.
    pub name: String,
    /// Effect of one failed task; the same in all parts.
    pub on_failure: OnFailure,
    /// The tasks of this part.
    pub tasks: Vec<NewTask>,
}

/// Failure policy of a job: the effect of one failed task on its other tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnFailure {
    /// The other tasks continue.
    #[default]
    Continue,
    /// The other unfinished tasks are cancelled.
    FailFast,
}

/// One task as submitted. Names are at most 200 bytes, `payload` is raw JSON text (checked at the edge).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewTask {
    /// The submitter's name for the task within its job; unique there when given.
    pub key: Option<String>,
    /// `exec` or a function name.
    pub kind: String,
    /// Raw JSON text, passed to the worker unchanged.
    pub payload: Bytes,
    /// Queue name; the queue is created at first use.
    pub queue: String,
    /// Priority, 0–9; higher first.
    pub priority: u8,
    /// Earliest start, in Unix ms; `None`: at once.
    pub not_before_ms: Option<u64>,
    /// Delay in ms, counted from the stamp of the entry. The later of the two earliest starts counts.
    pub delay_ms: u64,
    /// Time after its submission, in ms. A task not *started* by then ends as `expired`.
    pub expires_ms: Option<u64>,
    /// One attempt's time limit in ms, enforced by the worker.
    pub timeout_ms: Option<u64>,
    /// Attempts that failed or timed out before the task is dead-lettered; at least 1.
    pub max_attempts: u32,
    /// Attempts lost with their worker before the task is dead-lettered; at least 1.
    pub max_losses: u32,
    /// Wait between a failed attempt and the next.
    pub backoff: Backoff,
    /// Requirements on a worker.
    pub requires: Requires,
    /// Arbitrary words to filter by.
    pub tags: Vec<String>,
    /// Tasks of the same job that must end before this one starts, each as its condition says. It gets their results or
    /// errors as inputs.
    pub after: Vec<Dependency>,
    /// Unique key: at most one unfinished task of the whole table has it.
    pub unique: Option<Unique>,
    /// Concurrency key: a bounded number of tasks with this key run at once.
    pub concurrency: Option<Concurrency>,
}

/// Unique key of a task. See [`NewTask::unique`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// Compared over all queues and jobs.
    pub key: String,
    /// Policy for the case that an unfinished task has the key already.
    pub on_duplicate: OnDuplicate,
}

/// Policy for a task whose unique key is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnDuplicate {
    /// The whole submission is refused, naming the task that has the key.
    #[default]
    Refuse,
    /// The task that has the key replaces the submitted one: no new task is created.
    Return,
}

/// Concurrency key of a task. See [`NewTask::concurrency`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Concurrency {
    /// Compared over all queues and jobs.
    pub key: Arc<str>,
    /// Maximum number of tasks with this key that run at once; at least 1. The smallest limit among the key's ready and
    /// running tasks counts.
    pub limit: u32,
}

/// Exponential back-off in integers, so that every replica derives the same delay. The n-th retry waits `min(max_ms,
/// initial_ms * (factor_milli / 1000)^(n-1))`, then spread by `±jitter_permille`. The jitter is derived from the task
/// id and the attempt, never random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backoff {
    /// Delay before the first retry, in ms.
    pub initial_ms: u64,
    /// Factor between two delays, in thousandths; at least 1000.
    pub factor_milli: u32,
    /// Maximum delay, in ms.
    pub max_ms: u64,
    /// Random part of the delay, in thousandths; at most 1000.
    pub jitter_permille: u16,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial_ms: 1_000,
            factor_milli: 2_000,
            max_ms: 60_000,
            jitter_permille: 100,
        }
    }
}

/// Requirements of a task on its worker while it runs. A worker is never oversubscribed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Requires {
    /// Each label must be present with this value.
    pub labels: BTreeMap<String, String>,
    /// Each amount is reserved for the time of the attempt.
    pub resources: BTreeMap<String, u64>,
}

impl Requires {
    /// Returns the resources with an amount above 0.
    pub(crate) fn amounts(&self) -> impl Iterator<Item = (&String, u64)> {
        self.resources
            .iter()
            .map(|(name, &amount)| (name, amount))
            .filter(|&(_, amount)| amount > 0)
    }
}

/// A worker as it registers. See [`Command::RegisterWorker`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisterWorker {
    /// Deduplicates a repeated registration after an unknown outcome.
    pub request_id: Option<RequestId>,
    /// Name of the worker; unique among present workers.
    pub name: String,
    /// Queues from which the worker takes tasks; at least one.
    pub queues: Vec<String>,
    /// Kinds of tasks that the worker runs; at least one.
    pub kinds: Vec<String>,
    /// Maximum number of concurrent attempts; at least 1.
    pub slots: u32,
    /// Labels of the worker.
    pub labels: BTreeMap<String, String>,
    /// Resources of the worker.
    pub resources: BTreeMap<String, u64>,
}

/// One lease the scheduler proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// A queued task.
    pub task: TaskId,
    /// A live worker with room for it.
    pub worker: WorkerId,
}

/// A lease to end. See [`Command::EndLeases`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndLease {
    /// The task.
    pub task: TaskId,
    /// The lease to end; skipped unless it is the task's current one.
    pub token: Token,
    /// The reason.
    pub reason: EndReason,
}

/// Reason why a lease ended without a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// The worker is live but did not confirm the lease for its whole duration; counts as a loss.
    Expired,
    /// The lease never reached its worker, or the worker returned it unstarted; counts as nothing.
    Returned,
    /// The attempt outlived its `timeout_ms` and its worker did not report; counts as a failed attempt.
    TimedOut,
}

/// One result, fenced by its token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: TaskId,
    /// The lease under which it ran.
    pub token: Token,
    /// Outcome of the attempt.
    pub outcome: ReportedOutcome,
}

/// Outcome of an attempt as its worker reported it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ReportedOutcome {
    /// The attempt succeeded.
    Succeeded {
        /// Raw JSON text of the result.
        result: Bytes,
    },
    /// The attempt failed. `retryable: false` ends the task at once.
    Failed {
        /// Raw JSON text of the error object.
        error: Bytes,
        /// Whether another attempt could help.
        retryable: bool,
    },
    /// The worker returns the task unfinished, because it drains; counts as nothing.
    Returned,
    /// The attempt failed, and the task itself chose the delay before the next one. Clusters of level 1 have no such
    /// outcome.
    FailedRetryAfter {
        /// Raw JSON text of the error object.
        error: Bytes,
        /// Delay before the next attempt, in ms. It replaces the back-off, and gives no attempt more.
        retry_after_ms: u64,
    },
}
