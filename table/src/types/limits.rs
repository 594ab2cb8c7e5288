//! Bounds of the table. Everything in it is bounded. A command past a bound is refused, or old records are forgotten by
//! rule; nothing is dropped silently.
//!
//! Limits decide what apply does, so they are part of the replicated state and travel in snapshots. Replicas that start
//! empty must start with the same ones.

use serde::{Deserialize, Serialize};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const MIB: u64 = 1 << 20;

/// Bounds of the table. See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest name, key or word, in bytes.
    pub name_bytes_max: u32,
    /// Longest payload of one task, in bytes.
    pub payload_bytes_max: u32,
    /// Maximum number of tasks of one job.
    pub tasks_per_job_max: u32,
    /// Maximum number of dependencies between the tasks of one job.
    pub dependencies_per_job_max: u32,
    /// Maximum number of bytes of results that one task gets as inputs. A task with more fails when it would become
    /// ready.
    pub inputs_bytes_max: u64,
    /// Maximum number of parts of one multipart job.
    pub parts_per_job_max: u32,
    /// Maximum number of jobs of which some parts have arrived and others are missing.
    pub staged_jobs_max: u32,
    /// Maximum number of bytes of payloads of such jobs.
    pub staged_bytes_max: u64,
    /// Maximum time for which such a job waits for its next part, in ms.
    pub staged_age_ms: u64,
    /// Maximum number of labels, resources or tags of one task or worker.
    pub words_max: u32,
    /// Maximum number of queues or kinds one worker may name.
    pub subscriptions_max: u32,
    /// Maximum number of tasks in the table, finished ones that are still kept included.
    pub tasks_max: u64,
    /// Maximum number of bytes of payloads, results and errors at which a job is still accepted.
    pub bytes_max: u64,
    /// Maximum number of unfinished tasks in one queue that do not run.
    pub queue_depth_max: u64,
    /// Maximum number of queues that tasks name or that have settings of their own.
    pub queues_max: u64,
    /// Maximum number of different combinations of kind and requirements among the unfinished tasks of one queue. The
    /// scheduler looks at each of them, so they bound the cost of one plan.
    pub classes_per_queue_max: u32,
    /// Maximum number of present workers: those that are neither lost nor left.
    pub workers_max: u32,
    /// Maximum number of attempts remembered of one task; the oldest are forgotten first.
    pub attempts_kept_max: u32,
    /// Maximum number of tasks one `AdvanceTime` touches. A job that is forgotten or cancelled goes as a whole and may
    /// exceed it.
    pub advance_steps_max: u32,
    /// Maximum number of remembered request ids; the oldest are forgotten first.
    pub requests_max: u64,
    /// Time for which a request id is remembered, in ms.
    pub requests_age_ms: u64,
    /// Maximum number of idempotency keys remembered beyond the life of their job; the oldest are forgotten first.
    pub keys_max: u64,
    /// Time for which an idempotency key is remembered after its job is forgotten, in ms.
    pub keys_age_ms: u64,
    /// Maximum number of finished jobs kept.
    pub finished_jobs_max: u64,
    /// Maximum number of tasks of finished jobs kept.
    pub finished_tasks_max: u64,
    /// Maximum number of bytes of payloads, results and errors of finished jobs kept.
    pub finished_bytes_max: u64,
    /// Time for which a finished job is kept, in ms.
    pub finished_age_ms: u64,
    /// Maximum number of workers remembered after they were lost or left.
    pub gone_workers_max: u64,
    /// Time for which a worker is remembered after it was lost or left, in ms.
    pub gone_workers_age_ms: u64,
    /// Maximum number of schedules.
    pub schedules_max: u32,
    /// Maximum number of bytes of the jobs of all schedules together.
    pub schedules_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            name_bytes_max: 200,
            payload_bytes_max: MIB as u32,
            tasks_per_job_max: 100_000,
            dependencies_per_job_max: 1_000_000,
            inputs_bytes_max: 8 * MIB,
            parts_per_job_max: 1_000,
            staged_jobs_max: 100,
            staged_bytes_max: 512 * MIB,
            staged_age_ms: 10 * MINUTE_MS,
            words_max: 64,
            subscriptions_max: 10_000,
            tasks_max: 5_000_000,
            bytes_max: 4_096 * MIB,
            queue_depth_max: 2_000_000,
            queues_max: 100_000,
            classes_per_queue_max: 4_096,
            workers_max: 20_000,
            attempts_kept_max: 16,
            advance_steps_max: 4_096,
            requests_max: 1_000_000,
            requests_age_ms: 24 * HOUR_MS,
            keys_max: 1_000_000,
            keys_age_ms: 24 * HOUR_MS,
            finished_jobs_max: 100_000,
            finished_tasks_max: 1_000_000,
            finished_bytes_max: 1_024 * MIB,
            finished_age_ms: 24 * HOUR_MS,
            gone_workers_max: 10_000,
            gone_workers_age_ms: HOUR_MS,
            schedules_max: 10_000,
            schedules_bytes_max: 256 * MIB,
        }
    }
}
