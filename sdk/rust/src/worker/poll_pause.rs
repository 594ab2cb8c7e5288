//! Pause of a worker that could not begin an attempt, for a want of its machine such as memory or descriptors.
//!
//! The task goes back and may come again at once. The pause grows while the want lasts, so that a worker in want does not
//! take and return the same tasks in a loop.

use std::time::Duration;

use tokio::time::Instant;

/// First and longest pause.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The pause, if there is one.
#[derive(Debug, Default)]
pub(super) struct PollPause {
    pause: Duration,
    until: Option<Instant>,
}

impl PollPause {
    /// Begins a pause, longer than the last. Returns its length; `None` if one is going on.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Duration> {
        if self.until(now).is_some() {
            return None;
        }
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.until = Some(now + self.pause);
        Some(self.pause)
    }

    /// Returns the end of the pause; `None` if it is over.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// Records an attempt that began and ended. After the pause, that ends the want.
    pub(super) fn reset(&mut self, now: Instant) {
        if self.until(now).is_none() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_an_attempt_begins_after_one() {
        let mut pause = PollPause::default();
        let begun = Instant::now();
        assert_eq!(pause.until(begun), None);
        assert_eq!(pause.begin(begun), Some(PAUSE_MIN));
        assert_eq!(pause.begin(begun), None, "one want is one pause");
        pause.reset(begun);
        let over = pause
            .until(begun)
            .expect("an end of earlier attempts does not end it");
        assert_eq!(pause.until(over), None);
        assert_eq!(pause.begin(over), Some(PAUSE_MIN * 2));
        let mut now = over;
        for _ in 0..10 {
            now = pause.until(now).unwrap_or(now);
            pause.begin(now);
        }
        assert_eq!(pause.until(now), Some(now + PAUSE_MAX));
        now += PAUSE_MAX;
        pause.reset(now);
        assert_eq!(pause.begin(now), Some(PAUSE_MIN));
    }
}
