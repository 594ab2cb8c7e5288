//! Options of a command worker.

use std::collections::BTreeMap;
use std::time::Duration;

/// Options of a worker, validated by the command line.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Base URLs of the masters; one that answers is enough.
    pub masters: Vec<String>,
    /// The name people see; the host's name and the process id if none is given.
    pub name: Option<String>,
    /// Queues to take tasks from; never empty.
    pub queues: Vec<String>,
    /// How many attempts run at once; never 0.
    pub slots: u32,
    /// What a task's `requires.labels` is matched against.
    pub labels: BTreeMap<String, String>,
    /// What a task's `requires.resources` is taken from.
    pub resources: BTreeMap<String, u64>,
    /// Time that running attempts have to finish at shutdown before they are handed back.
    pub shutdown_timeout: Duration,
}
