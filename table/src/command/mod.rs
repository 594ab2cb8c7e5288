//! Log commands of the table, with their replies, events, validation and log format.
//!
//! Commands are log entries: they live until they are compacted, so variants and fields are only ever appended, under a
//! new codec version (see [`codec`]).

pub mod codec;
pub mod event;
pub mod reply;
pub(crate) mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::ids::{JobId, TaskId, Token, WorkerId};
use crate::types::queue_options::{Placement, Rate};

/// A key made by the first node (or the client) for one mutating request; the table remembers its answer.
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
    /// Cancels one task, whatever its unfinished state.
    CancelTask {
        /// The task.
        task: TaskId,
    },
    /// Puts a terminal task back to `queued` with a fresh attempt budget.
    RetryTask {
        /// A terminal task.
        task: TaskId,
        /// For a repeated request after an unknown outcome.
        request_id: Option<RequestId>,
    },
    /// Makes a worker known; it gets an id and may take leases.
    RegisterWorker(RegisterWorker),
    /// The worker says goodbye: its leases go back at once and count neither as failures nor as losses.
    LeaveWorker {
        /// Who leaves.
        worker: WorkerId,
    },
    /// The worker gets no new leases.
    DrainWorker {
        /// Who drains.
        worker: WorkerId,
    },
    /// Proposed by the leader: these workers were silent for their whole TTL; their attempts are lost.
    LoseWorkers {
        /// Those that are gone already are skipped.
        workers: Vec<WorkerId>,
    },
    /// Proposed by the leader: leases by the scheduler's plan. Each is verified again; one that no longer holds is skipped.
    Grant {
        /// In the order in which they are tried.
        grants: Vec<Grant>,
    },
    /// Proposed by the leader: end exactly these leases. A token that is no longer current is skipped.
    EndLeases {
        /// Each with its token and reason.
        leases: Vec<EndLease>,
    },
    /// A worker's results, each fenced by its token. Judged by token alone, never refused as a whole: a result counts
    /// if its token is the task's current lease and this worker holds it, so results of a worker that was lost, has left
    /// or was never known come back stale one by one.
    Report {
        /// Who reports.
        worker: WorkerId,
        /// Judged in order.
        results: Vec<TaskReport>,
    },
    /// Proposed by the leader: let time-triggered changes up to the stamp happen, a bounded number per command
    /// (delays and back-offs that are over, tasks that expire, retention).
    AdvanceTime,
    /// Changes settings of a queue; it need not be in use.
    ChangeQueue {
        /// Its name.
        queue: String,
        /// What to change.
        change: QueueChange,
    },
    /// Makes a schedule, or takes the place of the one of this name.
    PutSchedule(PutSchedule),
    /// Forgets a schedule; the jobs it made are none of its business.
    DeleteSchedule {
        /// Its name.
        name: String,
    },
    /// The ticks of a schedule pass by until it is resumed.
    PauseSchedule {
        /// Its name.
        name: String,
    },
    /// Lets a paused schedule tick again.
    ResumeSchedule {
        /// Its name.
        name: String,
        /// The one that `next_tick_ms` was worked out from.
        generation: u64,
        /// Its first tick from now on.
        next_tick_ms: Option<u64>,
    },
    /// Makes one job of a schedule now, outside of its ticks.
    TriggerSchedule {
        /// Its name.
        name: String,
        /// For a repeated request after an unknown outcome.
        request_id: Option<RequestId>,
    },
    /// Proposed by the leader: a schedule's next tick is due. Ignored unless it is the very tick that is waited for.
    TickSchedule(TickSchedule),
    /// The worker keeps what it runs and gets nothing more, until it is resumed.
    PauseWorker {
        /// Who.
        worker: WorkerId,
    },
    /// The worker gets work again: ends a pause or a quarantine.
    ResumeWorker {
        /// Who.
        worker: WorkerId,
    },
    /// Cancels many tasks; those that have finished are skipped.
    CancelTasks {
        /// Which.
        tasks: Vec<TaskId>,
        /// Whether those that run are cancelled, or skipped too.
        include_running: bool,
    },
    /// Retries many tasks; those that cannot be retried are skipped.
    RetryTasks {
        /// Which.
        tasks: Vec<TaskId>,
    },
    /// Takes in one part of a large job; the last one to come makes it.
    StagePart(StagePart),
    /// Forgets many finished jobs with their tasks; others are skipped.
    ForgetJobs {
        /// Which.
        jobs: Vec<JobId>,
    },
    /// Takes in one part of a backup; the last one to come replaces this table, which must hold nothing.
    RestorePart(RestorePart),
    /// Proposed by the leader, at the end of an entry: whatever of the queued tasks these workers wait for is leased to
    /// them, by the scheduler's own rules and the table as it is by then. So a task that this very entry submits, or lets
    /// begin, is leased in it, too, and need not wait for an entry of its own.
    GrantNext {
        /// Who waits; what the same worker asks for adds up.
        demands: Vec<WorkerDemand>,
    },
}

/// A worker that waits for tasks. See [`Command::GrantNext`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerDemand {
    /// Who.
    pub worker: WorkerId,
    /// For how many at most; it never gets more than it has free slots.
    pub wanted: u32,
    /// Whether its machine has more to do than it can: others come first.
    pub overloaded: bool,
}

/// See [`Command::RestorePart`]. A part that came before may come again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestorePart {
    /// What tells this backup from others, the same with every part.
    pub backup: String,
    /// Which part, from 1.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// A piece of what [`Frozen::write`](crate::Frozen::write) wrote.
    pub bytes: Bytes,
}

/// Settings to change; `None` leaves one as it is, and an inner `None` takes the bound away. See
/// [`QueueSettings`](crate::types::queue_options::QueueSettings).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueChange {
    /// Nothing of it starts.
    pub paused: Option<bool>,
    /// Most tasks that run at once.
    pub max_running: Option<Option<u32>>,
    /// Starts in a time.
    pub rate: Option<Option<Rate>>,
    /// Most unfinished tasks that do not run.
    pub max_depth: Option<Option<u64>>,
    /// Its share.
    pub weight: Option<u32>,
    /// Which of several workers.
    pub placement: Option<Placement>,
    /// How long its finished jobs are kept.
    pub retain_ms: Option<Option<u64>>,
    /// How many of its finished jobs are kept.
    pub retain_jobs: Option<Option<u64>>,
}

/// See [`Command::PutSchedule`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutSchedule {
    /// What it is known by.
    pub name: String,
    /// When, in cron's words; understood at the edge and by the leader, never here.
    pub cron: String,
    /// The time zone's name; as `cron`.
    pub timezone: String,
    /// What each tick submits. Its keys are left out: each tick has its own.
    pub job: SubmitJob,
    /// Raw JSON text of the job, to be shown.
    pub job_text: Bytes,
    /// What a tick does that finds the job of an earlier one unfinished.
    pub overlap: Overlap,
    /// What becomes of ticks whose time passed while nobody could act on them.
    pub catch_up: CatchUp,
    /// Whether it begins paused.
    pub paused: bool,
    /// Its first tick from now on. The one that a schedule of the same times waits for already stays.
    pub next_tick_ms: Option<u64>,
}

/// What a tick does that finds the job of an earlier one unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Overlap {
    /// It makes its job all the same.
    #[default]
    Allow,
    /// It makes none.
    Forbid,
}

/// What becomes of ticks whose time passed while nobody could act on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CatchUp {
    /// They make no jobs.
    None,
    /// The last of them makes one.
    #[default]
    One,
    /// Each makes its own, in order.
    All,
}

/// See [`Command::TickSchedule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickSchedule {
    /// The schedule's name.
    pub name: String,
    /// The one that the times were worked out from.
    pub generation: u64,
    /// The tick, in Unix ms: the one that the schedule waits for, and not in the future.
    pub tick_ms: u64,
    /// What it waits for after that.
    pub next_tick_ms: Option<u64>,
    /// What the tick does.
    pub action: TickAction,
}

/// What a tick does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TickAction {
    /// It makes a job, unless an unfinished one forbids it.
    Fire,
    /// It is too late, as are those between it and `next_tick_ms`.
    Miss {
        /// How many ticks that are.
        ticks: u64,
    },
}

/// See [`Command::SubmitJob`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubmitJob {
    /// Remembers the answer to exactly this request, for retries after an unknown outcome.
    pub request_id: Option<RequestId>,
    /// The submitter's own key: the same key and body again is the same job; another body is a conflict.
    pub idempotency_key: Option<String>,
    /// Digest of the canonical request body, compared on a repeated key.
    pub body_digest: [u8; 32],
    /// Of a job that came in parts: theirs; else empty.
    pub part_digests: Vec<[u8; 32]>,
    /// Human name; may be empty.
    pub name: String,
    /// What one failed task means for the rest of the job.
    pub on_failure: OnFailure,
    /// At least one.
    pub tasks: Vec<NewTask>,
}

/// See [`Command::StagePart`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePart {
    /// The job's idempotency key, which its parts share.
    pub key: String,
    /// Which part, from 1.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// Digest of the canonical request body.
    pub digest: [u8; 32],
    /// The job's name; the same in all parts.
    pub name: String,
    /// The same in all parts.
    pub on_failure: OnFailure,
    /// The tasks of this part.
    pub tasks: Vec<NewTask>,
}

/// What one failed task means for the other tasks of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnFailure {
    /// The others go on.
    #[default]
    Continue,
    /// The others that are unfinished are cancelled.
    FailFast,
}

/// One task as submitted. Names are at most 200 bytes, `payload` is raw JSON text (checked at the edge).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewTask {
    /// The submitter's name for the task within its job; unique there when given.
    pub key: Option<String>,
    /// `exec` or a function name.
    pub kind: String,
    /// Raw JSON text, handed to the worker as it came.
    pub payload: Bytes,
    /// Queue name; comes into being at first use.
    pub queue: String,
    /// 0–9, higher first.
    pub priority: u8,
    /// Not before this Unix time in ms; `None`: at once.
    pub not_before_ms: Option<u64>,
    /// `delay_ms`, counted from the stamp of the entry; the later of the two wins.
    pub delay_ms: u64,
    /// A task not *started* this long after its submission ends as `expired`.
    pub expires_ms: Option<u64>,
    /// One attempt's time limit, enforced by the worker.
    pub timeout_ms: Option<u64>,
    /// Attempts that failed or timed out before the task is dead-lettered; at least 1.
    pub max_attempts: u32,
    /// Attempts lost with their worker before the task is dead-lettered; at least 1.
    pub max_losses: u32,
    /// Wait between a failed attempt and the next.
    pub backoff: Backoff,
    /// What a worker must have.
    pub requires: Requires,
    /// Free words for filtering.
    pub tags: Vec<String>,
    /// Keys of tasks of the same job that must succeed before this one starts; it is given their results.
    pub after: Vec<String>,
    /// At most one unfinished task of the whole table has this key.
    pub unique: Option<Unique>,
    /// At most so many tasks with this key run at once.
    pub concurrency: Option<Concurrency>,
}

/// See [`NewTask::unique`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// Compared over all queues and jobs.
    pub key: String,
    /// What happens when an unfinished task has it already.
    pub on_duplicate: OnDuplicate,
}

/// What happens to a task whose unique key is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnDuplicate {
    /// The whole submission is refused, naming the task that has the key.
    #[default]
    Refuse,
    /// The task that has the key stands in its place: nothing new is made.
    Return,
}

/// See [`NewTask::concurrency`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Concurrency {
    /// Compared over all queues and jobs.
    pub key: Arc<str>,
    /// At least 1. The smallest among the key's tasks that are ready or running counts.
    pub limit: u32,
}

/// Exponential back-off in integers, so that every replica derives the same delay: the n-th retry waits
/// `min(max_ms, initial_ms * (factor_milli / 1000)^(n-1))`, then spread by `±jitter_permille`, derived from the
/// task id and attempt (never rolled).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backoff {
    /// First wait in ms.
    pub initial_ms: u64,
    /// Growth per retry in thousandths; at least 1000.
    pub factor_milli: u32,
    /// Longest wait in ms.
    pub max_ms: u64,
    /// Spread in thousandths of the wait; at most 1000.
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

/// What a task takes of a worker while it runs. A worker is never oversubscribed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Requires {
    /// Each label must be present with this value.
    pub labels: BTreeMap<String, String>,
    /// Each amount is taken for the time of the attempt.
    pub resources: BTreeMap<String, u64>,
}

impl Requires {
    /// The resources of which it takes something.
    pub(crate) fn amounts(&self) -> impl Iterator<Item = (&String, u64)> {
        self.resources
            .iter()
            .map(|(name, &amount)| (name, amount))
            .filter(|&(_, amount)| amount > 0)
    }
}

/// See [`Command::RegisterWorker`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisterWorker {
    /// For a repeated registration after an unknown outcome.
    pub request_id: Option<RequestId>,
    /// Unique among live workers.
    pub name: String,
    /// Queues it takes from; at least one.
    pub queues: Vec<String>,
    /// Kinds it can run; at least one.
    pub kinds: Vec<String>,
    /// Attempts at once; at least 1.
    pub slots: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its resources.
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

/// See [`Command::EndLeases`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndLease {
    /// The task.
    pub task: TaskId,
    /// The lease to end; skipped unless it is the task's current one.
    pub token: Token,
    /// Why.
    pub reason: EndReason,
}

/// Why a lease ended without a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// The worker lives but did not confirm the lease for its whole time; counts as a loss.
    Expired,
    /// The lease never reached its worker, or the worker handed it back unstarted; counts as nothing.
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
    /// How it ended.
    pub outcome: ReportedOutcome,
}

/// How an attempt ended by its worker's word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ReportedOutcome {
    /// Raw JSON text of the result.
    Succeeded {
        /// Raw JSON text.
        result: Bytes,
    },
    /// Raw JSON text of the error object. `retryable: false` ends the task at once.
    Failed {
        /// Raw JSON text.
        error: Bytes,
        /// Whether another attempt could help.
        retryable: bool,
    },
    /// The worker hands the task back unfinished (draining); counts as nothing.
    Returned,
}
