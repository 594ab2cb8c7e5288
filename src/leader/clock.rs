//! The leader's clock: Unix time that is steady.
//!
//! It starts from the wall clock and then moves by what the monotonic clock says has really passed, drawn towards the
//! wall clock by at most one part in ten. So a wall clock that is stepped while this process runs, forwards or back,
//! makes delays at most a tenth shorter or longer, and never makes time stand still. (A wall clock that is wrong when the
//! process starts is believed.)

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// See the module.
pub struct SteadyClock(Mutex<Reading>);

struct Reading {
    told_us: u64,
    at: Instant,
}

/// The steady clock may run this much faster or slower than real time while it follows the wall clock.
const DRAW_DIVISOR: u64 = 10;

impl SteadyClock {
    /// Starts from the wall clock.
    pub fn start() -> Self {
        Self(Mutex::new(Reading {
            told_us: wall_us(),
            at: Instant::now(),
        }))
    }

    /// Moves it forward to `ms` if it is behind: a new leader goes on from where the table's time is.
    pub fn at_least(&self, ms: u64) {
        let told_us = ms.saturating_mul(1_000);
        self.0.lock().raise(Instant::now(), wall_us(), told_us);
    }

    /// Unix time in milliseconds; never goes back.
    pub fn now_ms(&self) -> u64 {
        let mut reading = self.0.lock();
        reading.bring_up(Instant::now(), wall_us());
        reading.told_us / 1_000
    }
}

impl Reading {
    fn bring_up(&mut self, now: Instant, wall_us: u64) {
        let passed = now.saturating_duration_since(self.at);
        self.told_us = advance(self.told_us, passed, wall_us);
        self.at = now;
    }

    fn raise(&mut self, now: Instant, wall_us: u64, told_us: u64) {
        // What has passed up to now is in `told_us` already: the next reading must not add it once more.
        self.bring_up(now, wall_us);
        self.told_us = self.told_us.max(told_us);
    }
}

/// What to tell after `passed`, having told `told_us`, when the wall says `wall_us`.
fn advance(told_us: u64, passed: Duration, wall_us: u64) -> u64 {
    let passed_us = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
    let expected = told_us.saturating_add(passed_us);
    let draw = passed_us / DRAW_DIVISOR;
    wall_us.clamp(expected.saturating_sub(draw), expected.saturating_add(draw))
}

fn wall_us() -> u64 {
    // Before 1970 the wall clock says nothing of use.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::{Reading, advance};
    use std::time::{Duration, Instant};

    const HOUR_US: u64 = 3_600_000_000;

    #[test]
    fn follows_an_honest_wall_clock_exactly() {
        assert_eq!(
            advance(HOUR_US, Duration::from_secs(1), HOUR_US + 1_000_000),
            HOUR_US + 1_000_000
        );
    }

    #[test]
    fn a_clock_that_was_not_read_for_long_goes_on_from_what_it_is_raised_to() {
        // Nobody looks at a follower's clock; then it leads, and goes on from the table's time.
        let started = Instant::now();
        let now = started + Duration::from_micros(HOUR_US);
        let mut reading = Reading {
            told_us: HOUR_US,
            at: started,
        };
        reading.raise(now, 2 * HOUR_US, 2 * HOUR_US + 5_000);
        assert_eq!(reading.told_us, 2 * HOUR_US + 5_000);
        reading.bring_up(now, 2 * HOUR_US);
        assert_eq!(reading.told_us, 2 * HOUR_US + 5_000);
    }

    #[test]
    fn a_wall_clock_an_hour_ahead_moves_it_by_a_tenth_more() {
        assert_eq!(
            advance(HOUR_US, Duration::from_secs(1), 2 * HOUR_US),
            HOUR_US + 1_100_000
        );
    }

    #[test]
    fn a_wall_clock_an_hour_behind_never_turns_it_back() {
        assert_eq!(
            advance(2 * HOUR_US, Duration::from_secs(1), HOUR_US),
            2 * HOUR_US + 900_000
        );
        assert_eq!(advance(2 * HOUR_US, Duration::ZERO, HOUR_US), 2 * HOUR_US);
    }
}
