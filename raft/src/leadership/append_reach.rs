//! Reach of this node for appends: the voters that recently answered a message of append size from it, and the voters
//! whose own messages of that size reach a majority.
//!
//! Heartbeats and votes are small and have connections of their own. They may pass where appends do not: new
//! connections are refused, large packets are lost, descriptors are used up. A leader is useful only while its appends
//! arrive, so messages of append size decide whether a node should lead.
//!
//! # Invariants
//!
//! - A voter whose disk is slow does not count, because it cannot help to commit entries in time.
//! - Nothing older than [`REACH_PROBES`] probes counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Maximum age of an answer that counts, in probe intervals.
pub(crate) const REACH_PROBES: u32 = 3;

/// Record of the reach of this node and its peers. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct AppendReach {
    peers: Mutex<BTreeMap<u64, PeerReach>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct PeerReach {
    /// Last time at which the peer answered a message of append size from this node.
    reached: Option<Instant>,
    /// Whether the peer reported that its disk is slow.
    slow_disk: bool,
    /// Last time at which the peer itself had reached a majority, by its own report.
    reaches_majority: Option<Instant>,
}

impl AppendReach {
    /// Records that the peer answered a message of append size.
    pub(crate) fn record_reached(&self, peer: u64, now: Instant) {
        self.peers.lock().entry(peer).or_default().reached = Some(now);
    }

    /// Records a report of the peer: whether its disk is slow, and how long ago it had reached a majority.
    pub(crate) fn record_report(
        &self,
        peer: u64,
        slow_disk: bool,
        majority_age: Option<Duration>,
        now: Instant,
    ) {
        let mut peers = self.peers.lock();
        let peer = peers.entry(peer).or_default();
        peer.slow_disk = slow_disk;
        peer.reaches_majority = majority_age.and_then(|age| now.checked_sub(age));
    }

    /// Returns the time since this node had reached a majority of `voters` whose disks are not slow, itself among them.
    /// `None` if it never had, or its own disk is slow.
    pub(crate) fn majority_age(
        &self,
        voters: &[u64],
        me: u64,
        own_slow_disk: bool,
        now: Instant,
    ) -> Option<Duration> {
        if own_slow_disk || !voters.contains(&me) {
            return None;
        }
        let peers = self.peers.lock();
        let mut reached: Vec<Instant> = voters
            .iter()
            .filter_map(|id| match peers.get(id) {
                _ if *id == me => Some(now),
                Some(peer) if !peer.slow_disk => peer.reached,
                Some(_) | None => None,
            })
            .collect();
        reached.sort_unstable();
        let majority = voters.len() / 2 + 1;
        let at = reached.len().checked_sub(majority)?;
        Some(now.saturating_duration_since(reached[at]))
    }

    /// Returns whether the peer reported that it had reached a majority within `window`.
    pub(crate) fn peer_reaches_majority(&self, peer: u64, window: Duration, now: Instant) -> bool {
        self.is_within(peer, window, now, |reach| reach.reaches_majority)
    }

    /// Returns whether this node reached the peer within `window`.
    pub(crate) fn reaches(&self, peer: u64, window: Duration, now: Instant) -> bool {
        self.is_within(peer, window, now, |reach| reach.reached)
    }

    /// Returns whether the peer reported that its disk is slow.
    pub(crate) fn has_slow_disk(&self, peer: u64) -> bool {
        let peers = self.peers.lock();
        peers.get(&peer).is_some_and(|reach| reach.slow_disk)
    }

    fn is_within(
        &self,
        peer: u64,
        window: Duration,
        now: Instant,
        of: impl Fn(&PeerReach) -> Option<Instant>,
    ) -> bool {
        let peers = self.peers.lock();
        let at = peers.get(&peer).and_then(of);
        at.is_some_and(|at| now.saturating_duration_since(at) <= window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(1);

    #[test]
    fn a_majority_is_reached_as_of_the_oldest_answer_that_it_needs() {
        let now = Instant::now() + WINDOW * 10;
        let reach = AppendReach::default();
        let voters = [1, 2, 3, 4, 5];
        assert_eq!(reach.majority_age(&voters, 1, false, now), None);
        reach.record_reached(2, now - WINDOW);
        assert_eq!(reach.majority_age(&voters, 1, false, now), None);
        reach.record_reached(3, now - WINDOW * 3);
        assert_eq!(reach.majority_age(&voters, 1, false, now), Some(WINDOW * 3));
        reach.record_reached(4, now);
        assert_eq!(reach.majority_age(&voters, 1, false, now), Some(WINDOW));
        assert_eq!(
            reach.majority_age(&[1], 1, false, now),
            Some(Duration::ZERO)
        );
        assert_eq!(reach.majority_age(&[2, 3], 1, false, now), None);
    }

    #[test]
    fn a_voter_with_a_slow_disk_does_not_count() {
        let now = Instant::now() + WINDOW;
        let reach = AppendReach::default();
        let voters = [1, 2, 3];
        for peer in [2, 3] {
            reach.record_reached(peer, now);
            reach.record_report(peer, true, None, now);
        }
        assert_eq!(reach.majority_age(&voters, 1, false, now), None);
        reach.record_report(3, false, Some(Duration::ZERO), now);
        assert_eq!(
            reach.majority_age(&voters, 1, false, now),
            Some(Duration::ZERO)
        );
        assert_eq!(reach.majority_age(&voters, 1, true, now), None);
        assert!(reach.peer_reaches_majority(3, WINDOW, now));
        assert!(!reach.peer_reaches_majority(2, WINDOW, now));
    }
}
