//! The power of one master's disk is cut under it; what was not synced is gone, and so is its process.

use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;

use crate::faults::Fault;
use crate::ground::Ground;

/// See the module.
pub struct PowerCut {
    master: u64,
    shown: bool,
}

impl PowerCut {
    /// Of this master.
    pub fn new(master: u64) -> Self {
        Self {
            master,
            shown: false,
        }
    }
}

#[async_trait(?Send)]
impl Fault for PowerCut {
    async fn inject(&mut self, ground: &mut Ground, _: Duration) -> anyhow::Result<()> {
        ground.disk(self.master)?.write_witness()?;
        ground.disk(self.master)?.cut()?;
        ground.drill.cluster.kill9(self.master);
        let disk = ground.disk(self.master)?;
        disk.unmount()?;
        disk.mount()?;
        self.shown = disk.witness_is_gone();
        Ok(())
    }

    async fn proof(&mut self, _: &mut Ground) -> anyhow::Result<Option<String>> {
        let told = format!(
            "master {}: what was written and not synced is gone from its disk",
            self.master
        );
        Ok(self.shown.then_some(told))
    }

    async fn heal(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        let ended = ground.drill.cluster.node(self.master).ended();
        ensure!(ended.is_some(), "master {} outlived its disk", self.master);
        ground.drill.cluster.restart(self.master);
        Ok(())
    }
}
