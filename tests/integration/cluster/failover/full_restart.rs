//! Restart of the whole cluster: all masters are stopped at once, and nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use triarch_harness::{
    Cluster, FakeWorker, Load, LoadOptions, acknowledged_jobs, fake_worker, until,
};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works, shell, submit_task};

#[tokio::test]
async fn everything_acknowledged_survives_the_death_of_all_masters() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&["--slots", "4"]);
    let sink = cluster.root().join("sink");
    let script = acknowledged_jobs::sink_script(&sink);
    let options = LoadOptions {
        submitters: 4,
        pause: Duration::from_millis(5),
        request_timeout: Duration::from_secs(2),
        name: "all".to_owned(),
        make: Arc::new(move |_| shell(&script)),
    };
    let load = Load::start(&cluster.apis(), options);
    for _ in 0..2 {
        let wanted = load.count() + 50;
        until(
            WAIT_TIMEOUT,
            format!("{wanted} submissions are acknowledged"),
            async || load.count() >= wanted,
        )
        .await;
        for node in cluster.ids() {
            cluster.kill9(node);
        }
        for node in cluster.ids() {
            cluster.restart(node);
        }
        cluster.wait_ready().await;
    }
    let acked = load.finish().await;
    let mut check_result =
        acknowledged_jobs::check(&cluster.apis(), &acked, Duration::from_secs(60)).await;
    acknowledged_jobs::check_sink(&mut check_result, &sink, &acked);
    check_result.assert_good();
}

#[tokio::test]
async fn a_lease_and_its_token_survive_the_death_of_all_masters() {
    let mut cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "w", 2).await;
    let leader = cluster.leader().await;
    let (held, waiting) = (
        submit_task(&cluster.api(leader), &fake_worker::job(json!("held"))).await,
        submit_task(&cluster.api(leader), &fake_worker::job(json!("waiting"))).await,
    );
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, held);
    for node in cluster.ids() {
        cluster.kill9(node);
    }
    for node in cluster.ids() {
        cluster.restart(node);
    }
    cluster.wait_ready().await;
    // The worker keeps its registration and its leases.
    assert_eq!(
        worker.report(lease.succeeded(json!("right"))).await["accepted"],
        true
    );
    let next = worker.take(&[]).await;
    assert_eq!(next.task, waiting);
    assert!(
        next.token > lease.token,
        "tokens go on growing: {next:?} after {lease:?}"
    );
    worker.report(next.succeeded(json!(1))).await;
    worker.leave().await;
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn a_single_master_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::start(1).await;
    let mut tasks = Vec::new();
    for round in 0..3 {
        tasks.push(submit_task(&cluster.api(1), &fake_worker::job(json!(round))).await);
        cluster.kill9(1);
        cluster.restart(1);
        cluster.wait_ready().await;
        let listed = cluster.api(1).get("/v1/tasks").await.expect(200);
        let found: Vec<&str> = listed["tasks"]
            .as_array()
            .expect("tasks")
            .iter()
            .filter_map(|task| task["id"].as_str())
            .collect();
        assert_eq!(found, tasks);
    }
}

#[tokio::test]
async fn masters_form_a_cluster_in_any_order_of_starts() {
    let mut cluster = Cluster::start(3).await;
    let before = cluster.api(1).get("/v1/cluster").await.expect(200)["cluster_id"].clone();
    for node in cluster.ids() {
        assert_eq!(cluster.terminate(node).await.code(), Some(0));
    }
    for node in [3, 1] {
        cluster.restart(node);
    }
    cluster.wait_ready().await;
    cluster.restart(2);
    cluster.wait_caught_up(2).await;
    for api in cluster.apis() {
        let status = api.get("/v1/cluster").await.expect(200);
        assert_eq!(status["cluster_id"], before);
        assert_eq!(status["nodes"].as_array().expect("nodes").len(), 3);
    }
    assert_works(&mut cluster).await;
}
