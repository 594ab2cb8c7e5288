//! Fault: a fourth master joins. Healed by removing it.

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use reqwest::Method;

use crate::faults::Fault;
use crate::testbed::Testbed;

/// A membership change.
#[derive(Default)]
pub struct FourthMaster {
    new: Option<u64>,
}

#[async_trait(?Send)]
impl Fault for FourthMaster {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        testbed.take_spare()?;
        let cluster = &mut testbed.drill.cluster;
        let new = cluster.start_waiting().await;
        self.new = Some(new);
        let cli = cluster.cli();
        cli.run(&["cluster", "add", &cluster.named(new)])
            .await
            .expect(0);
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let new = self.new.context("it was injected")?;
        let Some((_, leader)) = testbed.drill.cluster.observed_leader().await else {
            return Ok(None);
        };
        let api = testbed.drill.cluster.api(leader);
        let Ok(status) = api.call(Method::GET, "/v1/cluster").send().await else {
            return Ok(None);
        };
        let nodes = status.json()["nodes"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let voters: Vec<u64> = nodes
            .iter()
            .filter(|node| node["role"] == "voter")
            .filter_map(|node| node["id"].as_u64())
            .collect();
        let proof = format!("the leader counts the voters {voters:?}");
        Ok(voters.contains(&new).then_some(proof))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        let new = self.new.context("it was injected")?;
        let cluster = &mut testbed.drill.cluster;
        let cli = cluster.cli();
        cli.run(&["cluster", "remove", &new.to_string()])
            .await
            .expect(0);
        cluster.terminate(new).await;
        Ok(())
    }
}
