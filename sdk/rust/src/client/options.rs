//! Limits of calls.

use std::time::Duration;

/// Limits of a [`Client`](super::Client)'s calls.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Maximum time of one call with all its attempts. Default: 30 s.
    pub deadline: Duration,
    /// Maximum time of attempts while no master accepts a connection. Shorter than `deadline`, so that a wrong address
    /// is reported soon. Default: 5 s.
    pub unreachable_deadline: Duration,
    /// Maximum time to connect. Default: 1 s.
    pub connect_timeout: Duration,
    /// Time the first attempt waits for its answer, in addition to the hold the cluster was asked for. Each attempt
    /// after a silent one waits twice as long, so that repetition does not make a slow cluster slower. Default: 3 s.
    pub answer_timeout: Duration,
    /// Maximum length of an answer in bytes. Default: 256 MiB.
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
