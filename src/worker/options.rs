//! What a worker is told when it starts.

use std::collections::BTreeMap;
use std::time::Duration;

/// Everything a worker needs to know; made by the command line, which has checked it already.
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
    /// How long a stopping worker lets its attempts finish before it hands them back.
    pub drain: Duration,
}
