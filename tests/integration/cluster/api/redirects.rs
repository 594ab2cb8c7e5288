//! Routing: followers forward requests of clients, redirect workers, and never form a circle.

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Cluster, FakeWorker, Reply, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works, exec};

fn assert_redirects(reply: &Reply, cluster: &Cluster, leader: u64, path: &str) {
    assert_eq!(reply.status, 307, "{reply:?}");
    let there = format!("{}{path}", cluster.url(leader));
    assert_eq!(reply.header("location"), Some(there.as_str()));
    assert_eq!(
        reply.header("triarch-leader"),
        Some(leader.to_string().as_str())
    );
    assert!(!reply.text.is_empty(), "{reply:?}");
}

#[tokio::test]
async fn every_worker_request_at_a_follower_is_redirected_to_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "redirected", 1).await;
    let leader = cluster.wait_ready().await;
    let at = |verb: &str| format!("/v1/workers/{}{verb}", worker.id);
    for node in cluster.ids().filter(|id| *id != leader) {
        let api = cluster.api(node);
        for (method, path, body) in [
            (
                Method::POST,
                "/v1/workers".to_owned(),
                json!({"name": "other"}),
            ),
            (Method::POST, at("/poll"), json!({"max": 1, "wait_ms": 0})),
            (Method::POST, at("/heartbeat"), json!({"running": []})),
            (Method::POST, at("/report"), json!({"results": []})),
            (Method::DELETE, at(""), Value::Null),
        ] {
            let reply = api.call(method, &path).json(&body).answer().await;
            assert_redirects(&reply, &cluster, leader, &path);
        }
        // Requests of clients about workers are forwarded too.
        let shown = api.get(&at("")).await.expect(200);
        assert_eq!(shown["name"], "redirected");
        let listed = api.get("/v1/workers").await.expect(200);
        assert_eq!(listed["workers"][0]["id"], worker.id.as_str());
    }
    // The redirects had no effect on the worker.
    assert_eq!(
        cluster.api(leader).get(&at("")).await.expect(200)["state"],
        "live"
    );
}

#[tokio::test]
async fn a_client_that_declines_forwarding_is_redirected() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let follower = cluster.follower().await;
    for (method, path, body) in [
        (Method::GET, "/v1/jobs?limit=5", Value::Null),
        (Method::GET, "/v1/cluster", Value::Null),
        (Method::POST, "/v1/jobs", exec(&["true"])),
    ] {
        let call = cluster.api(follower).call(method.clone(), path);
        let reply = call
            .header("triarch-forward", "never")
            .json(&body)
            .answer()
            .await;
        assert_redirects(&reply, &cluster, leader, path);
        let call = cluster.api(leader).call(method, path);
        let reply = call
            .header("triarch-forward", "never")
            .json(&body)
            .answer()
            .await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    }
    let jobs = cluster.api(follower).get("/v1/jobs").await.expect(200);
    assert_eq!(
        jobs["jobs"].as_array().expect("jobs").len(),
        1,
        "only the leader's own: {jobs}"
    );
}

#[tokio::test]
async fn a_forwarded_request_is_not_forwarded_again() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    for (method, path, body) in [
        (Method::GET, "/v1/jobs", Value::Null),
        (Method::POST, "/v1/jobs", exec(&["true"])),
    ] {
        let call = cluster.api(follower).call(method, path);
        let reply = call
            .header("triarch-forwarded-by", 1)
            .json(&body)
            .answer()
            .await;
        reply.refused(503, "no_leader");
    }
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn without_a_quorum_writes_and_linearizable_reads_are_refused() {
    let mut cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let leader = cluster.wait_ready().await;
    let before = cluster.api(leader).submit(&exec(&["true"])).await;
    let survivor = cluster.follower().await;
    cluster.wait_caught_up(survivor).await;
    for node in cluster.ids().filter(|id| *id != survivor) {
        cluster.kill9(node);
    }
    let api = cluster.api(survivor);
    let unavailable = |reply: &Reply| {
        reply.refused(503, "no_leader");
        assert_eq!(reply.header("retry-after"), Some("1"), "{reply:?}");
    };
    let path = format!("/v1/jobs/{}", before["id"].as_str().expect("an id"));
    let (write, read) = tokio::join!(
        async { api.post("/v1/jobs", &exec(&["true"])).await },
        async { api.get(&path).await },
    );
    unavailable(&write);
    unavailable(&read);
    // Until a follower detects the death, it redirects workers to the dead leader.
    until(WAIT_TIMEOUT, "it knows that nobody leads", async || {
        api.get("/readyz").await.status == 503
    })
    .await;
    api.get("/readyz").await.refused(503, "no_leader");
    let poll = format!("/v1/workers/{}/poll", worker.id);
    unavailable(&api.post(&poll, &json!({"max": 1})).await);
    api.get("/healthz").await.expect(200);
    // A stale read shows what this node knows.
    let stale = api.get(&format!("{path}?consistency=stale")).await;
    assert_eq!(stale.expect(200)["id"], before["id"]);
    assert_eq!(stale.header("triarch-consistency"), Some("stale"));

    for node in cluster.ids().filter(|id| *id != survivor) {
        cluster.restart(node);
    }
    cluster.wait_ready().await;
    assert_eq!(
        cluster.api(survivor).get(&path).await.expect(200)["id"],
        before["id"]
    );
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn a_leader_that_lost_its_followers_acknowledges_nothing() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    for node in cluster.ids().filter(|id| *id != leader) {
        cluster.stop(node);
    }
    let api = cluster.api(leader);
    let job = fake_worker::job(json!("alone"));
    let (write, read) = tokio::join!(async { api.post("/v1/jobs", &job).await }, async {
        api.get("/v1/jobs").await
    },);
    // The write is in one log only. Its outcome is unknown, and the answer says so.
    assert!(matches!(write.status, 503 | 504), "{write:?}");
    assert!(
        matches!(write.code().as_str(), "no_leader" | "timeout"),
        "{write:?}"
    );
    write.problem();
    read.refused(503, "no_leader");
    for node in cluster.ids().filter(|id| *id != leader) {
        cluster.cont(node);
    }
    cluster.wait_ready().await;
    assert_works_despite(&mut cluster).await;
}

/// As [`assert_works`], on a cluster where a job of unknown outcome may exist.
async fn assert_works_despite(cluster: &mut Cluster) {
    let listed = cluster.api(1).get("/v1/jobs").await.expect(200);
    for job in listed["jobs"].as_array().expect("jobs") {
        let path = format!("/v1/jobs/{}/cancel", job["id"].as_str().expect("an id"));
        cluster.api(1).post(&path, &json!({})).await.expect(200);
    }
    assert_works(cluster).await;
}
