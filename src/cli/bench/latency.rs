//! Latency histogram: recorded in microseconds, summarised as percentiles in milliseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

/// Maximum latency that is recorded exactly, in microseconds.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Number of significant digits kept of each value.
const DIGITS: u8 = 3;

/// Latencies of one sort of request.
#[derive(Debug)]
pub struct LatencyHistogram(Mutex<Histogram<u64>>);

impl Default for LatencyHistogram {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS)
            .expect("the bounds are those of a histogram");
        Self(Mutex::new(histogram))
    }
}

impl LatencyHistogram {
    /// Adds one latency.
    pub fn add(&self, latency: Duration) {
        self.add_all([u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)]);
    }

    /// Adds several latencies in microseconds.
    pub fn add_all(&self, latencies_us: impl IntoIterator<Item = u64>) {
        let mut histogram = self.0.lock();
        for latency_us in latencies_us {
            histogram.saturating_record(latency_us.max(1));
        }
    }

    /// Returns the percentiles; `None` without any latency.
    pub fn summary(&self) -> Option<LatencySummary> {
        let histogram = self.0.lock();
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| LatencySummary {
            count: histogram.len(),
            mean_ms: (histogram.mean()).round() / 1e3,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e3,
        })
    }
}

/// Percentiles of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencySummary {
    pub count: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_match_the_recorded_latencies() {
        let latencies = LatencyHistogram::default();
        assert_eq!(latencies.summary(), None);
        latencies.add_all((1..=100).map(|n| n * 1_000));
        let summary = latencies.summary().expect("there are some");
        assert_eq!(summary.count, 100);
        let near = |found: f64, real: f64| (found - real).abs() <= real / 500.0;
        assert!(near(summary.p50_ms, 50.0), "{summary:?}");
        assert!(near(summary.p99_ms, 99.0), "{summary:?}");
        assert!(near(summary.max_ms, 100.0), "{summary:?}");
    }
}
