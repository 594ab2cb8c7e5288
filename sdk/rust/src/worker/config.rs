//! Configuration of a worker.

use std::time::Duration;

use crate::wire::Register;

/// Configuration of a worker: what it registers as, and its time limits.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// What it registers as.
    pub register: Register,
    /// How long running attempts may take to finish once the worker was told to stop.
    pub grace: Duration,
    /// How long a question for work is held; the worker asks anew at the end.
    pub poll_wait: Duration,
    /// How long to try while another live worker has the name: a predecessor that died is only lost after its lease.
    pub name_patience: Duration,
    /// An executor that does not return this long after it was told to stop is dropped.
    pub abandon_after: Duration,
    /// How long to try to tell the last results, and then to say goodbye.
    pub leave_patience: Duration,
}

impl WorkerConfig {
    /// A worker of this kind with the usual patience.
    pub fn new(register: Register) -> Self {
        Self {
            register,
            grace: Duration::from_secs(30),
            poll_wait: Duration::from_secs(50),
            name_patience: Duration::from_secs(60),
            abandon_after: Duration::from_secs(15),
            leave_patience: Duration::from_secs(3),
        }
    }
}
