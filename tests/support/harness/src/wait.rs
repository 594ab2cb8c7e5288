//! Waiting for conditions, with deadlines.

use std::time::{Duration, Instant};

/// Pause between two looks.
const AGAIN: Duration = Duration::from_millis(20);

/// Looks until `look` gives something, and gives that. Panics at the deadline, saying what did not happen.
pub async fn eventually<T>(
    deadline: Duration,
    what: impl std::fmt::Display,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let mut looks = Looks::new(deadline, what);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        looks.again().await;
    }
}

/// Looks until `look` says yes.
pub async fn until(
    deadline: Duration,
    what: impl std::fmt::Display,
    mut look: impl AsyncFnMut() -> bool,
) {
    eventually(deadline, what, async || look().await.then_some(())).await;
}

/// The looks of a loop that waits, for where a closure does not fit.
#[derive(Debug)]
pub struct Looks {
    begun: Instant,
    deadline: Duration,
    what: String,
}

impl Looks {
    /// Before the first look.
    pub fn new(deadline: Duration, what: impl std::fmt::Display) -> Self {
        Self {
            begun: Instant::now(),
            deadline,
            what: what.to_string(),
        }
    }

    /// After a look in vain: a pause, or a panic at the deadline.
    pub async fn again(&mut self) {
        let Self {
            begun,
            deadline,
            what,
        } = self;
        assert!(
            begun.elapsed() < *deadline,
            "not within {deadline:?}: {what}"
        );
        tokio::time::sleep(AGAIN).await;
    }
}
