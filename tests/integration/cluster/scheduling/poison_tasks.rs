//! Tasks that kill their workers: losses are counted separately from failures, over all leaders, and end the task.

use serde_json::json;
use triarch_harness::{Cluster, FakeWorker, Options, fake_worker};

use crate::job_helpers::{counted_outcomes, submit_task, wait_state};

#[tokio::test]
async fn a_task_that_kills_its_workers_fails_after_max_losses() {
    let mut cluster = Cluster::with(Options {
        lease_ms: 1_000,
        ..Options::default()
    })
    .await;
    let leader = cluster.wait_ready().await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let mut job = fake_worker::job(json!(1));
    job["tasks"][0]["max_losses"] = json!(2);
    // One failure would end the task, if a loss counted as a failure.
    job["tasks"][0]["max_attempts"] = json!(1);
    let task = submit_task(&api, &job).await;
    // The first worker never returns, and the leader that granted its lease is killed too.
    let first = FakeWorker::register(&cluster, "first", 1).await;
    let lease = first.take(&[]).await;
    assert_eq!(lease.task, task);
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    let api = cluster.api(next);
    let queued = wait_state(&api, &task, "queued").await;
    assert_eq!(
        (&queued["losses"], &queued["failures"]),
        (&json!(1), &json!(0)),
        "{queued}"
    );
    let second = FakeWorker::register(&cluster, "second", 1).await;
    assert_eq!(second.take(&[]).await.task, task);
    let failed = wait_state(&api, &task, "failed").await;
    assert_eq!(failed["error"]["type"], "worker_lost", "{failed}");
    assert_eq!(
        (&failed["losses"], &failed["failures"]),
        (&json!(2), &json!(0)),
        "{failed}"
    );
    assert_eq!(counted_outcomes(&failed), ["lost", "lost"]);
}
