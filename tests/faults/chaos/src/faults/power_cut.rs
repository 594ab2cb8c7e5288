//! Fault: the power of one master's disk is cut. Unsynced data is lost, and the process is killed.

use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;

use crate::faults::Fault;
use crate::testbed::Testbed;

/// A power cut of one disk.
pub struct PowerCut {
    master: u64,
    shown: bool,
}

impl PowerCut {
    /// Creates the fault for this master.
    pub fn new(master: u64) -> Self {
        Self {
            master,
            shown: false,
        }
    }
}

#[async_trait(?Send)]
impl Fault for PowerCut {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        testbed.disk(self.master)?.write_canary()?;
        testbed.disk(self.master)?.cut()?;
        testbed.drill.cluster.kill9(self.master);
        let disk = testbed.disk(self.master)?;
        disk.unmount()?;
        disk.mount()?;
        self.shown = disk.canary_is_gone();
        Ok(())
    }

    async fn proof(&mut self, _: &mut Testbed) -> anyhow::Result<Option<String>> {
        let proof = format!(
            "master {}: what was written and not synced is gone from its disk",
            self.master
        );
        Ok(self.shown.then_some(proof))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        let ended = testbed.drill.cluster.node(self.master).ended();
        ensure!(ended.is_some(), "master {} outlived its disk", self.master);
        testbed.drill.cluster.restart(self.master);
        Ok(())
    }
}
