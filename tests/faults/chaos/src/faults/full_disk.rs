//! Fault: a file of this program fills the disk of one master to the last byte. Healed by deleting the file.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;

use crate::faults::Fault;
use crate::testbed::Testbed;

/// A full disk.
pub struct FullDisk {
    master: u64,
}

impl FullDisk {
    /// Creates the fault for this master.
    pub fn new(master: u64) -> Self {
        Self { master }
    }
}

#[async_trait(?Send)]
impl Fault for FullDisk {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        testbed.disk(self.master)?.fill()
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let full = testbed.disk(self.master)?.refuses_more()?;
        let api = testbed.drill.cluster.api(self.master);
        let ready = api.call(Method::GET, "/readyz").send().await;
        // A follower that takes no entries soon is not ready, and names its disk all the same.
        let low = ready.is_ok_and(|reply| reply.json()["disk"]["low"] == true);
        let proof = format!(
            "master {}: its disk answers ENOSPC, and it says that it has too little room",
            self.master
        );
        Ok((full && low).then_some(proof))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        testbed.disk(self.master)?.free()
    }
}
