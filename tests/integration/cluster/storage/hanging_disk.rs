//! A disk that hangs: visible while it lasts, and no reason to stay the leader.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::strace::Tracer;
use triarch_harness::{Api, Cluster, Exposition, fake_worker, until};

use crate::job_helpers::WAIT_TIMEOUT;

/// The row of a master as another one, or it itself, shows it.
async fn row(api: &Api, node: u64) -> Value {
    let call = api.call(Method::GET, "/v1/cluster?consistency=stale");
    let Ok(reply) = call.timeout(Duration::from_secs(2)).send().await else {
        return Value::Null;
    };
    let status = reply.json();
    let rows = status["nodes"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["id"] == node);
    row.unwrap_or_default()
}

#[tokio::test]
async fn a_leader_whose_disk_hangs_shows_it_and_hands_over() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    let inject = "inject=fdatasync:delay_exit=8000000";
    let options = ["-e", "trace=fdatasync", "-e", inject];
    let tracer = Tracer::attach(&cluster, leader, &options).await;
    // The others acknowledge it without the leader's disk.
    api.submit(&fake_worker::job(json!(1))).await;
    until(WAIT_TIMEOUT, "the leader shows its disk", async || {
        let unfinished = row(&api, leader).await["disk"]["unfinished_sync_ms"].as_u64();
        unfinished >= Some(1_000)
    })
    .await;
    let metrics = Exposition::read(&api.get("/metrics").await.text).expect("metrics");
    assert!(metrics.value("triarch_log_unfinished_sync_seconds", &[]) >= 1.0);
    let next = cluster.leader_other_than(leader).await;
    let log = cluster.node(leader).log();
    assert!(
        log.contains("a sync of this node's log does not end"),
        "{log}"
    );
    let other = cluster.api(next);
    other.submit(&fake_worker::job(json!(2))).await;
    until(WAIT_TIMEOUT, "the others know why", async || {
        let metrics = Exposition::read(&other.get("/metrics").await.text).expect("metrics");
        let cause = [("cause", "transferred_for_hanging_disk")];
        metrics.value("triarch_leader_changes_total", &cause) == 1.0
    })
    .await;
    tracer.finish().await;
    cluster.wait_ready().await;
}
