//! Masters brought in and taken out while the cluster is used, by the command line.

use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::binary::triarch;
use triarch_harness::{Api, Cluster, Hand, Process, hand, until};

use crate::tasks::{SOON, submit_task};

/// Starts a master that waits to be brought in, and gives it with its address.
fn start_waiting(cluster: &Cluster, node: u64) -> (Process, String) {
    let addr = cluster.addr(node);
    let mut command: Command = cluster.marked(triarch());
    command
        .arg("server")
        .args(["--id", &node.to_string()])
        .args(["--listen", &addr])
        .arg("--data-dir")
        .arg(cluster.root().join(format!("master-{node}")))
        .args(["--join", &cluster.masters()]);
    let name = format!("master-{node}");
    (cluster.spawn(&name, command), addr)
}

async fn status(api: &Api) -> Option<Value> {
    let reply = api.call(Method::GET, "/v1/cluster").send().await.ok()?;
    (reply.status == 200).then(|| reply.json())
}

async fn wait_members(api: &Api, voters: &[u64]) {
    until(SOON, format!("the voters are {voters:?}"), async || {
        let Some(status) = status(api).await else {
            return false;
        };
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let mut found: Vec<u64> = nodes
            .iter()
            .filter(|node| node["role"] == "voter")
            .filter_map(|node| node["id"].as_u64())
            .collect();
        found.sort_unstable();
        found == voters && found.len() == nodes.len()
    })
    .await;
}

#[tokio::test]
async fn a_dead_master_is_replaced_by_a_new_one_while_work_goes_on() {
    let mut cluster = Cluster::start(3).await;
    let (leader, dead) = cluster.leader_and_follower().await;
    let api = cluster.api(leader);
    let worker = Hand::register(&cluster, "w", 1).await;
    let before = submit_task(&api, &hand::job(json!("before"))).await;
    let lease = worker.take(&[]).await;

    let (_fourth, addr) = start_waiting(&cluster, 4);
    let fourth = api.at(cluster.url(4));
    until(SOON, "the fourth master listens", async || {
        let reply = fourth.call(Method::GET, "/healthz").send().await;
        reply.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    // On a machine that is too slow for it the first time, asked again, it goes on.
    let new = format!("4={addr}");
    until(SOON, "the fourth master is brought in", async || {
        cluster.cli().run(&["cluster", "add", &new]).await.code == Some(0)
    })
    .await;
    wait_members(&api, &[1, 2, 3, 4]).await;
    cluster.kill9(dead);
    let removed = cluster
        .cli()
        .run(&["cluster", "remove", &dead.to_string()])
        .await;
    removed.expect(0);
    let left: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != dead).collect();
    wait_members(&api, &left).await;

    // The new one counts: with it and one of the old ones there is a majority of three.
    worker.report_all(&[lease.succeeded(json!("kept"))]).await;
    cluster.kill9(leader);
    let task = submit_task(&fourth, &hand::job(json!("after"))).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, task);
    worker.report_all(&[lease.succeeded(json!(1))]).await;
    let shown = fourth.get(&format!("/v1/tasks/{before}")).await.expect(200);
    assert_eq!(shown["result"], "kept");
    // Asked again, it finds it done.
    let again = cluster.cli().run(&["cluster", "add", &new]).await;
    again.expect(0);
}

#[tokio::test]
async fn a_leader_that_is_taken_out_hands_over_first() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let worker = Hand::register(&cluster, "w", 1).await;
    let removed = cluster
        .cli()
        .run(&["cluster", "remove", &leader.to_string()])
        .await;
    removed.expect(0);
    let next = cluster.leader_other_than(leader).await;
    let api = cluster.api(next);
    let left: Vec<u64> = cluster.ids().filter(|id| *id != leader).collect();
    wait_members(&api, &left).await;
    let task = submit_task(&api, &hand::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, task);
    worker.report_all(&[lease.succeeded(json!(1))]).await;
}
