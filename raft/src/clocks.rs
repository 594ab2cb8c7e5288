//! What time the other nodes' wall clocks say it is.
//!
//! One node's clock may be wrong, and nothing on that node can tell. So each asks the others for theirs every few seconds,
//! and keeps the answers against its own monotonic clock, which no step of a wall clock touches. What is made of them is
//! the caller's business; with a majority of right clocks, the middle one is right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::StateMachine;
use crate::apply::{Raft, membership};
use crate::transport::{Lane, Target, Transport};
use crate::wire;

/// How often the others are asked, once enough of them have answered, and before.
const ASK_EVERY: Duration = Duration::from_secs(2);
const ASK_SOON: Duration = Duration::from_millis(50);
/// An answer that took longer to come says too little.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);
/// Answers are believed for so long; monotonic clocks drift apart by less than a second a day.
const BELIEVED: Duration = Duration::from_secs(600);

/// The other nodes' wall clocks, as far as they are known.
#[derive(Debug, Default)]
pub struct PeerClocks {
    heard: Mutex<BTreeMap<u64, Heard>>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    wall_us: u64,
    at: Instant,
}

impl PeerClocks {
    /// What each of the other nodes' clocks says at `now`, Unix µs, by node.
    pub fn read(&self, now: Instant) -> BTreeMap<u64, u64> {
        let heard = self.heard.lock();
        let present = heard.iter().filter_map(|(id, heard)| {
            let passed = now.saturating_duration_since(heard.at);
            let passed_us = u64::try_from(passed.as_micros()).ok()?;
            (passed <= BELIEVED).then(|| (*id, heard.wall_us.saturating_add(passed_us)))
        });
        present.collect()
    }

    /// Node `id` said at `at` that it is `wall_us`.
    pub fn note(&self, id: u64, wall_us: u64, at: Instant) {
        self.heard.lock().insert(id, Heard { wall_us, at });
    }

    fn keep(&self, members: &[u64]) {
        self.heard.lock().retain(|id, _| members.contains(id));
    }

    fn count(&self) -> usize {
        self.heard.lock().len()
    }
}

/// This node's wall clock, Unix µs; 0 before 1970.
pub fn wall_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClockReply {
    wall_us: u64,
}

impl ClockReply {
    pub(crate) fn now() -> Self {
        ClockReply { wall_us: wall_us() }
    }
}

/// The task that asks.
pub(crate) struct ClockAsker<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub clocks: Arc<PeerClocks>,
}

impl<S: StateMachine> ClockAsker<S> {
    pub(crate) async fn run(self) {
        loop {
            let membership = membership(&self.raft);
            let me = self.transport.identity.node_id;
            let others: Vec<u64> = membership.voter_ids().filter(|id| *id != me).collect();
            self.clocks.keep(&others);
            let asked = others.iter().filter_map(|id| {
                let member = membership.get_node(id)?;
                Some(self.ask(Target::member(*id, member)))
            });
            futures_util::future::join_all(asked).await;
            let formed = membership.voter_ids().next().is_some();
            // With this node's own, more than half.
            let enough = formed && self.clocks.count() >= others.len().div_ceil(2);
            tokio::time::sleep(if enough { ASK_EVERY } else { ASK_SOON }).await;
        }
    }

    async fn ask(&self, target: Target) {
        let sent = Instant::now();
        let answer = self
            .transport
            .call(
                Lane::Control,
                &target,
                "/raft/clock",
                |_| {},
                0,
                ROUND_TRIP_MAX,
            )
            .await;
        let round_trip = sent.elapsed();
        if let Ok(answer) = answer
            && let Ok(ClockReply { wall_us }) = wire::decode("a clock", &answer)
        {
            self.clocks.note(target.id, wall_us, sent + round_trip / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_heard_goes_on_and_is_forgotten_in_time() {
        let clocks = PeerClocks::default();
        let at = Instant::now();
        clocks.note(2, 1_000_000, at);
        clocks.note(3, 5_000_000, at + Duration::from_secs(1));
        let later = at + Duration::from_secs(3);
        assert_eq!(
            clocks.read(later),
            BTreeMap::from([(2, 4_000_000), (3, 7_000_000)])
        );
        assert!(clocks.read(at + BELIEVED * 2).is_empty());
        clocks.keep(&[3]);
        assert_eq!(clocks.read(later).len(), 1);
    }
}
