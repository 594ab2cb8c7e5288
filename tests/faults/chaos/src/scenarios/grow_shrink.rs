//! Scenario: two masters join and two are removed, the leader among them, repeatedly, while the cluster is in use.

use std::time::Instant;

use clap::Args;
use rand::seq::IndexedRandom;
use serde_json::Value;
use triarch_harness::http::Method;
use triarch_harness::{Cluster, eventually};

use crate::drill::{DRAIN_TIMEOUT, Drill};
use crate::results::latency::Latencies;
use crate::{LoadArgs, Outcome};

/// Add two masters and remove two again, the leader among them, while the cluster is in use
#[derive(Debug, Args)]
pub struct GrowShrinkArgs {
    /// Number of changes from three masters to five and back
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=40))]
    rounds: u32,
    #[command(flatten)]
    load: LoadArgs,
}

/// Number of submissions between two changes.
const JOBS_BETWEEN_ROUNDS: usize = 50;

impl GrowShrinkArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let last = 3 + 2 * u64::from(self.rounds);
        let mut drill = Drill::begin_among(&self.load, Vec::new(), last).await;
        drill.recorder().expect("add", u64::from(self.rounds));
        drill
            .recorder()
            .expect("remove", 2 * u64::from(self.rounds));
        let (mut adds, mut removes) = (Latencies::default(), Latencies::default());
        for nth in 1..=self.rounds {
            for _ in 0..2 {
                let new = drill.cluster.start_waiting().await;
                let named = drill.cluster.named(new);
                let begun = Instant::now();
                let cli = drill.cluster.cli();
                cli.run(&["cluster", "add", &named]).await.expect(0);
                adds.add(begun.elapsed());
                drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            }
            let five = voters(&mut drill.cluster, 5).await;
            println!("round {nth}/{}: the voters are {five:?}", self.rounds);
            let proof = format!("the voters are {five:?}");
            drill.recorder().fault("add", "two masters", Some(&proof));
            for turn in 0..2 {
                let leader = drill.cluster.wait_ready().await;
                let running = drill.cluster.running();
                let others: Vec<u64> = running.into_iter().filter(|id| *id != leader).collect();
                let out = match turn {
                    0 => leader,
                    _ => *others.choose(&mut drill.random).expect("others run"),
                };
                let begun = Instant::now();
                let cli = drill.cluster.cli();
                cli.run(&["cluster", "remove", &out.to_string()])
                    .await
                    .expect(0);
                removes.add(begun.elapsed());
                drill.cluster.terminate(out).await;
                let target = if turn == 0 { "leader" } else { "follower" };
                let proof = format!("master {out} was taken out and has ended");
                drill.recorder().fault("remove", target, Some(&proof));
                let leads = if turn == 0 { ", which led," } else { "" };
                println!("round {nth}/{}: master {out}{leads} is out", self.rounds);
                drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            }
            let three = voters(&mut drill.cluster, 3).await;
            println!("round {nth}/{}: the voters are {three:?}", self.rounds);
        }
        let findings = [
            format!("to bring one in: {}", adds.summary()),
            format!("to take one out: {}", removes.summary()),
        ];
        let title = format!("{} times from three masters to five and back", self.rounds);
        Ok(drill.end(&title, &findings).await)
    }
}

/// Waits until the leader reports this many voters and no learner, and returns the voters.
pub async fn voters(cluster: &mut Cluster, count: usize) -> Vec<u64> {
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    eventually(
        DRAIN_TIMEOUT,
        format!("there are {count} voters"),
        async || {
            let call = api.call(Method::GET, "/v1/cluster");
            let status = call.send().await.ok().filter(|reply| reply.status == 200)?;
            let nodes: Vec<Value> = status.json()["nodes"].as_array()?.clone();
            let voter = |node: &&Value| node["role"] == "voter";
            let voters = nodes
                .iter()
                .filter(voter)
                .filter_map(|node| node["id"].as_u64());
            let voters: Vec<u64> = voters.collect();
            (voters.len() == count && nodes.len() == count).then_some(voters)
        },
    )
    .await
}
