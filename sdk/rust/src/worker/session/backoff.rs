//! Back-off of failed exchanges.

use std::time::Duration;

use tokio::time::Instant;

/// First and longest delay after a failed exchange. The client has already waited within its deadline.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// The delay after failed exchanges, doubled with each further failure.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    delay: Duration,
    until: Option<Instant>,
}

impl Backoff {
    pub(super) fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }

    pub(super) async fn over(&self) {
        if let Some(until) = self.until {
            tokio::time::sleep_until(until).await;
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn increase(&mut self) {
        self.delay = (self.delay * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        self.until = Some(Instant::now() + self.delay);
    }
}
