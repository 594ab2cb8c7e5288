//! One master's disk is filled to the last byte by somebody else; healed by taking that away.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;

use crate::faults::Fault;
use crate::ground::Ground;

/// See the module.
pub struct FullDisk {
    master: u64,
}

impl FullDisk {
    /// Of this master.
    pub fn new(master: u64) -> Self {
        Self { master }
    }
}

#[async_trait(?Send)]
impl Fault for FullDisk {
    async fn inject(&mut self, ground: &mut Ground, _: Duration) -> anyhow::Result<()> {
        ground.disk(self.master)?.fill()
    }

    async fn proof(&mut self, ground: &mut Ground) -> anyhow::Result<Option<String>> {
        let full = ground.disk(self.master)?.refuses_more()?;
        let api = ground.drill.cluster.api(self.master);
        let ready = api.call(Method::GET, "/readyz").send().await;
        let low =
            ready.is_ok_and(|reply| reply.status == 200 && reply.json()["disk"]["low"] == true);
        let told = format!(
            "master {}: its disk answers ENOSPC, and it says that it has too little room",
            self.master
        );
        Ok((full && low).then_some(told))
    }

    async fn heal(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        ground.disk(self.master)?.free()
    }
}
