//! Waiting for conditions, with deadlines.

use std::time::{Duration, Instant};

/// Pause between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polls until `probe` returns something, and returns that. Panics at the deadline, saying what did not happen.
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

/// The looks of a loop that waits, for where a closure does not fit.
#[derive(Debug)]
pub struct Polling {
    begun: Instant,
    deadline: Duration,
    what: String,
}

impl Polling {
    /// Before the first look.
    pub fn new(deadline: Duration, what: impl std::fmt::Display) -> Self {
        Self {
            begun: Instant::now(),
            deadline,
            what: what.to_string(),
        }
    }

    /// After a look in vain: a pause, or a panic at the deadline.
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
