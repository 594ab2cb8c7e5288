//! Clock sync: queries of the other nodes' wall clocks.
//!
//! A node's clock may be wrong, and nothing on that node can show it. Each node therefore asks the others for theirs
//! every few seconds. It stores the answers relative to its own monotonic clock, which no step of a wall clock touches.
//! The caller decides how to use them; with a majority of right clocks, the middle one is right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::apply::applier::{Raft, membership};
use crate::network::transport::{CLOCK_PATH, Lane, Target, Transport};
use crate::peer_clocks::{PeerClocks, wall_us};
use crate::protocol::messages;
use crate::state_machine::StateMachine;

/// Interval between two queries once a majority of clocks is known.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Interval between two queries until then.
const STARTUP_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum round trip of an answer that is used.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClockReply {
    wall_us: u64,
}

impl ClockReply {
    pub(crate) fn now() -> Self {
        ClockReply { wall_us: wall_us() }
    }
}

/// Task that queries the other nodes.
pub(crate) struct ClockSync<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub clocks: Arc<PeerClocks>,
}

impl<S: StateMachine> ClockSync<S> {
    pub(crate) async fn run(self) {
        loop {
            let membership = membership(&self.raft);
            let me = self.transport.identity.node_id;
            let others: Vec<u64> = membership.voter_ids().filter(|id| *id != me).collect();
            self.clocks.retain(&others);
            let requests = others.iter().filter_map(|id| {
                let member = membership.get_node(id)?;
                Some(self.query(Target::member(*id, member)))
            });
            futures_util::future::join_all(requests).await;
            let formed = membership.voter_ids().next().is_some();
            // Together with this node's own clock, these are more than half.
            let enough = formed && self.clocks.count() >= others.len().div_ceil(2);
            tokio::time::sleep(if enough {
                POLL_INTERVAL
            } else {
                STARTUP_POLL_INTERVAL
            })
            .await;
        }
    }

    async fn query(&self, target: Target) {
        let sent = Instant::now();
        let answer = self
            .transport
            .call(
                Lane::Control,
                &target,
                CLOCK_PATH,
                |_| {},
                0,
                ROUND_TRIP_MAX,
            )
            .await;
        let round_trip = sent.elapsed();
        if let Ok(answer) = answer
            && let Ok(ClockReply { wall_us }) = messages::decode("a clock", &answer)
        {
            self.clocks
                .record(target.id, wall_us, sent + round_trip / 2);
        }
    }
}
