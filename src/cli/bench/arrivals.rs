//! Arrival process: decides when the next submission is due. In a closed loop it is due at once, in an open loop at a
//! fixed rate.
//!
//! In the open loop a submission's latency counts from the time it was due, not from the time a client was free to send
//! it. Otherwise a cluster that stands still would hide the delay, because its clients would be waiting. The timer's
//! own rounding is left out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::settings::Settings;

/// Resolution of the timer. A client that waited may be this late for reasons unrelated to the cluster.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

/// Distributes the run's tasks to its clients.
#[derive(Debug)]
pub struct Arrivals {
    begun: Instant,
    until: Option<Instant>,
    tasks_max: u64,
    batch: u64,
    rate: Option<f64>,
    next: AtomicU64,
}

/// One submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Number of the first task.
    pub first: u64,
    /// Number of tasks.
    pub count: u64,
    /// Due time, from which latency counts.
    pub due: Instant,
}

impl Arrivals {
    pub fn new(settings: &Settings) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            until: settings.time().map(|time| begun + time),
            tasks_max: settings.tasks_max,
            batch: u64::from(settings.batch),
            rate: settings.rate,
            next: AtomicU64::new(0),
        }
    }

    /// Waits until the next submission is due and returns it. Returns `None` once the run has reached its tasks or its
    /// time.
    pub async fn next(&self) -> Option<Arrival> {
        let first = self.next.fetch_add(self.batch, Ordering::Relaxed);
        let count = self.tasks_max.checked_sub(first)?.min(self.batch);
        let mut due = match self.rate {
            None => Instant::now(),
            Some(rate) => self.begun + Duration::from_secs_f64(first as f64 / rate),
        };
        if count == 0 || self.until.is_some_and(|until| due >= until) {
            return None;
        }
        // A timer, even one that is due, takes until the next tick of its clock.
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
            due = Instant::now().min(due + TIMER_RESOLUTION);
        }
        Some(Arrival { first, count, due })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn arrivals(tasks_max: u64, batch: u64, rate: Option<f64>) -> Arrivals {
        Arrivals {
            begun: Instant::now(),
            until: None,
            tasks_max,
            batch,
            rate,
            next: AtomicU64::new(0),
        }
    }

    #[tokio::test]
    async fn every_task_arrives_exactly_once() {
        let arrivals = arrivals(25, 10, None);
        let mut given = Vec::new();
        while let Some(arrival) = arrivals.next().await {
            given.push((arrival.first, arrival.count));
        }
        assert_eq!(given, [(0, 10), (10, 10), (20, 5)]);
        assert!(arrivals.next().await.is_none());
    }

    #[tokio::test]
    async fn without_a_rate_a_submission_is_due_at_once() {
        let arrivals = arrivals(3, 1, None);
        let at_once = arrivals.next().now_or_never();
        assert_eq!(at_once.flatten().expect("at once").first, 0);
    }

    #[tokio::test]
    async fn at_a_rate_each_submission_is_due_by_its_number() {
        let arrivals = arrivals(40, 20, Some(10_000.0));
        let first = arrivals.next().await.expect("the first");
        let second = arrivals.next().await.expect("the second");
        let apart = second.due - first.due;
        assert!(
            apart >= Duration::from_millis(2)
                && apart <= Duration::from_millis(2) + TIMER_RESOLUTION
        );
    }
}
