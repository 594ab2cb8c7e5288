//! Fault: messages between one master and the others arrive late, by varying times.

use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;

use crate::faults::Fault;
use crate::net::proxies::LinkDelay;
use crate::plan::Roles;
use crate::testbed::Testbed;

/// Delay in each direction. A leader sends heartbeats every 80 ms, and 200 ms without one may cause an election.
const LATE_MS: std::ops::RangeInclusive<u64> = 10..=120;

/// A slow network.
pub struct Delay {
    master: u64,
    others: Vec<u64>,
    late: LinkDelay,
}

impl Delay {
    /// Creates the fault between this master and the others.
    pub fn new(master: u64, roles: &Roles) -> Self {
        Self {
            master,
            others: roles.all().into_iter().filter(|id| *id != master).collect(),
            late: LinkDelay::default(),
        }
    }
}

#[async_trait(?Send)]
impl Fault for Delay {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        let min = testbed.drill.random.random_range(LATE_MS);
        self.late = LinkDelay {
            min: Duration::from_millis(min),
            jitter: Duration::from_millis(min / 2),
        };
        testbed.net.delay(self.master, &self.others, self.late)
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let held = testbed.net.held_back().await?;
        let proof = format!(
            "master {}: {held} pieces came {} to {} ms late",
            self.master,
            self.late.min.as_millis(),
            (self.late.min + self.late.jitter).as_millis()
        );
        Ok((held > 0).then_some(proof))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        testbed.net.heal().await
    }
}
