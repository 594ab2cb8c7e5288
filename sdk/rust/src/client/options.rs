//! Limits of calls.

use std::time::Duration;

/// Limits of a [`Client`](super::Client)'s calls.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How long one call may take with all its tries.
    pub deadline: Duration,
    /// How long to go on while no master even accepts a connection. Shorter than `deadline`, so that a wrong address
    /// is told soon.
    pub unreachable_deadline: Duration,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long the first try waits for its answer (beyond what the cluster was asked to hold it); each further try
    /// after a silent one waits twice as long, so that a slow cluster is not made slower by repetition.
    pub answer_timeout: Duration,
    /// Longest answer that is read.
    pub answer_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            unreachable_deadline: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(3),
            answer_bytes_max: 256 << 20,
        }
    }
}
