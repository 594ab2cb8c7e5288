//! SIGTERM, as whoever upgrades a master does it; healed by a start with the same command.

use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;

use crate::faults::Fault;
use crate::ground::Ground;

/// See the module.
pub struct Restart {
    master: u64,
}

impl Restart {
    /// Of this master.
    pub fn new(master: u64) -> Self {
        Self { master }
    }
}

#[async_trait(?Send)]
impl Fault for Restart {
    async fn inject(&mut self, ground: &mut Ground, _: Duration) -> anyhow::Result<()> {
        let ended = ground.drill.cluster.terminate(self.master).await;
        let master = self.master;
        ensure!(
            ended.success(),
            "master {master} was asked to end, and ended by {ended}"
        );
        Ok(())
    }

    async fn proof(&mut self, ground: &mut Ground) -> anyhow::Result<Option<String>> {
        let ended = ground.drill.cluster.node(self.master).ended();
        let master = self.master;
        Ok(ended.map(|status| format!("master {master} ended after SIGTERM: {status}")))
    }

    async fn heal(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        ground.drill.cluster.restart(self.master);
        Ok(())
    }
}
