//! Fault: the wall clock of one master jumps. Healed by correcting the clock.

use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;
use reqwest::Method;

use crate::faults::Fault;
use crate::testbed::Testbed;

/// Range of the jump in either direction.
const JUMP_S: std::ops::RangeInclusive<i64> = 60..=24 * 3_600;
/// Maximum difference between the jump and the offset that the master itself measures.
const CLOSE_MS: i64 = 1_500;

/// A jump of a wall clock.
pub struct ClockJump {
    master: u64,
    ahead_s: i64,
}

impl ClockJump {
    /// Creates the fault for this master.
    pub fn new(master: u64) -> Self {
        Self { master, ahead_s: 0 }
    }
}

#[async_trait(?Send)]
impl Fault for ClockJump {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        let jump_s = testbed.drill.random.random_range(JUMP_S);
        self.ahead_s = if testbed.drill.random.random() {
            jump_s
        } else {
            -jump_s
        };
        testbed.fake_clocks()?.set(self.master, self.ahead_s);
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let api = testbed.drill.cluster.api(self.master);
        let status = api
            .call(Method::GET, "/v1/cluster?consistency=stale")
            .send()
            .await;
        let found_ms = status
            .ok()
            .and_then(|status| status.json()["clock_ahead_ms"].as_i64());
        let close = |ms: &i64| (ms - self.ahead_s * 1_000).abs() <= CLOSE_MS;
        let (master, ahead_s) = (self.master, self.ahead_s);
        Ok(found_ms.filter(close).map(|ms| {
            format!("master {master}: its clock was set {ahead_s:+} s off; it found {ms:+} ms")
        }))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        testbed.fake_clocks()?.set(self.master, 0);
        Ok(())
    }
}
