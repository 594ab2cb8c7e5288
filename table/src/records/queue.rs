//! Queue records: settings, fair-queueing state and token bucket.
//!
//! *Sharing.* Queues that compete for the same workers share them by weight: start-time fair queueing (Goyal, Vin and
//! Cheng, 1996). Each grant moves the queue's `served` forward by a share, which is smaller for a greater weight. The
//! queue that was served least comes next. An idle queue starts at the virtual time of the others, so it cannot save up
//! shares.
//!
//! *Rates.* A token bucket by the generic cell rate algorithm (ITU-T I.371). Each start moves `theoretical_arrival_ns`
//! forward by one interval. No start may begin while it is further ahead than the burst allows. All numbers are
//! integers in the table's own time, so a rate holds over all workers and all leaders.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::queue_options::{QueueSettings, ns};

/// A queue. See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Name of the queue.
    pub name: Arc<str>,
    /// Settings made by users.
    pub settings: QueueSettings,
    /// Service received so far, in shares (its virtual finish time).
    pub(crate) served: u64,
    /// The number of its tasks that have succeeded since the record was created.
    pub(crate) succeeded: u64,
    /// With a rate: the theoretical arrival time of the next start, when the bucket is full again, in Unix ns.
    pub(crate) theoretical_arrival_ns: u64,
}

/// Waiting time that is worth one step of priority, in ms. So a task of priority 0 starts before one of priority 9 that
/// became ready more than nine times this long after it. No stream of important tasks starves another.
pub const AGEING_MS: u64 = 60_000;

/// The share of one start for a queue of weight 1. It is large, so that weights divide it well.
const SHARE_UNIT: u64 = 1 << 24;

impl Queue {
    /// Returns a queue with default settings.
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            settings: QueueSettings::default(),
            served: 0,
            succeeded: 0,
            theoretical_arrival_ns: 0,
        }
    }

    /// Returns the share of one start.
    pub(crate) fn share(&self) -> u64 {
        (SHARE_UNIT / u64::from(self.settings.weight)).max(1)
    }

    /// Counts the start of one of its tasks at this virtual time; returns the virtual time of the start.
    pub(crate) fn record_start(&mut self, virtual_time: u64, now_ms: u64) -> u64 {
        let start = self.served.max(virtual_time);
        self.served = start.saturating_add(self.share());
        if let Some(rate) = self.settings.rate {
            let now_ns = ns(now_ms);
            self.theoretical_arrival_ns = self
                .theoretical_arrival_ns
                .max(now_ns)
                .saturating_add(rate.interval_ns());
        }
        start
    }

    /// Returns when its rate allows the next start, in Unix ns.
    pub(crate) fn next_start_ns(&self) -> u64 {
        self.settings.rate.map_or(0, |rate| {
            let ahead = rate.interval_ns().saturating_mul(u64::from(rate.burst) - 1);
            self.theoretical_arrival_ns.saturating_sub(ahead)
        })
    }

    /// Returns how many tasks its rate lets start at this time.
    pub(crate) fn starts_allowed(&self, now_ms: u64) -> u64 {
        let Some(rate) = self.settings.rate else {
            return u64::MAX;
        };
        let now_ns = ns(now_ms);
        let taken_ns = self.theoretical_arrival_ns.max(now_ns) - now_ns;
        let bucket_ns = rate.interval_ns().saturating_mul(u64::from(rate.burst));
        bucket_ns.saturating_sub(taken_ns) / rate.interval_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use crate::types::queue_options::Rate;

    fn queue(per_s_milli: u64, burst: u32) -> Queue {
        let mut queue = Queue::new("q".into());
        queue.settings.rate = Some(Rate { per_s_milli, burst });
        queue
    }

    /// Starts as many tasks as are allowed at each of these times.
    fn starts(queue: &mut Queue, times_ms: &[u64]) -> Vec<u64> {
        let start_all = |&now_ms: &u64| {
            let allowed = queue.starts_allowed(now_ms);
            for _ in 0..allowed {
                assert!(queue.next_start_ns() <= super::ns(now_ms));
                queue.record_start(0, now_ms);
            }
            assert!(queue.next_start_ns() > super::ns(now_ms));
            allowed
        };
        times_ms.iter().map(start_all).collect()
    }

    #[test]
    fn a_rate_is_kept_however_often_it_is_asked() {
        let times = [1_000, 1_050, 1_099, 1_100, 1_200, 1_250, 1_300, 2_000];
        assert_eq!(
            starts(&mut queue(10_000, 1), &times),
            [1, 0, 0, 1, 1, 0, 1, 1]
        );
    }

    #[test]
    fn a_burst_is_used_up_and_comes_back_with_time() {
        let times = [10_000, 10_100, 10_200, 10_500, 20_000];
        assert_eq!(starts(&mut queue(10_000, 3), &times), [3, 1, 1, 3, 3]);
    }

    #[test]
    fn slow_and_fast_rates_neither_overflow_nor_stop() {
        assert_eq!(
            starts(&mut queue(1, 1), &[1, 1_000_000, 1_000_001]),
            [1, 0, 1]
        );
        let mut fast = queue(1_000_000_000, 100);
        assert_eq!(starts(&mut fast, &[1, 2]), [100, 100]);
        let mut vast = queue(1, u32::MAX);
        assert!(vast.starts_allowed(u64::MAX / 2_000_000) > 0);
        vast.record_start(0, u64::MAX / 2_000_000);
    }
}
