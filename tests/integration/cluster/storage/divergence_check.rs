//! Divergence check: the masters compare their tables, and find them equal.

use serde_json::json;
use triarch_harness::{Api, Cluster, FakeWorker, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, submit_task};

/// Interval of the comparisons, in log entries.
const DIGEST_INTERVAL_ENTRIES: u64 = 32;

async fn compared(api: &Api) -> (u64, u64) {
    let status = api.get("/v1/cluster?consistency=stale").await.expect(200);
    let field_of = |field: &str| status["agreement"][field].as_u64().expect("a number");
    (field_of("index"), field_of("mismatches"))
}

#[tokio::test]
async fn masters_find_equal_digests_over_failovers_and_restarts() {
    let mut cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    for round in 0..3 {
        let leader = cluster.wait_ready().await;
        let api = cluster.api(leader);
        let mut index = 0;
        for nth in 0..DIGEST_INTERVAL_ENTRIES {
            let task = submit_task(&api, &fake_worker::job(json!([round, nth]))).await;
            let lease = worker.take(&[]).await;
            assert_eq!(lease.task, task);
            worker.report_all(&[lease.succeeded(json!(nth))]).await;
            let shown = api.get(&format!("/v1/tasks/{task}")).await;
            index = shown.index();
        }
        let at_least = index - index % DIGEST_INTERVAL_ENTRIES;
        for node in cluster.ids() {
            let api = cluster.api(node);
            until(
                WAIT_TIMEOUT,
                format!("node {node} agrees with the others at entry {at_least} or later"),
                async || {
                    let (index, mismatches) = compared(&api).await;
                    assert_eq!(mismatches, 0, "node {node}");
                    index >= at_least
                },
            )
            .await;
        }
        cluster.kill9(leader);
        cluster.leader_other_than(leader).await;
        cluster.restart(leader);
    }
}
