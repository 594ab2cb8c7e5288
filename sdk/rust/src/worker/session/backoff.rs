//! How long to leave a failing exchange alone.

use std::time::Duration;

use tokio::time::Instant;

/// First and longest pause after an exchange that failed. The client has waited inside its deadline already.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The pause after exchanges that failed, growing while they do.
#[derive(Debug, Default)]
pub(super) struct Pause {
    length: Duration,
    until: Option<Instant>,
}

impl Pause {
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

    pub(super) fn lengthen(&mut self) {
        self.length = (self.length * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.until = Some(Instant::now() + self.length);
    }
}
