//! The cluster's clock, as this node reads it: Unix time that is steady, and right if most of the masters' clocks are.
//!
//! One wall clock may be wrong, on any node, also when its process starts. So the *middle* of all masters' wall clocks is
//! taken for the time; of an even number of them the earlier of the two in the middle, because late is harmless where
//! early is not: the table's time never goes back.
//!
//! A leader's stamps must besides be steady. From the beginning of its term its clock moves by what the monotonic clock
//! says has passed, drawn towards the middle by at most one part in ten: whatever is stepped meanwhile makes delays at most
//! a tenth shorter or longer, and never makes time stand still.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use triarch_raft::peer_clocks::{PeerClocks, wall_us};

/// See the module.
pub struct SteadyClock {
    peers: Arc<PeerClocks>,
    /// Only while this node leads.
    steady: Mutex<Option<Reading>>,
}

struct Reading {
    told_us: u64,
    at: Instant,
}

/// A leader's clock may run this much faster or slower than real time while it is drawn towards the middle.
const DRAW_DIVISOR: u64 = 10;

impl SteadyClock {
    /// A clock that looks at these others too.
    pub fn new(peers: Arc<PeerClocks>) -> Self {
        Self {
            peers,
            steady: Mutex::new(None),
        }
    }

    /// This node leads from now on, over a table whose time is `table_ms`.
    pub fn begin_term(&self, table_ms: u64) {
        let now = Instant::now();
        *self.steady.lock() = Some(Reading {
            told_us: self.middle_us(now).max(table_ms.saturating_mul(1_000)),
            at: now,
        });
    }

    /// It leads no more.
    pub fn end_term(&self) {
        *self.steady.lock() = None;
    }

    /// Unix time in milliseconds; never goes back within a term.
    pub fn now_ms(&self) -> u64 {
        let now = Instant::now();
        let middle_us = self.middle_us(now);
        let mut steady = self.steady.lock();
        let told_us = match &mut *steady {
            Some(reading) => reading.bring_up(now, middle_us),
            None => middle_us,
        };
        told_us / 1_000
    }

    /// By how much this node's wall clock is ahead of the middle, in ms; negative if it is behind. `None` while fewer
    /// than two others are known, since then nobody can say who is right.
    pub fn ahead_ms(&self) -> Option<i64> {
        let others = self.peers.read(Instant::now());
        if others.len() < 2 {
            return None;
        }
        let own_us = wall_us();
        let middle_us = middle(own_us, others.into_values());
        let signed = |us: u64| i64::try_from(us / 1_000).unwrap_or(i64::MAX);
        Some(signed(own_us).saturating_sub(signed(middle_us)))
    }

    fn middle_us(&self, now: Instant) -> u64 {
        middle(wall_us(), self.peers.read(now).into_values())
    }
}

/// The middle one, or the earlier of two in the middle.
fn middle(own_us: u64, others_us: impl Iterator<Item = u64>) -> u64 {
    let mut all: Vec<u64> = others_us.chain([own_us]).collect();
    all.sort_unstable();
    all[(all.len() - 1) / 2]
}

impl Reading {
    fn bring_up(&mut self, now: Instant, middle_us: u64) -> u64 {
        let passed = now.saturating_duration_since(self.at);
        self.told_us = advance(self.told_us, passed, middle_us);
        self.at = now;
        self.told_us
    }
}

/// What to tell after `passed`, having told `told_us`, when the middle is at `middle_us`.
fn advance(told_us: u64, passed: Duration, middle_us: u64) -> u64 {
    let passed_us = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
    let expected = told_us.saturating_add(passed_us);
    let draw = passed_us / DRAW_DIVISOR;
    middle_us.clamp(expected.saturating_sub(draw), expected.saturating_add(draw))
}

/// From here on an operator is told.
const FAR_OFF_MS: u64 = 1_000;
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Tells, once each time it becomes so, that this node's wall clock is far from the others'.
pub async fn warn(clock: Arc<SteadyClock>) {
    let mut told = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(ahead_ms) = clock.ahead_ms() else {
            continue;
        };
        let far = ahead_ms.unsigned_abs() >= FAR_OFF_MS;
        if far && !told {
            tracing::warn!(
                ahead_ms,
                "this machine's clock is far from those of the other masters; the cluster goes by the middle one: set it"
            );
        } else if told && !far {
            tracing::info!(ahead_ms, "this machine's clock is with the others' again");
        }
        told = far;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: u64 = 3_600_000_000;

    #[test]
    fn one_wrong_clock_of_three_is_not_believed() {
        let now = 100 * HOUR_US;
        let near = [now + 3, now - 2];
        assert_eq!(middle(now, near.into_iter()), now);
        assert_eq!(middle(now + HOUR_US, near.into_iter()), now + 3);
        assert_eq!(middle(now - HOUR_US, near.into_iter()), now - 2);
        assert_eq!(middle(now, [now + 1, now + HOUR_US].into_iter()), now + 1);
    }

    #[test]
    fn of_two_clocks_the_earlier_is_believed() {
        assert_eq!(middle(9 * HOUR_US, [8 * HOUR_US].into_iter()), 8 * HOUR_US);
        assert_eq!(middle(8 * HOUR_US, [9 * HOUR_US].into_iter()), 8 * HOUR_US);
        assert_eq!(middle(8 * HOUR_US, std::iter::empty()), 8 * HOUR_US);
    }

    #[test]
    fn a_term_begins_where_the_table_is_and_never_before() {
        let clock = SteadyClock::new(Arc::default());
        let ahead_ms = wall_us() / 1_000 + 60_000;
        clock.begin_term(ahead_ms);
        let first = clock.now_ms();
        assert!(first >= ahead_ms);
        assert!(clock.now_ms() >= first);
        clock.end_term();
        assert!(clock.now_ms() < ahead_ms);
    }

    #[test]
    fn the_others_overrule_this_nodes_clock() {
        let peers = Arc::new(PeerClocks::default());
        let clock = SteadyClock::new(Arc::clone(&peers));
        assert_eq!(clock.ahead_ms(), None);
        let behind = wall_us() - HOUR_US;
        peers.record(2, behind, Instant::now());
        peers.record(3, behind, Instant::now());
        let told = clock.now_ms() * 1_000;
        assert!(told < behind + HOUR_US / 2, "{told}");
        let ahead_ms = clock.ahead_ms().expect("two others are known");
        assert!((3_599_000..3_601_000).contains(&ahead_ms), "{ahead_ms}");
    }

    #[test]
    fn follows_an_honest_clock_exactly() {
        assert_eq!(
            advance(HOUR_US, Duration::from_secs(1), HOUR_US + 1_000_000),
            HOUR_US + 1_000_000
        );
    }

    #[test]
    fn an_hour_ahead_moves_a_term_by_a_tenth_more() {
        assert_eq!(
            advance(HOUR_US, Duration::from_secs(1), 2 * HOUR_US),
            HOUR_US + 1_100_000
        );
    }

    #[test]
    fn an_hour_behind_never_turns_a_term_back() {
        assert_eq!(
            advance(2 * HOUR_US, Duration::from_secs(1), HOUR_US),
            2 * HOUR_US + 900_000
        );
        assert_eq!(advance(2 * HOUR_US, Duration::ZERO, HOUR_US), 2 * HOUR_US);
    }
}
