//! Fault: SIGTERM of a master, as in an upgrade. Healed by a start with the same command.

use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;

use crate::faults::Fault;
use crate::testbed::Testbed;

/// A restart of a master.
pub struct Restart {
    master: u64,
}

impl Restart {
    /// Creates the fault for this master.
    pub fn new(master: u64) -> Self {
        Self { master }
    }
}

#[async_trait(?Send)]
impl Fault for Restart {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        let ended = testbed.drill.cluster.terminate(self.master).await;
        let master = self.master;
        ensure!(
            ended.success(),
            "master {master} was asked to end, and ended by {ended}"
        );
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let ended = testbed.drill.cluster.node(self.master).ended();
        let master = self.master;
        Ok(ended.map(|status| format!("master {master} ended after SIGTERM: {status}")))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        testbed.drill.cluster.restart(self.master);
        Ok(())
    }
}
