//! Samples of the other nodes' wall clocks, each stored relative to this node's monotonic clock, which no step of a
//! wall clock touches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Maximum age of a sample that is used. Monotonic clocks drift apart by less than a second a day.
const SAMPLE_MAX_AGE: Duration = Duration::from_secs(600);

/// Wall clocks of the other nodes, as far as they are known.
#[derive(Debug, Default)]
pub struct PeerClocks {
    samples: Mutex<BTreeMap<u64, ClockSample>>,
}

#[derive(Debug, Clone, Copy)]
struct ClockSample {
    wall_us: u64,
    at: Instant,
}

impl PeerClocks {
    /// Returns the time on each of the other nodes' clocks at `now`, in Unix µs, by node.
    pub fn read(&self, now: Instant) -> BTreeMap<u64, u64> {
        self.read_within(now, SAMPLE_MAX_AGE)
    }

    /// Returns the clocks as [`PeerClocks::read`] does, only those that were asked at most `age_max` ago.
    pub fn read_within(&self, now: Instant, age_max: Duration) -> BTreeMap<u64, u64> {
        let samples = self.samples.lock();
        let read = samples.iter().filter_map(|(id, sample)| {
            let passed = now.saturating_duration_since(sample.at);
            let passed_us = u64::try_from(passed.as_micros()).ok()?;
            (passed <= age_max).then(|| (*id, sample.wall_us.saturating_add(passed_us)))
        });
        read.collect()
    }

    /// Records that the wall clock of node `id` was `wall_us` at `at`.
    pub fn record(&self, id: u64, wall_us: u64, at: Instant) {
        self.samples.lock().insert(id, ClockSample { wall_us, at });
    }

    pub(crate) fn retain(&self, members: &[u64]) {
        self.samples.lock().retain(|id, _| members.contains(id));
    }

    pub(crate) fn count(&self) -> usize {
        self.samples.lock().len()
    }
}

/// Returns this node's wall clock in Unix µs. Returns 0 before 1970.
pub fn wall_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_sample_advances_with_monotonic_time_and_expires() {
        let clocks = PeerClocks::default();
        let at = Instant::now();
        clocks.record(2, 1_000_000, at);
        clocks.record(3, 5_000_000, at + Duration::from_secs(1));
        let later = at + Duration::from_secs(3);
        assert_eq!(
            clocks.read(later),
            BTreeMap::from([(2, 4_000_000), (3, 7_000_000)])
        );
        assert!(clocks.read(at + SAMPLE_MAX_AGE * 2).is_empty());
        let recent = clocks.read_within(later, Duration::from_secs(2));
        assert_eq!(recent, BTreeMap::from([(3, 7_000_000)]));
        clocks.retain(&[3]);
        assert_eq!(clocks.read(later).len(), 1);
    }
}
