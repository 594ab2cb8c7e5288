//! Cluster clock, as this node reads it: Unix time that does not jump, and is right if most of the nodes' clocks are.
//!
//! Any single wall clock may be wrong, also when its process starts. Therefore the *median* of all nodes' wall clocks
//! counts as the time. With an even number of clocks, the earlier of the two in the middle counts. A late clock is
//! harmless, an early one is not, because the table's time does not go back by itself.
//!
//! # Invariants
//!
//! - From the beginning of a term the leader's clock moves with the monotonic clock and is slewed towards the median, by at
//!   most one part in ten. A step of any wall clock makes delays at most a tenth shorter or longer.
//! - Within a term the clock never goes back and never stands still, except once when the table's time is
//!   [corrected](super::time_correction).

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use triarch_raft::peer_clocks::{PeerClocks, wall_us};

/// Median of the nodes' clocks, slewed within a term. See the module.
pub struct ClusterClock {
    peers: Arc<PeerClocks>,
    /// Set only while this node leads.
    slewed: Mutex<Option<SlewedTime>>,
}

struct SlewedTime {
    unix_us: u64,
    at: Instant,
}

/// Maximum age of a sample of another node's clock where all clocks must be known.
const FRESH_SAMPLE_AGE: Duration = Duration::from_secs(10);
/// Maximum distance of clocks that agree.
const AGREEMENT_MS: u64 = 5_000;

/// Reason why the nodes' clocks do not give one time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClockDisagreement {
    /// Some clocks are not known.
    #[error(
        "the clocks of these masters are not known, because they have not answered for {} s: {}. Start them, or remove them \
         from the cluster, then repeat",
        FRESH_SAMPLE_AGE.as_secs(),
        list(nodes)
    )]
    Unknown {
        /// The nodes.
        nodes: Vec<u64>,
    },
    /// Some clocks are wrong.
    #[error(
        "the clocks of the masters differ by {apart_ms} ms (node {earliest} is the earliest, node {latest} the latest), and at most \
         {AGREEMENT_MS} ms are allowed here. Set the wrong clocks, wait some seconds, then repeat"
    )]
    Apart {
        /// Distance between the earliest and the latest clock, in ms.
        apart_ms: u64,
        /// The node with the earliest clock.
        earliest: u64,
        /// The node with the latest clock.
        latest: u64,
    },
}

fn list(nodes: &[u64]) -> String {
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    nodes.join(", ")
}

/// Maximum slew, as a divisor: a leader's clock runs faster or slower than real time by at most one part in this many.
const SLEW_DIVISOR: u64 = 10;

impl ClusterClock {
    /// Creates a clock that also counts the given clocks of other nodes.
    pub fn new(peers: Arc<PeerClocks>) -> Self {
        Self {
            peers,
            slewed: Mutex::new(None),
        }
    }

    /// Begins a term of leadership over a table whose time is `table_ms`.
    pub fn begin_term(&self, table_ms: u64) {
        let now = Instant::now();
        *self.slewed.lock() = Some(SlewedTime {
            unix_us: self.median_us(now).max(table_ms.saturating_mul(1_000)),
            at: now,
        });
    }

    /// Sets the clock of this term back to the median, for a table whose time is ahead. Has no effect outside of a term.
    pub fn set_back(&self) {
        let now = Instant::now();
        let median_us = self.median_us(now);
        if let Some(time) = &mut *self.slewed.lock() {
            *time = SlewedTime {
                unix_us: median_us,
                at: now,
            };
        }
    }

    /// Lets the clock of this term go on from the time of a table that is ahead. Has no effect outside of a term.
    pub fn go_on_from(&self, table_ms: u64) {
        if let Some(time) = &mut *self.slewed.lock() {
            time.unix_us = time.unix_us.max(table_ms.saturating_mul(1_000));
        }
    }

    /// Returns the latest of all voters' clocks, in Unix ms: of this node, which is `own`, and of the `others`.
    ///
    /// # Errors
    ///
    /// Fails unless all clocks are known and agree.
    pub fn latest_of_all(&self, own: u64, others: &[u64]) -> Result<u64, ClockDisagreement> {
        let known = self.peers.read_within(Instant::now(), FRESH_SAMPLE_AGE);
        let unknown = others.iter().filter(|id| !known.contains_key(*id));
        let nodes: Vec<u64> = unknown.copied().collect();
        if !nodes.is_empty() {
            return Err(ClockDisagreement::Unknown { nodes });
        }
        let others = known.into_iter().filter(|(id, _)| others.contains(id));
        let mut clocks: Vec<(u64, u64)> = others.map(|(id, us)| (us / 1_000, id)).collect();
        clocks.push((wall_us() / 1_000, own));
        clocks.sort_unstable();
        let ((earliest_ms, earliest), (latest_ms, latest)) = (clocks[0], clocks[clocks.len() - 1]);
        let apart_ms = latest_ms - earliest_ms;
        match apart_ms <= AGREEMENT_MS {
            true => Ok(latest_ms),
            false => Err(ClockDisagreement::Apart {
                apart_ms,
                earliest,
                latest,
            }),
        }
    }

    /// Ends the term; from now on the clock is the plain median again.
    pub fn end_term(&self) {
        *self.slewed.lock() = None;
    }

    /// Returns Unix time in milliseconds. It never goes back within a term.
    pub fn now_ms(&self) -> u64 {
        let now = Instant::now();
        let median_us = self.median_us(now);
        let mut slewed = self.slewed.lock();
        let unix_us = match &mut *slewed {
            Some(time) => time.advance_to(now, median_us),
            None => median_us,
        };
        unix_us / 1_000
    }

    /// Returns the clock skew of this node in ms: how far its wall clock is ahead of the median. Negative if it is
    /// behind. `None` while fewer than two other clocks are known, because then none can be called right.
    pub fn skew_ms(&self) -> Option<i64> {
        let others = self.peers.read(Instant::now());
        if others.len() < 2 {
            return None;
        }
        let own_us = wall_us();
        let median_us = median(own_us, others.into_values());
        let signed = |us: u64| i64::try_from(us / 1_000).unwrap_or(i64::MAX);
        Some(signed(own_us).saturating_sub(signed(median_us)))
    }

    /// Returns by how much the time of the table is ahead of the median of the nodes' clocks, in ms; 0 if it is not ahead.
    ///
    /// The time of the table does not go back by itself. After most clocks were ahead once, it stays ahead until they have
    /// caught up with it, or until it is [set back](super::time_correction).
    pub fn table_ahead_ms(&self, table_ms: u64) -> u64 {
        table_ms.saturating_sub(self.median_us(Instant::now()) / 1_000)
    }

    fn median_us(&self, now: Instant) -> u64 {
        median(wall_us(), self.peers.read(now).into_values())
    }
}

/// Returns the median, or the earlier of the two values in the middle.
fn median(own_us: u64, others_us: impl Iterator<Item = u64>) -> u64 {
    let mut all: Vec<u64> = others_us.chain([own_us]).collect();
    all.sort_unstable();
    all[(all.len() - 1) / 2]
}

impl SlewedTime {
    fn advance_to(&mut self, now: Instant, median_us: u64) -> u64 {
        let elapsed = now.saturating_duration_since(self.at);
        self.unix_us = advance(self.unix_us, elapsed, median_us);
        self.at = now;
        self.unix_us
    }
}

/// Returns the time `passed` after it was `unix_us`, slewed towards `median_us`.
fn advance(unix_us: u64, passed: Duration, median_us: u64) -> u64 {
    let passed_us = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
    let expected = unix_us.saturating_add(passed_us);
    let slew_us = passed_us / SLEW_DIVISOR;
    median_us.clamp(
        expected.saturating_sub(slew_us),
        expected.saturating_add(slew_us),
    )
}

/// Clock skew from which an operator is warned.
const SKEW_WARNING_MS: u64 = 1_000;
/// Lead of the table's time over the clocks from which an operator is warned.
const TABLE_AHEAD_WARNING_MS: u64 = 10_000;
/// Interval between two checks of the clocks.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Interval between two warnings of a table whose time stays ahead.
const TABLE_AHEAD_LOG_INTERVAL: Duration = Duration::from_secs(3_600);

/// Warns of wrong clocks: of this node's skew once each time it begins, of a table in the future again every hour.
/// `table_ms` returns the time of the table.
pub async fn warn_of_wrong_clocks(clock: Arc<ClusterClock>, table_ms: impl Fn() -> u64) {
    let mut skewed = false;
    let mut table_warned: Option<Instant> = None;
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        if let Some(ahead_ms) = clock.skew_ms() {
            warn_of_skew(ahead_ms, &mut skewed);
        }
        warn_of_table_ahead(clock.table_ahead_ms(table_ms()), &mut table_warned);
    }
}

fn warn_of_skew(ahead_ms: i64, warned: &mut bool) {
    let far = ahead_ms.unsigned_abs() >= SKEW_WARNING_MS;
    if far && !*warned {
        tracing::warn!(
            ahead_ms,
            "clock skew: this machine's clock is far from those of the other masters; the cluster uses their median; set this clock"
        );
    } else if *warned && !far {
        tracing::info!(
            ahead_ms,
            "clock skew has ended: this machine's clock agrees with the others again"
        );
    }
    *warned = far;
}

fn warn_of_table_ahead(ahead_ms: u64, warned: &mut Option<Instant>) {
    let far = ahead_ms >= TABLE_AHEAD_WARNING_MS;
    match *warned {
        None if far => {}
        Some(at) if far && at.elapsed() >= TABLE_AHEAD_LOG_INTERVAL => {}
        Some(_) if !far => {
            tracing::info!("the masters' clocks agree with the time of the table again");
            *warned = None;
            return;
        }
        Some(_) | None => return,
    }
    *warned = Some(Instant::now());
    tracing::warn!(
        table_ahead_s = ahead_ms / 1_000,
        "the time of the table is ahead of the masters' clocks, and does not go back by itself: most clocks were ahead once, or \
         are behind now. Delays and schedules go by the time of the table: set the clocks right, then run `triarch cluster \
         set-time-back`; see 'Wrong clocks' in docs/operations.md"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: u64 = 3_600_000_000;

    #[test]
    fn one_wrong_clock_of_three_does_not_move_the_median() {
        let now = 100 * HOUR_US;
        let near = [now + 3, now - 2];
        assert_eq!(median(now, near.into_iter()), now);
        assert_eq!(median(now + HOUR_US, near.into_iter()), now + 3);
        assert_eq!(median(now - HOUR_US, near.into_iter()), now - 2);
        assert_eq!(median(now, [now + 1, now + HOUR_US].into_iter()), now + 1);
    }

    #[test]
    fn of_two_clocks_the_earlier_is_the_median() {
        assert_eq!(median(9 * HOUR_US, [8 * HOUR_US].into_iter()), 8 * HOUR_US);
        assert_eq!(median(8 * HOUR_US, [9 * HOUR_US].into_iter()), 8 * HOUR_US);
        assert_eq!(median(8 * HOUR_US, std::iter::empty()), 8 * HOUR_US);
    }

    #[test]
    fn a_term_begins_no_earlier_than_the_time_of_the_table() {
        let clock = ClusterClock::new(Arc::default());
        let ahead_ms = wall_us() / 1_000 + 60_000;
        clock.begin_term(ahead_ms);
        let first = clock.now_ms();
        assert!(first >= ahead_ms);
        assert!(clock.now_ms() >= first);
        clock.end_term();
        assert!(clock.now_ms() < ahead_ms);
    }

    #[test]
    fn two_other_clocks_overrule_this_nodes_clock() {
        let peers = Arc::new(PeerClocks::default());
        let clock = ClusterClock::new(Arc::clone(&peers));
        assert_eq!(clock.skew_ms(), None);
        let behind = wall_us() - HOUR_US;
        peers.record(2, behind, Instant::now());
        peers.record(3, behind, Instant::now());
        let now_us = clock.now_ms() * 1_000;
        assert!(now_us < behind + HOUR_US / 2, "{now_us}");
        let ahead_ms = clock.skew_ms().expect("two others are known");
        assert!((3_599_000..3_601_000).contains(&ahead_ms), "{ahead_ms}");
    }

    #[test]
    fn a_table_that_is_ahead_of_the_clocks_is_measured_by_their_median() {
        let peers = Arc::new(PeerClocks::default());
        let clock = ClusterClock::new(Arc::clone(&peers));
        let table_ms = (wall_us() + HOUR_US) / 1_000;
        let ahead_ms = clock.table_ahead_ms(table_ms);
        assert!((3_590_000..=3_600_000).contains(&ahead_ms), "{ahead_ms}");
        assert_eq!(clock.table_ahead_ms(wall_us() / 1_000 - 1), 0);
        for peer in [2, 3] {
            peers.record(peer, wall_us() + HOUR_US, Instant::now());
        }
        assert!(clock.table_ahead_ms(table_ms) < 10_000);
    }

    #[test]
    fn a_term_is_set_back_to_the_median_and_goes_on_from_the_table_after_a_refusal() {
        let clock = ClusterClock::new(Arc::default());
        let ahead_ms = wall_us() / 1_000 + 3_600_000;
        clock.set_back();
        clock.go_on_from(ahead_ms);
        assert!(
            clock.now_ms() < ahead_ms,
            "it has no effect outside of a term"
        );
        clock.begin_term(ahead_ms);
        clock.set_back();
        assert!(clock.now_ms() < ahead_ms - 3_000_000);
        clock.go_on_from(ahead_ms);
        assert!(clock.now_ms() >= ahead_ms);
    }

    #[test]
    fn clocks_that_are_unknown_or_apart_give_no_time() {
        let peers = Arc::new(PeerClocks::default());
        let clock = ClusterClock::new(Arc::clone(&peers));
        let now = Instant::now();
        assert!(
            clock.latest_of_all(1, &[]).is_ok(),
            "a lone master has its own clock"
        );
        peers.record(2, wall_us(), now);
        let unknown = clock.latest_of_all(1, &[2, 3]).expect_err("one is unknown");
        assert_eq!(unknown, ClockDisagreement::Unknown { nodes: vec![3] });
        let old = now
            .checked_sub(FRESH_SAMPLE_AGE * 2)
            .expect("the machine runs longer");
        peers.record(3, wall_us(), old);
        let unknown = clock
            .latest_of_all(1, &[2, 3])
            .expect_err("one has not answered for long");
        assert_eq!(unknown, ClockDisagreement::Unknown { nodes: vec![3] });
        assert!(
            unknown.to_string().contains("not answered for 10 s: 3."),
            "{unknown}"
        );
        peers.record(3, wall_us() + 2_000_000, now);
        let latest_ms = clock.latest_of_all(1, &[2, 3]).expect("they agree");
        assert!(latest_ms > wall_us() / 1_000 + 1_000, "{latest_ms}");
        peers.record(2, wall_us() - HOUR_US, now);
        let apart = clock.latest_of_all(1, &[2, 3]).expect_err("one is wrong");
        let ClockDisagreement::Apart {
            apart_ms,
            earliest: 2,
            latest: 3,
        } = apart
        else {
            panic!("{apart:?}");
        };
        assert!((3_602_000..3_603_000).contains(&apart_ms), "{apart_ms}");
    }

    #[test]
    fn a_right_clock_is_followed_exactly() {
        assert_eq!(
            advance(HOUR_US, Duration::from_secs(1), HOUR_US + 1_000_000),
            HOUR_US + 1_000_000
        );
    }

    #[test]
    fn a_median_an_hour_ahead_slews_a_term_by_a_tenth() {
        assert_eq!(
            advance(HOUR_US, Duration::from_secs(1), 2 * HOUR_US),
            HOUR_US + 1_100_000
        );
    }

    #[test]
    fn a_median_an_hour_behind_slows_a_term_and_never_turns_it_back() {
        assert_eq!(
            advance(2 * HOUR_US, Duration::from_secs(1), HOUR_US),
            2 * HOUR_US + 900_000
        );
        assert_eq!(advance(2 * HOUR_US, Duration::ZERO, HOUR_US), 2 * HOUR_US);
    }
}
