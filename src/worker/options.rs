//! Options of a command worker.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cgroup::TaskLimits;

/// Options of a worker, validated by the command line.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Base URLs of the masters; one that answers is enough.
    pub masters: Vec<String>,
    /// Name of the worker as shown to users. Default: the host's name and the process id.
    pub name: Option<String>,
    /// Queues to take tasks from; never empty.
    pub queues: Vec<String>,
    /// Number of attempts that run at once; never 0.
    pub slots: u32,
    /// Labels that a task's `requires.labels` is matched against.
    pub labels: BTreeMap<String, String>,
    /// Resources that a task's `requires.resources` is taken from.
    pub resources: BTreeMap<String, u64>,
    /// Time that running attempts have to finish at shutdown before they are returned to their queues.
    pub shutdown_timeout: Duration,
    /// Variables of the worker's environment that tasks get in addition to the usual ones; `*` stands for all.
    pub pass_env: Vec<String>,
    /// User that tasks run as, if not the worker's.
    pub run_as: Option<String>,
    /// Limits on each task.
    pub task_limits: TaskLimits,
}
