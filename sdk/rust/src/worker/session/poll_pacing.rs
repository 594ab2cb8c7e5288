//! Poll pacing: how soon a busy worker polls again.
//!
//! Each poll with results is an entry on three disks, and its cost for the masters hardly depends on the number of
//! results. A worker with more work than slots that polls for each free slot makes the masters write entry after entry
//! with a result or two each.
//!
//! So while most of its slots are busy anyway, it leaves as much time between two polls as the last one took. This
//! halves the polls, with twice as much in each. A slot waits for its next task for one exchange longer at most, and
//! not at all once half of the slots are free.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum delay of a poll, however long the last one took.
const POLL_DELAY_MAX: Duration = Duration::from_millis(10);

/// The time when the next poll is due.
#[derive(Debug, Default)]
pub(super) struct PollPacing {
    /// When the next poll is due although most slots are busy. `None` when there was less work than slots.
    next_poll_at: Option<Instant>,
}

impl PollPacing {
    /// Records that a poll sent at `begun` was answered at `now`. `got_all` says that it got all the tasks it asked
    /// for, so that there are likely more.
    pub(super) fn record_poll(&mut self, begun: Instant, now: Instant, got_all: bool) {
        let took = now.saturating_duration_since(begun);
        self.next_poll_at = got_all.then(|| now + took.min(POLL_DELAY_MAX));
    }

    /// Returns whether there is likely more work than slots.
    pub(super) fn has_backlog(&self) -> bool {
        self.next_poll_at.is_some()
    }

    /// Returns until when the next poll can wait, if it can at all. `free` of `slots` are idle.
    pub(super) fn delayed_until(&self, now: Instant, free: usize, slots: usize) -> Option<Instant> {
        let most_are_busy = free.saturating_mul(2) < slots;
        self.next_poll_at
            .filter(|from| most_are_busy && *from > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_busy_worker_leaves_as_much_time_between_polls_as_they_take() {
        let mut pacing = PollPacing::default();
        let begun = Instant::now();
        let back = begun + 3 * MS;
        pacing.record_poll(begun, back, true);
        let due = begun + 6 * MS;
        assert_eq!(pacing.delayed_until(back, 7, 16), Some(due));
        assert_eq!(
            pacing.delayed_until(back, 8, 16),
            None,
            "half of the slots are free"
        );
        assert_eq!(pacing.delayed_until(back, 1, 2), None);
        assert_eq!(pacing.delayed_until(back, 1, 1), None);
        assert_eq!(pacing.delayed_until(due, 1, 16), None);
    }

    #[test]
    fn a_poll_never_waits_long_nor_without_a_backlog() {
        let mut pacing = PollPacing::default();
        let begun = Instant::now();
        assert_eq!(pacing.delayed_until(begun, 1, 16), None);
        let back = begun + 400 * MS;
        pacing.record_poll(begun, back, true);
        assert!(pacing.has_backlog());
        assert_eq!(
            pacing.delayed_until(back, 1, 16),
            Some(back + POLL_DELAY_MAX)
        );
        pacing.record_poll(begun, back, false);
        assert!(!pacing.has_backlog());
        assert_eq!(pacing.delayed_until(back, 1, 16), None);
    }
}
