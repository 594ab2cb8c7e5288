//! Loss of the leader, with as little effect on users as possible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use triarch_harness::{
    Cluster, FakeWorker, Load, LoadOptions, acknowledged_jobs, fake_worker, until,
};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works, shell, submit_task, wait_state};
use crate::operations::metrics::wait_held;

/// Starts a load of real commands with side effects in a file in the cluster's directory.
fn start_load(cluster: &Cluster, name: &str) -> Load {
    let script = acknowledged_jobs::sink_script(&cluster.root().join("sink"));
    let options = LoadOptions {
        submitters: 4,
        pause: Duration::from_millis(5),
        request_timeout: Duration::from_secs(2),
        name: name.to_owned(),
        make: Arc::new(move |_| shell(&script)),
    };
    Load::start(&cluster.apis(), options)
}

async fn wait_acked(load: &Load, more: usize) {
    let wanted = load.count() + more;
    until(
        WAIT_TIMEOUT,
        format!("{wanted} submissions are acknowledged"),
        async || load.count() >= wanted,
    )
    .await;
}

async fn finish_and_check(cluster: &Cluster, load: Load) {
    let acked = load.finish().await;
    let mut check_result =
        acknowledged_jobs::check(&cluster.apis(), &acked, Duration::from_secs(60)).await;
    acknowledged_jobs::check_sink(&mut check_result, &cluster.root().join("sink"), &acked);
    check_result.assert_good();
}

#[tokio::test]
async fn killing_the_leader_under_load_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&["--slots", "4"]);
    cluster.worker(&["--slots", "4"]);
    let load = start_load(&cluster, "kill");
    for _ in 0..2 {
        wait_acked(&load, 50).await;
        let leader = cluster.leader().await;
        cluster.kill9(leader);
        wait_acked(&load, 50).await;
        cluster.restart(leader);
        cluster.wait_caught_up(leader).await;
    }
    finish_and_check(&cluster, load).await;
}

#[tokio::test]
async fn a_terminated_leader_transfers_leadership_and_exits_with_0() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&["--slots", "4"]);
    let load = start_load(&cluster, "stop");
    wait_acked(&load, 20).await;
    let leader = cluster.leader().await;
    let status = cluster.terminate(leader).await;
    assert_eq!(status.code(), Some(0), "{status}");
    let next = cluster.leader_other_than(leader).await;
    assert_ne!(next, leader);
    wait_acked(&load, 20).await;
    // The other masters follow, one after the other, as in a rolling restart.
    cluster.restart(leader);
    cluster.wait_caught_up(leader).await;
    for node in cluster.ids().filter(|id| *id != leader) {
        assert_eq!(cluster.terminate(node).await.code(), Some(0));
        cluster.restart(node);
        cluster.wait_caught_up(node).await;
    }
    finish_and_check(&cluster, load).await;
}

#[tokio::test]
async fn idle_polls_get_tasks_after_the_leader_dies() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    // Real workers and one fake worker, all in the middle of a long poll.
    cluster.worker(&["--slots", "1", "--queues", "a"]);
    cluster.worker(&["--slots", "1", "--queues", "b"]);
    cluster.wait_workers(2).await;
    let idle = FakeWorker::register(&cluster, "idle", 1).await;
    let polling = {
        let idle = idle.clone();
        tokio::spawn(async move { idle.take(&[]).await })
    };
    // The polls wait at the leader, so a new task is leased at once.
    wait_held(&cluster, &[leader], "poll", 3).await;
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    let api = cluster.api(next);
    for queue in ["a", "b"] {
        let mut job = shell("echo heard");
        job["tasks"][0]["queue"] = queue.into();
        let task = submit_task(&api, &job).await;
        assert_eq!(
            wait_state(&api, &task, "succeeded").await["result"]["stdout"],
            "heard\n"
        );
    }
    let task = submit_task(&api, &fake_worker::job(json!("heard"))).await;
    let lease = tokio::time::timeout(WAIT_TIMEOUT, polling)
        .await
        .expect("the poll ends")
        .expect("it does not panic");
    assert_eq!(lease.task, task);
    assert_eq!(
        idle.report(lease.succeeded(json!(1))).await["accepted"],
        true
    );
}

#[tokio::test]
async fn long_polls_at_a_follower_survive_the_death_of_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let leader = cluster.wait_ready().await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let submitted = api.submit(&fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    let waits: Vec<_> = [
        format!(
            "/v1/jobs/{}?wait_ms=30000",
            submitted["id"].as_str().expect("an id")
        ),
        format!("/v1/tasks/{}?wait_ms=30000", lease.task),
    ]
    .into_iter()
    .map(|path| {
        let api = api.clone();
        tokio::spawn(async move { api.get(&path).await })
    })
    .collect();
    wait_held(&cluster, &[leader, follower], "wait", 2).await;
    worker.heartbeat(std::slice::from_ref(&lease)).await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    assert_eq!(
        worker.report(lease.succeeded(json!("right"))).await["accepted"],
        true
    );
    for wait in waits {
        let reply = tokio::time::timeout(WAIT_TIMEOUT, wait)
            .await
            .expect("the wait ends")
            .expect("it does not panic");
        assert_eq!(reply.expect(200)["state"], "succeeded");
    }
}

#[tokio::test]
async fn a_submission_in_flight_when_the_leader_dies_is_executed_once() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let (acknowledged, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    // Each client has one submission in flight at any time, without a key. The follower ensures that a submission that
    // it forwards twice takes effect once.
    let submitters: Vec<_> = (0..32)
        .map(|nth| {
            let (api, stop) = (api.clone(), Arc::clone(&stop));
            let acknowledged = Arc::clone(&acknowledged);
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let reply = api.post("/v1/jobs", &fake_worker::job(json!(nth))).await;
                    ids.push(reply.expect(201)["id"].as_str().expect("an id").to_owned());
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                ids
            })
        })
        .collect();
    let wait_more = async || {
        let wanted = acknowledged.load(Ordering::Relaxed) + submitters.len();
        let what = format!("{wanted} submissions are acknowledged");
        until(WAIT_TIMEOUT, what, async || {
            let panicked = submitters.iter().any(|one| one.is_finished());
            panicked || acknowledged.load(Ordering::Relaxed) >= wanted
        })
        .await;
    };
    wait_more().await;
    cluster.kill9(leader);
    wait_more().await;
    stop.store(true, Ordering::Relaxed);
    let mut ids = Vec::new();
    for submitter in submitters {
        ids.extend(submitter.await.expect("it does not panic"));
    }
    cluster.leader_other_than(leader).await;
    let listed = api.all("/v1/jobs", "jobs").await;
    let mut found: Vec<String> = listed
        .iter()
        .map(|job| job["id"].as_str().expect("an id").to_owned())
        .collect();
    ids.sort();
    found.sort();
    assert_eq!(ids, found, "every submission is there, and only once");
    assert_works_after_cancelling(&mut cluster, &ids).await;
}

async fn assert_works_after_cancelling(cluster: &mut Cluster, jobs: &[String]) {
    let leader = cluster.leader().await;
    for job in jobs {
        cluster
            .api(leader)
            .post(&format!("/v1/jobs/{job}/cancel"), &json!({}))
            .await
            .expect(200);
    }
    assert_works(cluster).await;
}

#[tokio::test]
async fn leases_survive_an_election() {
    let mut cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let leader = cluster.leader().await;
    let task = submit_task(&cluster.api(leader), &fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    // The new leader knows the lease from its log, and the worker only after its next call.
    let shown = cluster
        .api(next)
        .get(&format!("/v1/tasks/{task}"))
        .await
        .expect(200);
    assert_eq!(
        (&shown["state"], &shown["attempts"][0]["token"]),
        (&json!("running"), &json!(lease.token))
    );
    assert_eq!(
        worker.report(lease.succeeded(json!(1))).await["accepted"],
        true
    );
}

#[tokio::test]
async fn leadership_is_transferred_on_request() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let to = cluster.follower().await;
    let asked_at = cluster.api(to);
    let call = asked_at.call(Method::POST, "/v1/cluster/transfer-leader");
    let reply = call.json(&json!({"to": to})).answer().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(cluster.leader_other_than(leader).await, to);
    let unknown = asked_at
        .post("/v1/cluster/transfer-leader", &json!({"to": 9}))
        .await;
    unknown.refused(404, "not_found");
    assert_works(&mut cluster).await;
}
