//! Unique keys: at most one unfinished task has a key, with concurrent submissions at all masters and the death of a
//! leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::fake_workers::time;
use triarch_harness::wait::Polling;
use triarch_harness::{Api, Cluster, FakeWorker, FakeWorkers, Reply, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, first_task, submit_task, wait_state};

fn keyed(key: &str) -> Value {
    json!({"kind": fake_worker::KIND, "payload": key, "unique_key": key})
}

/// Sends one submission under one request id to any master, until the answer reports an outcome.
async fn submit_surely(masters: &[Api], first: usize, request: &str, body: &Value) -> Reply {
    let mut polling = Polling::new(WAIT_TIMEOUT, format!("submission {request} is answered"));
    let mut masters = masters.iter().cycle().skip(first);
    loop {
        let api = masters.next().expect("there are masters");
        let call = api.call(Method::POST, "/v1/jobs");
        let call = call.header("triarch-request-id", request).json(body);
        match call.send().await {
            Ok(reply) if !matches!(reply.status, 503 | 504) => return reply,
            Ok(_) | Err(_) => polling.pause().await,
        }
    }
}

#[tokio::test]
async fn concurrent_submissions_of_a_unique_key_create_one_task() {
    const CLIENTS: usize = 12;
    /// Minimum number of submissions per client. They continue until the leader was killed, and then for as many again.
    const ROUNDS: usize = 6;
    const KEYS: [&str; 3] = ["mail:1", "mail:2", "mail:3"];
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let fake_workers = FakeWorkers::start(&cluster, 1, 2, &["default"]).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let killed = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (masters, answered) = (cluster.apis(), Arc::clone(&answered));
            let killed = Arc::clone(&killed);
            tokio::spawn(async move {
                let mut made = Vec::new();
                let mut left = ROUNDS;
                for round in 0.. {
                    if killed.load(Ordering::Relaxed) {
                        if left == 0 {
                            break;
                        }
                        left -= 1;
                    }
                    let key = KEYS[(client + round) % KEYS.len()];
                    let body = json!({"tasks": [keyed(key)]});
                    let request = format!("r-{client}-{round}");
                    let reply = submit_surely(&masters, client, &request, &body).await;
                    answered.fetch_add(1, Ordering::Relaxed);
                    if reply.status == 201 {
                        made.push((key, first_task(&reply.json())));
                        continue;
                    }
                    let problem = reply.refused(409, "conflict");
                    assert_eq!(problem["unique_key"], key, "{problem}");
                    assert!(problem["task"].is_string(), "{problem}");
                }
                made
            })
        })
        .collect();
    until(WAIT_TIMEOUT, "many are answered", async || {
        let panicked = clients.iter().any(|client| client.is_finished());
        panicked || answered.load(Ordering::Relaxed) >= CLIENTS * ROUNDS
    })
    .await;
    cluster.kill9(leader);
    killed.store(true, Ordering::Relaxed);
    let mut made: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for client in clients {
        for (key, task) in client.await.expect("a client does not panic") {
            made.entry(key).or_default().push(task);
        }
    }
    let api = cluster.api(follower);
    // Only acknowledged tasks exist, and for each key one task ended before the next was created.
    let rows = api.all("/v1/tasks", "tasks").await;
    assert_eq!(rows.len(), made.values().map(Vec::len).sum::<usize>());
    for (key, tasks) in made {
        let mut lives = Vec::new();
        for task in tasks {
            let task = wait_state(&api, &task, "succeeded").await;
            assert_eq!(task["unique_key"], key);
            let (from, to) = (time(&task["created_at"]), time(&task["finished_at"]));
            lives.push(from.zip(to).expect("it began and ended"));
        }
        lives.sort_unstable();
        for two in lives.windows(2) {
            assert!(two[0].1 <= two[1].0, "{key}: two at once: {lives:?}");
        }
    }
    fake_workers.finish().await;
}

#[tokio::test]
async fn a_duplicate_submission_returns_the_first_task_under_any_leader() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let first = api.submit(&json!({"tasks": [keyed("k")]})).await;
    let task = first_task(&first);
    let lease = worker.take(&[]).await;

    let mut second = keyed("k");
    second["on_duplicate"] = "return".into();
    let body = json!({"tasks": [second]});
    let ask = |api: &Api, request: &str, body: &Value| {
        let call = api.call(Method::POST, "/v1/jobs");
        call.header("triarch-request-id", request).json(body)
    };
    let replies = cluster
        .kill9_amid(
            leader,
            Duration::from_millis(3),
            vec![ask(&api, "again", &body)],
        )
        .await;
    let returned = replies[0]
        .as_ref()
        .expect("the follower answers")
        .expect(200);
    assert_eq!(
        (&returned["id"], &returned["tasks"], &returned["duplicate"]),
        (&first["id"], &json!([task]), &json!(true))
    );
    // The rest of the job is created without that task.
    let mixed = json!({"tasks": [second, {"kind": fake_worker::KIND, "payload": "new"}]});
    let made = ask(&api, "mixed", &mixed).answer().await.expect(201);
    assert_eq!(
        (&made["tasks"][0], &made["duplicate"]),
        (&json!(task), &json!(false))
    );
    let refused = api.post("/v1/jobs", &json!({"tasks": [keyed("k")]})).await;
    assert_eq!(refused.refused(409, "conflict")["task"], json!(task));
    worker.report_all(&[lease.succeeded(json!(1))]).await;

    // Repeated requests get their first answers, from every node. Only a new request gets the key.
    for node in cluster.running() {
        let api = cluster.api(node);
        let again = ask(&api, "again", &body).answer().await;
        assert_eq!(again.expect(200), returned);
        let again = ask(&api, "mixed", &mixed).answer().await;
        assert_eq!(again.expect(201), made);
        let other = ask(&api, "again", &mixed).answer().await;
        other.refused(409, "conflict");
    }
    assert_ne!(submit_task(&api, &body).await, task);
}
