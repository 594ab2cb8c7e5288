//! A leader whose followers are gone, and a follower that lacks what was committed: what each says of itself is true.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use triarch_harness::{Api, Cluster, Exposition, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, submit_task};

/// Status and `reason` of `/readyz`, if it answers.
async fn ready(api: &Api) -> Option<(u16, String)> {
    let call = api.call(Method::GET, "/readyz");
    let reply = call.timeout(Duration::from_secs(2)).send().await.ok()?;
    let reason = reply.json()["reason"].as_str().unwrap_or("").to_owned();
    Some((reply.status, reason))
}

#[tokio::test]
async fn a_leader_without_a_majority_says_so_and_sends_its_readers_away() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let stream = async |api: &Api| {
        let events = reqwest::Client::new().get(format!("{}/v1/events", api.base()));
        events.send().await.expect("it answers")
    };
    let mut reader = stream(&api).await;
    let followed = api.call(
        Method::GET,
        &format!("/v1/tasks/{task}/logs?follow_ms=30000"),
    );
    let followed = tokio::spawn(followed.send());

    let followers: Vec<u64> = cluster.ids().filter(|id| *id != leader).collect();
    for follower in &followers {
        cluster.stop(*follower);
    }
    until(WAIT_TIMEOUT, "the leader is not ready", async || {
        ready(&api).await == Some((503, "no_majority".to_owned()))
    })
    .await;
    let metrics = Exposition::read(&api.get("/metrics").await.text).expect("metrics");
    assert_eq!(metrics.value("triarch_leader_id", &[]), 0.0);
    assert_eq!(metrics.value("triarch_is_leader", &[]), 0.0);
    assert_eq!(metrics.value("triarch_ready", &[]), 0.0);
    let status = api.get("/v1/cluster?consistency=stale").await.expect(200);
    assert!(status["leader"].is_null(), "{status}");

    // The stream ends with a sentence, and another one does not begin.
    let mut text = Vec::new();
    while let Ok(Some(bytes)) = reader.chunk().await {
        text.extend_from_slice(&bytes);
    }
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("out of touch with a majority"), "{text}");
    let refused = stream(&api).await;
    assert_eq!(refused.status(), 503);
    let followed = followed.await.expect("no panic").expect("an answer");
    assert_eq!(followed.status, 503, "{followed:?}");
    until(WAIT_TIMEOUT, "the log says so", async || {
        cluster
            .node(leader)
            .log()
            .contains("no majority of the masters answers this leader")
    })
    .await;
    let shown = cluster.cli().run(&["cluster", "status"]).await.expect(1);
    assert!(shown.stdout.contains("none"), "{}", shown.stdout);

    for follower in followers {
        cluster.cont(follower);
    }
    cluster.wait_ready().await;
}

#[tokio::test]
async fn a_master_that_stood_still_is_ready_when_it_has_applied_what_was_acknowledged_before() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let (at_leader, at_follower) = (cluster.api(leader), cluster.api(follower));
    for _ in 0..3 {
        cluster.stop(follower);
        let tasks = vec![json!({"kind": "none", "payload": "a".repeat(2_000)}); 200];
        let mut acknowledged = 0;
        for _ in 0..30 {
            let reply = at_leader.post("/v1/jobs", &json!({"tasks": tasks})).await;
            let index = reply.headers["triarch-index"].to_str().expect("ASCII");
            acknowledged = index.parse::<u64>().expect("an index");
        }
        cluster.cont(follower);
        until(WAIT_TIMEOUT, "it is ready", async || {
            matches!(ready(&at_follower).await, Some((200, _)))
        })
        .await;
        let status = at_follower.get("/v1/cluster?consistency=stale").await;
        let status = status.expect(200);
        let nodes = status["nodes"].as_array().expect("nodes");
        let row = nodes.iter().find(|node| node["id"] == follower);
        let applied = row.and_then(|row| row["applied"].as_u64());
        assert!(
            applied >= Some(acknowledged),
            "{applied:?} of {acknowledged}"
        );
    }
}
