//! Latency metrics of the log: histograms of fdatasyncs and appends.
//!
//! Plain atomics: an observation takes no lock and allocates nothing, so the sync thread may make it. A reader never
//! blocks a writer. Only the sync in progress is behind a lock, which is held for a few instructions. The caller names
//! and exports the values.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Upper bounds of time buckets, in ns: from the latency of a disk with a battery to one that loses elections.
pub const TIME_BOUNDS_NS: &[u64] = &[
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// A histogram with fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for values above the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// The values of a [`Histogram`] at one moment. While others observe, its parts may differ by those few values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Upper bounds (inclusive) of all buckets but the last.
    pub bounds: &'static [u64],
    /// The number of values in each bucket. One bucket more than there are bounds.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: u64,
}

impl Histogram {
    /// Creates an empty histogram with ascending bounds.
    pub fn new(bounds: &'static [u64]) -> Self {
        Histogram {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Creates an empty histogram for times.
    pub fn of_times() -> Self {
        Self::new(TIME_BOUNDS_NS)
    }

    /// Counts one value.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts one time, in ns.
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Returns the values counted so far.
    pub fn read(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            bounds: self.bounds,
            counts: self
                .counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl HistogramSnapshot {
    /// Returns the number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Metrics of one log since it was opened.
#[derive(Debug)]
pub struct LogMetrics {
    /// Duration of each fdatasync of the log, in ns.
    pub sync: Histogram,
    /// Duration of each append, in ns, from the call until it is durable. It covers the wait for the sync before it,
    /// the write, and its own sync.
    pub append: Histogram,
    syncing: Mutex<Syncing>,
}

/// The sync that is in progress, and the one before it.
#[derive(Debug, Default)]
struct Syncing {
    since: Option<Instant>,
    last: Option<(Duration, Instant)>,
}

impl Default for LogMetrics {
    fn default() -> Self {
        LogMetrics {
            sync: Histogram::of_times(),
            append: Histogram::of_times(),
            syncing: Mutex::default(),
        }
    }
}

impl LogMetrics {
    /// Returns the age of the oldest unfinished write to the disk, its sync included. `None` while there is none. A disk
    /// that hangs is visible here long before the histograms count anything.
    pub fn unfinished_sync(&self) -> Option<Duration> {
        self.syncing.lock().since.map(|since| since.elapsed())
    }

    /// Returns how long the disk takes for a sync at present: the age of the unfinished one, or the duration of the last
    /// one if that ended within `window`.
    pub fn present_sync(&self, window: Duration) -> Duration {
        let syncing = self.syncing.lock();
        let unfinished = syncing
            .since
            .map_or(Duration::ZERO, |since| since.elapsed());
        let last = syncing.last.filter(|(_, at)| at.elapsed() <= window);
        unfinished.max(last.map_or(Duration::ZERO, |(took, _)| took))
    }

    pub(crate) fn sync_begins(&self) {
        self.syncing.lock().since = Some(Instant::now());
    }

    pub(crate) fn sync_ends(&self) {
        let mut syncing = self.syncing.lock();
        if let Some(since) = syncing.since.take() {
            syncing.last = Some((since.elapsed(), Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Histogram, LogMetrics};

    #[test]
    fn an_unfinished_sync_is_visible_while_it_lasts() {
        let metrics = LogMetrics::default();
        let window = Duration::from_secs(60);
        assert_eq!(metrics.unfinished_sync(), None);
        metrics.sync_begins();
        let first = metrics.unfinished_sync();
        assert!(first.is_some() && metrics.unfinished_sync() >= first);
        metrics.sync_ends();
        assert_eq!(metrics.unfinished_sync(), None);
        assert!(Some(metrics.present_sync(window)) >= first);
        assert_eq!(metrics.present_sync(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_bound_is_within_its_bucket() {
        let histogram = Histogram::new(&[1, 10]);
        for value in [0, 1, 2, 10, 11, 1_000] {
            histogram.observe(value);
        }
        let snapshot = histogram.read();
        assert_eq!(snapshot.counts, [2, 2, 2]);
        assert_eq!((snapshot.sum, snapshot.count()), (1_024, 6));
    }
}
