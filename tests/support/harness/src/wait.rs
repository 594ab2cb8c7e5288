//! Waits for conditions, with deadlines.

use std::time::{Duration, Instant};

/// Pause between two polls of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polls until `probe` returns a value, and returns the value. Panics at the deadline with a description of the
/// condition.
pub async fn eventually<T>(
    deadline: Duration,
    what: impl std::fmt::Display,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let mut polling = Polling::new(deadline, what);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        polling.pause().await;
    }
}

/// Polls until `probe` returns true.
pub async fn until(
    deadline: Duration,
    what: impl std::fmt::Display,
    mut probe: impl AsyncFnMut() -> bool,
) {
    eventually(deadline, what, async || probe().await.then_some(())).await;
}

/// The polls of a waiting loop, where a closure is not possible.
#[derive(Debug)]
pub struct Polling {
    begun: Instant,
    deadline: Duration,
    what: String,
}

impl Polling {
    /// Starts the wait, before the first poll.
    pub fn new(deadline: Duration, what: impl std::fmt::Display) -> Self {
        Self {
            begun: Instant::now(),
            deadline,
            what: what.to_string(),
        }
    }

    /// Called after a poll without success: pauses, or panics at the deadline.
    pub async fn pause(&mut self) {
        let Self {
            begun,
            deadline,
            what,
        } = self;
        assert!(
            begun.elapsed() < *deadline,
            "not within {deadline:?}: {what}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
