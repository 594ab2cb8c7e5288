//! Latency until the next acknowledgement, and percentiles of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;
use triarch_harness::submit_until;
use triarch_harness::{Acked, Api};

/// A probe without an answer within this time is sent again under the same key.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(250);
/// A cluster without an acknowledgement for this time is down.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Submits a new job to each of these masters at the same time until one is acknowledged. Returns the time from `since`
/// until then, and all probes that were acknowledged in the end.
pub async fn first_acknowledgement(
    survivors: &[Api],
    since: Instant,
    name: &str,
    make: impl Fn() -> Value,
) -> anyhow::Result<(Duration, Vec<Acked>)> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut probes = JoinSet::new();
    for (nth, survivor) in survivors.iter().enumerate() {
        let (masters, stop, mut body) = ([survivor.clone()], Arc::clone(&stop), make());
        body["idempotency_key"] = format!("{name}-{nth}").into();
        probes.spawn(
            async move { submit_until(&masters, &mut 0, &body, REQUEST_TIMEOUT, &stop).await },
        );
    }
    let all = async {
        let mut acked: Vec<Acked> = Vec::new();
        while let Some(probe) = probes.join_next().await {
            acked.extend(probe?);
        }
        anyhow::Ok(acked)
    };
    let Ok(acked) = tokio::time::timeout(ACKNOWLEDGEMENT_TIMEOUT, all).await else {
        stop.store(true, Ordering::Relaxed);
        anyhow::bail!("nothing was acknowledged for {ACKNOWLEDGEMENT_TIMEOUT:?}");
    };
    let acked = acked?;
    let first = acked.iter().map(|one| one.acked).min();
    let first = first.ok_or_else(|| anyhow::anyhow!("no probe was acknowledged"))?;
    Ok((first.duration_since(since), acked))
}

/// Measured times, in order of length.
#[derive(Debug, Clone, Default)]
pub struct Latencies(Vec<Duration>);

impl Extend<Duration> for Latencies {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, times: I) {
        self.0.extend(times);
        self.0.sort_unstable();
    }
}

impl Latencies {
    /// Adds a time.
    pub fn add(&mut self, time: Duration) {
        self.extend([time]);
    }

    /// Returns the number of times.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the longest time.
    pub fn max(&self) -> Option<Duration> {
        self.0.last().copied()
    }

    /// Returns the percentiles as JSON, in milliseconds.
    pub fn json(&self) -> Value {
        let ms = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
        serde_json::json!({
            "count": self.count(),
            "p50_ms": ms(self.percentile(50)),
            "p90_ms": ms(self.percentile(90)),
            "p99_ms": ms(self.percentile(99)),
            "max_ms": ms(self.max()),
        })
    }

    /// Returns the smallest time that at least `percent` of all times do not exceed.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    /// Returns the percentiles as one line.
    pub fn summary(&self) -> String {
        let ms = |time: Option<Duration>| {
            time.map_or("-".to_owned(), |time| time.as_millis().to_string())
        };
        format!(
            "p50 {} ms, p90 {} ms, p99 {} ms, max {} ms (of {})",
            ms(self.percentile(50)),
            ms(self.percentile(90)),
            ms(self.percentile(99)),
            ms(self.0.last().copied()),
            self.0.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let mut times = Latencies::default();
        assert_eq!(times.percentile(50), None);
        for ms in [30, 10, 20, 40] {
            times.add(Duration::from_millis(ms));
        }
        for (percent, ms) in [(1, 10), (25, 10), (50, 20), (51, 30), (99, 40), (100, 40)] {
            assert_eq!(
                times.percentile(percent),
                Some(Duration::from_millis(ms)),
                "p{percent}"
            );
        }
    }
}
