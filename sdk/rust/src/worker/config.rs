//! Configuration of a worker.

use std::time::Duration;

use crate::wire::Register;

/// Configuration of a worker: its registration and its time limits.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The registration it sends.
    pub register: Register,
    /// Maximum time for running attempts to finish after the worker was asked to stop. Default: 30 s.
    pub grace: Duration,
    /// Maximum time for which a poll is held. The worker polls again at the end. Default: 50 s.
    pub poll_wait: Duration,
    /// Time for which to retry while a worker that is heard from has the name. The name of one that is silent is waited for
    /// until its lease ends. Default: 600 s.
    pub name_patience: Duration,
    /// Maximum time for an executor to return after a request to stop. After that it is dropped. Default: 15 s.
    pub abandon_after: Duration,
    /// Maximum time to report the last results, and again to leave. Default: 3 s.
    pub leave_patience: Duration,
}

impl WorkerConfig {
    /// Creates a configuration with this registration and the default time limits.
    pub fn new(register: Register) -> Self {
        Self {
            register,
            grace: Duration::from_secs(30),
            poll_wait: Duration::from_secs(50),
            name_patience: Duration::from_secs(600),
            abandon_after: Duration::from_secs(15),
            leave_patience: Duration::from_secs(3),
        }
    }
}
