//! `POST /v1/tasks/wait`: one request waits for the ends of many tasks.

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, fake_worker};

use crate::job_helpers::submit_task;

async fn ends(api: &Api, tasks: &[&str], wait_ms: u64) -> Value {
    let path = format!("/v1/tasks/wait?wait_ms={wait_ms}");
    let call = api.call(Method::POST, &path);
    call.json(&json!({"tasks": tasks}))
        .answer()
        .await
        .expect(200)
}

fn ids(ended: &Value) -> Vec<&str> {
    let ended = ended["ended"].as_array().expect("a list");
    ended.iter().filter_map(|one| one["id"].as_str()).collect()
}

#[tokio::test]
async fn one_request_waits_for_any_of_many_tasks() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let (api, other) = (cluster.api(leader), cluster.api(follower));
    let a = submit_task(&api, &fake_worker::job(json!("a"))).await;
    let b = submit_task(&api, &fake_worker::job(json!("b"))).await;

    let none = ends(&other, &[&a, &b], 0).await;
    assert_eq!(none, json!({"ended": [], "missing": [], "more": false}));

    // The request is held until one of the tasks ends, and is then answered at once, at any node.
    let fake_worker = FakeWorker::register(&cluster, "hand", 2).await;
    let (asked, turned) = ([a.as_str(), &b], [b.as_str(), &a]);
    let work = async {
        let leases = fake_worker.poll(1, 10_000, &[]).await;
        fake_worker
            .report(leases[0].succeeded(json!({"n": 1})))
            .await;
    };
    let (at_leader, at_follower, ()) = tokio::join!(
        ends(&api, &asked, 60_000),
        ends(&other, &turned, 60_000),
        work
    );
    for ended in [&at_leader, &at_follower] {
        assert_eq!(ids(ended), [&a]);
        assert_eq!(ended["ended"][0]["state"], "succeeded");
        assert_eq!(ended["ended"][0]["result"], json!({"n": 1}));
    }

    // Tasks that do not exist are reported as missing, without a wait.
    let cancel = format!("/v1/tasks/{b}/cancel");
    api.call(Method::POST, &cancel).answer().await.expect(200);
    let ended = ends(&api, &["t999999-0", &b, "nonsense", &a], 60_000).await;
    assert_eq!(ids(&ended), [&b, &a]);
    assert_eq!(ended["missing"], json!(["nonsense", "t999999-0"]));
    assert_eq!(ended["ended"][0]["state"], "cancelled");
}

#[tokio::test]
async fn a_wait_response_is_bounded_and_says_that_there_is_more() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let tasks: Vec<Value> = (0..12)
        .map(|number| json!({"kind": fake_worker::KIND, "payload": number}))
        .collect();
    let submitted = api.submit(&json!({"tasks": tasks})).await;
    let all: Vec<&str> = submitted["tasks"]
        .as_array()
        .expect("ids")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let fake_worker = FakeWorker::register(&cluster, "hand", 12).await;
    let mut left = 12;
    while left > 0 {
        for lease in fake_worker.poll(12, 10_000, &[]).await {
            fake_worker
                .report(lease.succeeded(json!("x".repeat(1_000_000))))
                .await;
            left -= 1;
        }
    }
    let first = ends(&api, &all, 60_000).await;
    let got = ids(&first);
    assert_eq!((got.len(), &first["more"]), (8, &json!(true)));
    let second = ends(&api, &all[got.len()..], 60_000).await;
    assert_eq!((ids(&second).len(), &second["more"]), (4, &json!(false)));
}

#[tokio::test]
async fn an_invalid_wait_request_is_refused_with_its_field() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let too_many: Vec<String> = (0..10_001).map(|number| format!("t1-{number}")).collect();
    for (body, field) in [
        (json!({"tasks": []}), "tasks"),
        (json!({"tasks": too_many}), "tasks"),
        (json!({"tasks": [3]}), "tasks[0]"),
        (json!({"tasks": ["t1-0"], "wait": 3}), "wait"),
    ] {
        let call = api.call(Method::POST, "/v1/tasks/wait").json(&body);
        let problem = call.answer().await.refused(400, "invalid_request");
        assert_eq!(problem["field"], field);
    }
}
