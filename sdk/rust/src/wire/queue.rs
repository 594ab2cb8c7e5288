//! Queues as listed.

use serde::{Deserialize, Serialize};

/// A queue as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Tasks that wait for a worker.
    pub depth: u64,
    /// Tasks that wait for a time.
    pub delayed: u64,
    /// Tasks that are leased.
    pub running: u64,
    /// How long the oldest task has waited for a worker; `null` when none waits.
    #[serde(default)]
    pub oldest_ms: Option<u64>,
}

/// Answer to `GET /v1/queues`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueList {
    /// All of them, by name.
    pub queues: Vec<Queue>,
}
