//! Queues: what waits in them, and what can be set of them.

use serde::{Deserialize, Deserializer, Serialize};

/// A queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Tasks that wait for a worker.
    pub depth: u64,
    /// Tasks that wait for a time.
    pub delayed: u64,
    /// Tasks that wait for others of their job.
    #[serde(default)]
    pub waiting: u64,
    /// Tasks that are leased.
    pub running: u64,
    /// Dead letters: tasks that failed for good and are still kept.
    #[serde(default)]
    pub failed: u64,
    /// How long the oldest task that could start has waited for a worker; `null` when there is none.
    #[serde(default)]
    pub oldest_ms: Option<u64>,
    /// Nothing of it starts.
    #[serde(default)]
    pub paused: bool,
    /// Most tasks that run at once.
    #[serde(default)]
    pub max_running: Option<u32>,
    /// Most tasks that start in a second, over all workers.
    #[serde(default)]
    pub rate_per_s: Option<f64>,
    /// With a rate: most tasks that start at once after a quiet time.
    #[serde(default)]
    pub burst: Option<u32>,
    /// Most tasks that wait; beyond it submissions are refused.
    #[serde(default)]
    pub max_depth: Option<u64>,
    /// Its share of workers that other queues want too.
    #[serde(default = "one")]
    pub weight: u32,
    /// Which of several workers a task goes to.
    #[serde(default)]
    pub placement: Placement,
    /// How long its finished jobs are kept.
    #[serde(default)]
    pub retain_ms: Option<u64>,
    /// How many of its finished jobs are kept.
    #[serde(default)]
    pub retain_jobs: Option<u64>,
}

fn one() -> u32 {
    1
}

/// Which of several workers that could run a task gets it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// The one with the smallest part of its slots in use.
    #[default]
    Spread,
    /// The one with the greatest part of its slots in use that has room, so that others stay free.
    Pack,
}

impl Placement {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Placement::Spread => "spread",
            Placement::Pack => "pack",
        }
    }
}

/// Answer to `GET /v1/queues`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueList {
    /// All of them, by name.
    pub queues: Vec<Queue>,
}

/// Body of `PUT /v1/queues/{queue}`. A setting that is left out stays as it is; `null` takes a bound
/// away, and means nothing where there is none to take away.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    /// Nothing of it starts; what runs goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Most tasks that run at once.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub max_running: Option<Option<u32>>,
    /// Most tasks that start in a second, over all workers and masters; 0.001 to 1,000,000.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<f64>, minimum = 0.001, maximum = 1_000_000))]
    pub rate_per_s: Option<Option<f64>>,
    /// With a rate: most tasks that start at once after a quiet time; a tenth of a second's unless told, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub burst: Option<u32>,
    /// Most tasks that wait; beyond it submissions are refused with `429 queue_full`.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub max_depth: Option<Option<u64>>,
    /// Its share of workers that other queues want too; 1 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub weight: Option<u32>,
    /// Which of several workers a task goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How long its finished jobs are kept.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub retain_ms: Option<Option<u64>>,
    /// How many of its finished jobs are kept.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub retain_jobs: Option<Option<u64>>,
}

/// Tells a `null` that is there from a field that is not.
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
    /// Forgets the queue's dead letters, instead of cancelling what waits in it.
    #[serde(default)]
    pub dead_letters: bool,
}

/// Answer to a purge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Purged {
    /// Tasks that were cancelled.
    pub cancelled: u64,
    /// Finished jobs that were forgotten with all of their tasks.
    pub forgotten_jobs: u64,
}
