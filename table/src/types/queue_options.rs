//! Queue options: the settings that users can change, with their defaults.

use serde::{Deserialize, Serialize};

/// Settings of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSettings {
    /// Whether the queue is paused: no task of it starts, and running tasks continue.
    pub paused: bool,
    /// Maximum number of tasks that run at once.
    pub max_running: Option<u32>,
    /// Rate limit of task starts, over all workers.
    pub rate: Option<Rate>,
    /// Maximum number of unfinished tasks that do not run; the table's own bound holds as well.
    pub max_depth: Option<u64>,
    /// Weight of the queue where several queues compete for workers; at least 1. Default: 1.
    pub weight: u32,
    /// Choice among several workers for a task.
    pub placement: Placement,
    /// Time for which finished jobs of the queue are kept, in ms. The table's own bound holds as well.
    pub retain_ms: Option<u64>,
    /// Maximum number of finished jobs of the queue that are kept. The table's own bound holds as well.
    pub retain_jobs: Option<u64>,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            paused: false,
            max_running: None,
            rate: None,
            max_depth: None,
            weight: 1,
            placement: Placement::Spread,
            retain_ms: None,
            retain_jobs: None,
        }
    }
}

/// Placement policy: which of several eligible workers gets a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Placement {
    /// The worker with the smallest part of its slots in use.
    #[default]
    Spread,
    /// The worker with the greatest part of its slots in use that still has room, so that others stay free.
    Pack,
}

/// A rate limit: starts per second, with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Thousandths of a start in one second; at least 1.
    pub per_s_milli: u64,
    /// Starts that may come at once after a pause; at least 1.
    pub burst: u32,
}

impl Rate {
    /// Returns the time from one start to the next, in ns.
    pub(crate) fn interval_ns(self) -> u64 {
        (1_000_000_000_000 / self.per_s_milli.max(1)).max(1)
    }
}

/// Converts the table's time from ms to ns.
pub(crate) fn ns(at_ms: u64) -> u64 {
    at_ms.saturating_mul(1_000_000)
}
