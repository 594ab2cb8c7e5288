//! Options of a queue: what users can set, with the defaults.

use serde::{Deserialize, Serialize};

/// What can be set of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSettings {
    /// Nothing of it starts; what runs goes on.
    pub paused: bool,
    /// Most tasks that run at once.
    pub max_running: Option<u32>,
    /// How many tasks may start in a time, over all workers.
    pub rate: Option<Rate>,
    /// Most unfinished tasks that do not run; the table's own bound holds as well.
    pub max_depth: Option<u64>,
    /// Its share of workers that other queues want too; at least 1.
    pub weight: u32,
    /// Which of several workers a task goes to.
    pub placement: Placement,
    /// How long its finished jobs are kept; the table's own bound holds as well.
    pub retain_ms: Option<u64>,
    /// How many of its finished jobs are kept; the table's own bound holds as well.
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

/// Which of several workers that could run a task gets it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Placement {
    /// The one with the smallest part of its slots in use.
    #[default]
    Spread,
    /// The one with the greatest part of its slots in use that still has room, so that others stay free.
    Pack,
}

/// So many starts in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Thousandths of a start in one second; at least 1.
    pub per_s_milli: u64,
    /// Starts that may come at once after a pause; at least 1.
    pub burst: u32,
}

impl Rate {
    /// From one start to the next.
    pub(crate) fn interval_ns(self) -> u64 {
        (1_000_000_000_000 / self.per_s_milli.max(1)).max(1)
    }
}

/// The table's time in ns.
pub(crate) fn ns(at_ms: u64) -> u64 {
    at_ms.saturating_mul(1_000_000)
}
