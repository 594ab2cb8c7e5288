//! Silence of workers over changes of the leader: names of dead workers become free, and live workers lose no time.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Cluster, FakeWorker, Options, eventually, until};

use crate::job_helpers::WAIT_TIMEOUT;

/// Lease of the worker whose name becomes free.
const SHORT_LEASE_MS: u64 = 3_000;
/// Lease of the worker that is heard from in time.
const LONG_LEASE_MS: u64 = 6_000;
/// Time of each leader: long enough for a worker to be heard, and much shorter than a lease.
const LEADER_TIME: Duration = Duration::from_secs(1);
/// Maximum number of leaders until the name of a dead worker is free. Each adds at least half its time to the silence.
const LEADERS_MAX: u32 = 12;

async fn cluster(lease_ms: u64) -> Cluster {
    Cluster::with(Options {
        lease_ms,
        ..Options::default()
    })
    .await
}

async fn change_leader(cluster: &mut Cluster) {
    let (leader, next) = cluster.leader_and_follower().await;
    let call = cluster
        .api(leader)
        .call(Method::POST, "/v1/cluster/transfer-leader");
    // A refusal, such as that of a follower that lags behind, is only a leader that stays for longer.
    if let Ok(reply) = call.json(&json!({"to": next})).send().await
        && reply.status == 200
    {
        cluster.leader_other_than(leader).await;
    }
}

/// Returns the present workers, if a leader answers.
async fn workers(cluster: &Cluster, node: u64) -> Option<Vec<Value>> {
    let call = cluster.api(node).call(Method::GET, "/v1/workers");
    let reply = call.send().await.ok()?;
    let rows = (reply.status == 200).then(|| reply.json())?;
    let rows = rows["workers"].as_array()?;
    let present = |worker: &&Value| worker["state"] != "lost" && worker["state"] != "left";
    Some(rows.iter().filter(present).cloned().collect())
}

#[tokio::test]
async fn a_restarted_worker_registers_under_its_name_although_leaders_change_within_every_lease() {
    let mut cluster = cluster(SHORT_LEASE_MS).await;
    let number = cluster.worker(&[]);
    let former = cluster.wait_workers(1).await[0]["id"].clone();
    let process = cluster.worker_process(number);
    process.kill9();
    process.wait(WAIT_TIMEOUT).await;
    cluster.restart_worker(number);
    let mut present = Vec::new();
    for _ in 0..LEADERS_MAX {
        change_leader(&mut cluster).await;
        // The exact time is the purpose.
        tokio::time::sleep(LEADER_TIME).await;
        let leader = cluster.leader().await;
        present = workers(&cluster, leader).await.unwrap_or_default();
        assert!(present.len() <= 1, "one name: {present:?}");
        if present.iter().any(|worker| worker["id"] != former) {
            return;
        }
    }
    panic!("the name is still not free: {present:?}");
}

#[tokio::test]
async fn an_answered_heartbeat_ends_the_recorded_silence_before_the_leader_changes() {
    let mut cluster = cluster(LONG_LEASE_MS).await;
    let holder = FakeWorker::register(&cluster, "steady", 1).await;
    let body = json!({"name": "steady", "slots": 1, "kinds": ["any"]});
    let path = format!("/v1/workers/{}", holder.id);
    let refused = holder.call(Method::POST, "/v1/workers", &body).await;
    let problem = refused.refused(409, "conflict");
    assert_eq!(problem["worker"], holder.id.as_str());
    assert_eq!(problem["lease_ms"], LONG_LEASE_MS);

    // The holder is silent, and its silence is recorded because its name is claimed.
    eventually(WAIT_TIMEOUT, "the holder is silent", async || {
        let refused = holder.call(Method::POST, "/v1/workers", &body).await;
        let problem = refused.refused(409, "conflict");
        let number = |name: &str| problem[name].as_u64().expect("a number");
        assert_eq!(
            number("retry_after_ms") + number("silent_for_ms"),
            LONG_LEASE_MS,
            "{problem}"
        );
        (number("silent_for_ms") >= LONG_LEASE_MS / 3).then_some(())
    })
    .await;
    let heard = Instant::now();
    holder.heartbeat(&[]).await;
    change_leader(&mut cluster).await;

    // The new leader counts from the heartbeat at the earliest.
    let what = "the new leader has looked at its workers";
    until(WAIT_TIMEOUT, what, async || {
        let reply = holder.call(Method::GET, &path, &Value::Null).await;
        let worker = reply.expect(200);
        let silent_ms = worker["silent_ms"].as_u64().expect("a leader answers");
        assert_eq!(worker["state"], "live", "{worker}");
        assert!(
            u128::from(silent_ms) <= heard.elapsed().as_millis(),
            "a silence that has ended: {worker}"
        );
        silent_ms > LONG_LEASE_MS / 10
    })
    .await;
    holder.heartbeat(&[]).await;
}
