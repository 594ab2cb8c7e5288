//! Fault: packets between one master and the others are lost at random.

use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;

use crate::faults::Fault;
use crate::plan::Roles;
use crate::testbed::Testbed;

/// Range of the loss, in percent of the packets.
const PERCENT: std::ops::RangeInclusive<u32> = 5..=40;

/// A lossy network.
pub struct Loss {
    master: u64,
    others: Vec<u64>,
    percent: u32,
}

impl Loss {
    /// Creates the fault between this master and the others.
    pub fn new(master: u64, roles: &Roles) -> Self {
        Self {
            master,
            others: roles.all().into_iter().filter(|id| *id != master).collect(),
            percent: 0,
        }
    }
}

#[async_trait(?Send)]
impl Fault for Loss {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        self.percent = testbed.drill.random.random_range(PERCENT);
        testbed.net.lose(self.master, &self.others, self.percent)
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let dropped = testbed.net.held_back().await?;
        let (master, percent) = (self.master, self.percent);
        let proof = format!("master {master}: {dropped} packets dropped, {percent} of 100");
        Ok((dropped > 0).then_some(proof))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        testbed.net.heal().await
    }
}
