//! Explanations why a task does not run, requested from a follower.

use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, Options, fake_worker};

use crate::job_helpers::submit_task;

async fn reasons(api: &Api, task: &str) -> Vec<Value> {
    let explanation = api
        .get(&format!("/v1/tasks/{task}/explain"))
        .await
        .expect(200);
    assert_eq!(explanation["task"], task);
    let reasons = explanation["reasons"].as_array().expect("reasons").clone();
    // Every reason has a text too.
    for reason in &reasons {
        let words = reason["message"].as_str().expect("words");
        let summary = explanation["summary"].as_str().expect("a summary");
        assert!(
            !words.is_empty() && summary.contains(words),
            "{explanation}"
        );
    }
    reasons
}

async fn codes(api: &Api, task: &str) -> Vec<String> {
    let reasons = reasons(api, task).await;
    let code = |reason: &Value| reason["code"].as_str().expect("a code").to_owned();
    reasons.iter().map(code).collect()
}

fn with(field: &str, value: Value) -> Value {
    let mut job = fake_worker::job(json!(1));
    job["tasks"][0][field] = value;
    job
}

#[tokio::test]
async fn a_follower_explains_why_a_task_does_not_run() {
    let mut cluster = Cluster::with(Options {
        lease_ms: 60_000,
        ..Options::default()
    })
    .await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let plain = submit_task(&api, &fake_worker::job(json!(1))).await;
    assert_eq!(codes(&api, &plain).await, ["no_worker"]);
    let elsewhere = submit_task(&api, &with("queue", json!("elsewhere"))).await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    assert_eq!(codes(&api, &elsewhere).await, ["no_worker_for_queue"]);
    let kind = submit_task(&api, &with("kind", json!("unheard-of"))).await;
    assert_eq!(codes(&api, &kind).await, ["no_worker_for_kind"]);
    let zone = json!({"labels": {"zone": "eu"}});
    let labels = submit_task(&api, &with("requires", zone)).await;
    assert_eq!(codes(&api, &labels).await, ["no_worker_with_labels"]);
    let much = json!({"resources": {"mem_mb": 1}});
    let resources = submit_task(&api, &with("requires", much)).await;
    assert_eq!(codes(&api, &resources).await, ["no_worker_with_resources"]);
    assert_eq!(codes(&api, &plain).await, ["ready"]);

    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, plain);
    let running = reasons(&api, &plain).await;
    assert_eq!(
        (&running[0]["code"], &running[0]["worker"]),
        (&json!("running"), &json!(worker.id))
    );
    let busy = submit_task(&api, &fake_worker::job(json!(1))).await;
    let found = reasons(&api, &busy).await;
    assert_eq!(
        (&found[0]["code"], &found[0]["count"]),
        (&json!("workers_busy"), &json!(1))
    );

    // After a failed attempt the reason is the back-off.
    let patient = json!({"initial_ms": 3_600_000, "max_ms": 3_600_000});
    let delayed = submit_task(&api, &with("delay_ms", json!(3_600_000))).await;
    worker.report_all(&[lease.succeeded(json!(1))]).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, busy);
    worker.report_all(&[lease.succeeded(json!(1))]).await;
    assert_eq!(codes(&api, &busy).await, ["finished"]);
    let failing = submit_task(&api, &with("backoff", patient)).await;
    let lease = worker.take(&[]).await;
    worker.report_all(&[lease.failed(true)]).await;

    let job = json!({"tasks": [
        {"kind": fake_worker::KIND, "key": "a", "delay_ms": 3_600_000}, {"kind": fake_worker::KIND, "key": "b", "after": ["a"]},
    ]});
    let submitted = api.submit(&job).await;
    let (first, second) = (
        &submitted["tasks"][0],
        submitted["tasks"][1].as_str().expect("an id"),
    );
    // The next leader gives the same reasons, because they do not depend on a leader's memory.
    for round in 0..2 {
        if round == 1 {
            cluster.kill9(leader);
            cluster.leader_other_than(leader).await;
        }
        let found = reasons(&api, &delayed).await;
        assert_eq!(found[0]["code"], "delayed");
        assert!(found[0]["until"].is_string(), "{found:?}");
        let found = reasons(&api, &failing).await;
        assert_eq!(found[0]["code"], "backoff");
        assert!(found[0]["until"].is_string(), "{found:?}");
        let found = reasons(&api, second).await;
        assert_eq!(
            (&found[0]["code"], &found[0]["tasks"], &found[0]["count"]),
            (&json!("dependencies"), &json!([first]), &json!(1))
        );
    }
    let unknown = api.get("/v1/tasks/t999999-0/explain").await;
    unknown.refused(404, "not_found");
}

#[tokio::test]
async fn an_explanation_names_what_no_worker_has_and_the_worker_that_comes_closest() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    for (name, labels, resources) in [
        ("far", json!({"zone": "us"}), json!({"mem_mb": 10})),
        (
            "near",
            json!({"zone": "us", "gpu": "yes"}),
            json!({"mem_mb": 100}),
        ),
    ] {
        let profile = json!({
            "name": name, "slots": 1, "kinds": [fake_worker::KIND], "labels": labels, "resources": resources,
        });
        FakeWorker::register_as(&cluster, &profile).await;
    }
    let message = async |requires: Value| {
        let task = submit_task(&api, &with("requires", requires)).await;
        let reasons = reasons(&api, &task).await;
        reasons[0]["message"].as_str().expect("text").to_owned()
    };
    let labels = message(json!({"labels": {"zone": "eu", "gpu": "yes"}})).await;
    assert!(
        labels.contains("has the label zone=eu: start one with --label zone=eu")
            && labels.contains("the closest is near")
            && labels.contains("has zone=us in place of zone=eu"),
        "{labels}"
    );
    let resources = message(json!({"resources": {"mem_mb": 512, "gpus": 1}})).await;
    assert!(
        resources.contains("512 of mem_mb (the most that one has is 100)")
            && resources.contains("1 of gpus (the most that one has is 0)")
            && resources.contains("the closest is"),
        "{resources}"
    );
}

#[tokio::test]
async fn an_explanation_names_reached_limits_with_their_numbers() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 8).await;
    let settings = json!({"max_running": 1, "rate_per_s": 0.001, "burst": 1});
    api.put("/v1/queues/default", &settings).await.expect(200);
    let keyed = |limit: u32| {
        let mut job = with("concurrency_key", json!("k"));
        job["tasks"][0]["concurrency_limit"] = limit.into();
        job
    };
    let first = submit_task(&api, &keyed(1)).await;
    let second = submit_task(&api, &keyed(1)).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, first);
    // All reasons are listed, not only the first.
    let found = reasons(&api, &second).await;
    let codes: Vec<&Value> = found.iter().map(|reason| &reason["code"]).collect();
    assert_eq!(
        codes,
        ["queue_max_running", "queue_rate", "concurrency_key"]
    );
    assert_eq!(found[0]["limit"], 1);
    assert!(found[1]["until"].is_string(), "{found:?}");
    assert_eq!(
        (&found[2]["key"], &found[2]["limit"], &found[2]["count"]),
        (&json!("k"), &json!(1), &json!(1))
    );
    let lifted = json!({"max_running": null, "rate_per_s": null, "paused": true});
    api.put("/v1/queues/default", &lifted).await.expect(200);
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    let found = reasons(&api, &second).await;
    let codes: Vec<&Value> = found.iter().map(|reason| &reason["code"]).collect();
    assert_eq!(codes, ["queue_paused", "concurrency_key"]);
}
