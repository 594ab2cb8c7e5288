//! Queues: their numbers of tasks, and their settings.

use serde::{Deserialize, Deserializer, Serialize};

use super::number;

/// One queue with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Queue {
    /// Name of the queue.
    pub name: String,
    /// Number of queued tasks, which wait for a worker.
    pub depth: u64,
    /// Number of delayed tasks, which wait for a time.
    pub delayed: u64,
    /// Number of waiting tasks, which wait for other tasks of their job.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub waiting: u64,
    /// Number of running tasks.
    pub running: u64,
    /// Number of dead letters: failed tasks that are still kept.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub failed: u64,
    /// Time in ms that the oldest task ready to start has waited for a worker; `null` if there is none.
    #[serde(default)]
    pub oldest_ms: Option<u64>,
    /// Whether the queue is paused, so that no task of it starts.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub paused: bool,
    /// Maximum concurrent tasks.
    #[serde(default)]
    pub max_running: Option<u32>,
    /// Maximum tasks started per second, over all workers.
    #[serde(default)]
    pub rate_per_s: Option<f64>,
    /// Maximum tasks started at once after an idle time, if the queue has a rate.
    #[serde(default)]
    pub burst: Option<u32>,
    /// Maximum unfinished tasks that are not running; submissions beyond it are refused.
    #[serde(default)]
    pub max_depth: Option<u64>,
    /// Weight of the queue where several queues compete for workers.
    #[serde(default = "one")]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub weight: u32,
    /// Choice among several workers that could run a task.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub placement: Placement,
    /// Time in ms for which finished jobs are kept.
    #[serde(default)]
    pub retain_ms: Option<u64>,
    /// Maximum number of finished jobs that are kept.
    #[serde(default)]
    pub retain_jobs: Option<u64>,
}

fn one() -> u32 {
    1
}

/// Choice among several workers that could run a task: `spread` takes the one with the smallest part of its slots in
/// use, `pack` the one with the greatest part that has a free slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// The worker with the smallest part of its slots in use.
    #[default]
    Spread,
    /// The worker with the greatest part of its slots in use that has a free one, so that other workers stay free.
    Pack,
}

impl Placement {
    /// All values.
    pub const ALL: [Placement; 2] = [Placement::Spread, Placement::Pack];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Placement::Spread => "spread",
            Placement::Pack => "pack",
        }
    }
}

/// Response of `GET /v1/queues`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueList {
    /// One page of queues, ordered by name.
    pub queues: Vec<Queue>,
    /// Where the next page starts; `null` on the last.
    #[serde(default)]
    pub next: Option<String>,
}

/// Body of `PUT /v1/queues/{queue}`. Omitted settings stay as they are. `null` removes a bound, and has no effect on a
/// setting that is not a bound.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    /// Whether the queue is paused: no task of it starts, running attempts continue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Maximum concurrent tasks.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub max_running: Option<Option<u32>>,
    /// Maximum tasks started per second, over all workers; 0.001 to 1,000,000.
    #[serde(
        default,
        deserialize_with = "given",
        serialize_with = "number::finite_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<f64>, minimum = 0.001, maximum = 1_000_000))]
    pub rate_per_s: Option<Option<f64>>,
    /// Maximum tasks started at once after an idle time, if the queue has a rate. Default: a tenth of the rate, at
    /// least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub burst: Option<u32>,
    /// Maximum unfinished tasks that are not running; submissions beyond it are refused with `429 queue_full`.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub max_depth: Option<Option<u64>>,
    /// Weight of the queue where several queues compete for workers; 1 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub weight: Option<u32>,
    /// Choice among several workers that could run a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Time in ms for which finished jobs are kept.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub retain_ms: Option<Option<u64>>,
    /// Maximum number of finished jobs that are kept.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub retain_jobs: Option<Option<u64>>,
}

/// Distinguishes a field that is `null` from one that is absent.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Body of `POST /v1/queues/{queue}/purge`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Purge {
    /// Whether to delete the queue's dead letters with their jobs, instead of cancelling the tasks that are not
    /// running.
    #[serde(default)]
    pub dead_letters: bool,
    /// Whether to change nothing, and only count what would be changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Response to a purge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Purged {
    /// Number of tasks cancelled, or with `dry_run` those that would be.
    pub cancelled: u64,
    /// Number of finished jobs deleted, or with `dry_run` those that would be, with all of their tasks.
    pub forgotten_jobs: u64,
}
