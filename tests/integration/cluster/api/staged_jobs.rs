//! Jobs in parts: the last part creates the whole job once, whichever leader received each part.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, fake_worker};

use crate::job_helpers::wait_job;

fn part(key: &str, part: u32, parts: u32, tasks: &[Value]) -> Value {
    json!({"idempotency_key": key, "part": part, "parts": parts, "tasks": tasks})
}

fn task(key: &str, after: &[&str]) -> Value {
    json!({"kind": fake_worker::KIND, "payload": key, "key": key, "after": after})
}

async fn post(api: &Api, part: &Value) -> triarch_harness::Reply {
    api.post("/v1/jobs", part).await
}

#[tokio::test]
async fn a_staged_job_is_created_once_by_its_last_part_over_leader_deaths() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 8).await;
    // The first part depends on tasks of the last one.
    let parts = [
        part("k", 1, 3, &[task("a", &["e"]), task("b", &[])]),
        part("k", 2, 3, &[task("c", &["b"]), task("d", &[])]),
        part("k", 3, 3, &[task("e", &["d"])]),
    ];
    let received = post(&api, &parts[2]).await.expect(202);
    assert_eq!(
        (&received["received"], &received["parts"]),
        (&json!([3]), &json!(3))
    );
    let first = api.call(Method::POST, "/v1/jobs").json(&parts[0]);
    let replies = cluster
        .kill9_amid(leader, Duration::from_millis(3), vec![first])
        .await;
    let received = replies[0]
        .as_ref()
        .expect("the follower answers")
        .expect(202);
    assert_eq!(received["received"], json!([1, 3]));
    // Nothing of the job exists yet, on either master.
    assert!(api.all("/v1/jobs", "jobs").await.is_empty());
    assert!(api.all("/v1/tasks", "tasks").await.is_empty());
    worker.take_nothing(&[]).await;

    // The other leader is killed at the last part. The first one is back, so that there is a majority.
    cluster.restart(leader);
    cluster.wait_caught_up(leader).await;
    let second = cluster.leader().await;
    let asked = cluster.running().into_iter().find(|id| *id != second);
    let asked = cluster.api(asked.expect("a follower runs"));
    let last = asked.call(Method::POST, "/v1/jobs").json(&parts[1]);
    let replies = cluster
        .kill9_amid(second, Duration::from_millis(3), vec![last])
        .await;
    let answer = replies[0].as_ref().expect("the follower answers");
    // The follower may send the part twice, and then finds the job that its first try has created.
    assert!([200, 201].contains(&answer.status), "{answer:?}");
    let made = answer.json();
    assert_eq!(made["tasks"].as_array().map(Vec::len), Some(5), "{made}");
    for node in cluster.running() {
        for part in &parts {
            let again = post(&cluster.api(node), part).await.expect(200);
            assert_eq!(
                (&again["id"], &again["tasks"], &again["duplicate"]),
                (&made["id"], &made["tasks"], &json!(true))
            );
        }
    }
    // The job is complete, in the order of its parts, with dependencies across them.
    assert_eq!(asked.all("/v1/tasks", "tasks").await.len(), 5);
    let mut order = Vec::new();
    for _ in 0..5 {
        let lease = worker.take(&[]).await;
        worker
            .report_all(&[lease.succeeded(lease.payload.clone())])
            .await;
        order.push((lease.payload, lease.inputs));
    }
    let given = [
        ("b", json!({})),
        ("d", json!({})),
        ("c", json!({"b": "b"})),
        ("e", json!({"d": "d"})),
        ("a", json!({"e": "e"})),
    ];
    assert_eq!(order, given.map(|(key, inputs)| (json!(key), inputs)));
    let id = made["id"].as_str().expect("an id");
    assert_eq!(wait_job(&asked, id).await["state"], "succeeded");
}

#[tokio::test]
async fn mismatched_parts_of_a_staged_job_are_refused_by_every_leader() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    post(&api, &part("k", 1, 2, &[task("a", &[])]))
        .await
        .expect(202);
    cluster.kill9(leader);
    let other_body = part("k", 1, 2, &[task("b", &[])]);
    post(&api, &other_body).await.refused(409, "conflict");
    let other_count = part("k", 2, 3, &[task("b", &[])]);
    post(&api, &other_count).await.refused(409, "conflict");
    for (field, body) in [
        ("part", part("l", 0, 2, &[task("a", &[])])),
        ("part", part("l", 3, 2, &[task("a", &[])])),
        ("tasks", part("l", 1, 2, &[])),
    ] {
        let problem = post(&api, &body).await.refused(400, "invalid_request");
        assert_eq!(problem["field"], field, "{body}");
    }
    // A dependency cycle that only the whole job shows: the last part is refused, and nothing is created.
    post(&api, &part("m", 1, 2, &[task("a", &["b"])]))
        .await
        .expect(202);
    let circle = part("m", 2, 2, &[task("b", &["a"])]);
    let problem = post(&api, &circle).await.refused(400, "invalid_request");
    assert!(problem["field"].is_string(), "{problem}");
    assert!(api.all("/v1/jobs", "jobs").await.is_empty());
    // A valid job that was begun can still be completed.
    let made = post(&api, &part("k", 2, 2, &[task("b", &["a"])])).await;
    assert_eq!(made.expect(201)["tasks"].as_array().map(Vec::len), Some(2));
}
