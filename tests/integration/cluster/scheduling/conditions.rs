//! Conditions on dependencies: tasks that handle failures and clean up, by the end of the tasks that they come after.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, Lease, Options, Program, fake_worker};

use crate::job_helpers::{shown, wait_job, wait_state};

fn task(key: &str, after: &Value) -> Value {
    json!({"kind": fake_worker::KIND, "payload": key, "key": key, "after": after, "max_attempts": 1})
}

/// A job of a task that may fail, one that needs its success, one that handles its failure, and one that cleans up.
fn workflow() -> Value {
    json!({"tasks": [
        task("load", &json!([])),
        task("publish", &json!(["load"])),
        task("alert", &json!([{"key": "load", "when": "failed"}])),
        task("tidy", &json!([{"key": "load", "when": "ended"}, {"key": "publish", "when": "ended"}])),
    ]})
}

fn by_payload(mut leases: Vec<Lease>) -> Vec<Lease> {
    leases.sort_by_key(|lease| lease.payload.to_string());
    leases
}

async fn level_1() -> Cluster {
    Cluster::with(Options {
        nodes: 1,
        programs: BTreeMap::from([(1, Program::of_level(1))]),
        ..Options::default()
    })
    .await
}

async fn states(api: &Api, submitted: &Value) -> Vec<Value> {
    let tasks = shown(api, submitted).await;
    tasks.iter().map(|task| task["state"].clone()).collect()
}

#[tokio::test]
async fn a_failure_starts_its_handler_and_the_clean_up_over_a_leader_death() {
    let mut cluster = Cluster::with(Options {
        lease_ms: 60_000,
        ..Options::default()
    })
    .await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 4).await;
    let submitted = api.submit(&workflow()).await;
    let ids = submitted["tasks"].as_array().expect("ids").clone();
    let id = |at: usize| ids[at].as_str().expect("an id").to_owned();
    let path = format!("/v1/tasks/{}/explain", id(3));
    let why = api.get(&path).await.expect(200);
    let summary = why["summary"].as_str().expect("a text");
    assert!(summary.contains("load (ended), publish (ended)"), "{why}");
    let lease = worker.take(&[]).await;
    assert_eq!(lease.payload, "load");
    worker.report_all(&[lease.failed(false)]).await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;

    let leases = by_payload(worker.take_many(2).await);
    let error = json!({"type": "test", "message": "failed by the test"});
    assert_eq!(leases[0].payload, "alert");
    assert_eq!(leases[0].inputs, json!({ "load": error }));
    assert_eq!(leases[1].payload, "tidy");
    let ends = &leases[1].inputs;
    assert_eq!(ends["load"], json!({"state": "failed", "error": error}));
    assert_eq!(ends["publish"]["state"], "cancelled", "{ends}");
    assert_eq!(
        ends["publish"]["error"]["type"], "dependency_failed",
        "{ends}"
    );
    // Their input would change under them.
    let retry = format!("/v1/tasks/{}/retry", id(0));
    let refused = api.post(&retry, &json!({})).await.refused(409, "conflict");
    assert_eq!(refused["handler"], json!(leases[0].task), "{refused}");
    let done: Vec<Value> = leases
        .iter()
        .map(|lease| lease.succeeded(json!(1)))
        .collect();
    worker.report_all(&done).await;
    let job = submitted["id"].as_str().expect("an id");
    assert_eq!(wait_job(&api, job).await["state"], "failed");
    let after = shown(&api, &submitted).await[2]["after"].clone();
    assert_eq!(after, json!([{"key": "load", "when": "failed"}]));

    // What has run does not run again. What was cancelled does.
    api.post(&retry, &json!({})).await.expect(200);
    assert_eq!(
        states(&api, &submitted).await,
        ["queued", "waiting", "succeeded", "succeeded"]
    );
    for payload in ["load", "publish"] {
        let lease = worker.take(&[]).await;
        assert_eq!(lease.payload, payload);
        worker.report_all(&[lease.succeeded(json!(payload))]).await;
    }
    assert_eq!(wait_job(&api, job).await["state"], "succeeded");
}

#[tokio::test]
async fn a_handler_that_is_not_needed_leaves_its_job_succeeded() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let submitted = api.submit(&workflow()).await;
    for payload in ["load", "publish", "tidy"] {
        let lease = worker.take(&[]).await;
        assert_eq!(lease.payload, payload);
        if payload == "tidy" {
            let end = |result: &str| json!({"state": "succeeded", "result": result});
            let ends = json!({"load": end("load"), "publish": end("publish")});
            assert_eq!(lease.inputs, ends);
        }
        worker.report_all(&[lease.succeeded(json!(payload))]).await;
    }
    let job = submitted["id"].as_str().expect("an id");
    assert_eq!(wait_job(&api, job).await["state"], "succeeded");
    let alert = shown(&api, &submitted).await.remove(2);
    assert_eq!(
        (
            &alert["state"],
            &alert["error"]["type"],
            &alert["error"]["task"]
        ),
        (
            &json!("cancelled"),
            &json!("not_needed"),
            &submitted["tasks"][0]
        ),
        "{alert}"
    );
    let retry = format!("/v1/tasks/{}/retry", alert["id"].as_str().expect("an id"));
    let refused = api.post(&retry, &json!({})).await.refused(409, "conflict");
    assert_eq!(refused["dependency"], submitted["tasks"][0], "{refused}");
}

#[tokio::test]
async fn cancelling_a_task_cleans_up_and_cancelling_the_job_cancels_all_of_it() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(1);
    let submitted = api.submit(&workflow()).await;
    let first = submitted["tasks"][0].as_str().expect("an id");
    let cancel = format!("/v1/tasks/{first}/cancel");
    api.post(&cancel, &json!({})).await.expect(200);
    assert_eq!(
        states(&api, &submitted).await,
        ["cancelled", "cancelled", "cancelled", "queued"]
    );
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.inputs["load"], json!({"state": "cancelled"}));
    worker.report_all(&[lease.succeeded(json!(1))]).await;

    let submitted = api.submit(&workflow()).await;
    let job = submitted["id"].as_str().expect("an id");
    let cancel = format!("/v1/jobs/{job}/cancel");
    api.post(&cancel, &json!({})).await.expect(200);
    for state in states(&api, &submitted).await {
        assert_eq!(state, "cancelled");
    }
}

#[tokio::test]
async fn conditions_that_are_wrong_are_refused_with_their_field() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let with = |after: Value| json!([task("a", &json!([])), task("b", &after)]);
    let ended = |key: &str| json!({"key": key, "when": "ended"});
    for (field, tasks) in [
        (
            "tasks[1].after[0].when",
            with(json!([{"key": "a", "when": "soon"}])),
        ),
        (
            "tasks[1].after[0].when",
            with(json!([{"key": "a", "when": null}])),
        ),
        (
            "tasks[1].after[0].if",
            with(json!([{"key": "a", "if": "failed"}])),
        ),
        (
            "tasks[1].after[0].key",
            with(json!([{"key": "", "when": "failed"}])),
        ),
        ("tasks[1].after[0]", with(json!([{"when": "failed"}]))),
        ("tasks[1].after[0]", with(json!([7]))),
        ("tasks[1].after", with(json!([ended("nobody")]))),
        ("tasks[1].after", with(json!([ended("b")]))),
        ("tasks[1].after", with(json!(["a", ended("a")]))),
        (
            "tasks[0].after",
            json!([task("a", &json!([ended("b")])), task("b", &json!(["a"]))]),
        ),
    ] {
        let refused = api.post("/v1/jobs", &json!({ "tasks": tasks })).await;
        let problem = refused.refused(400, "invalid_request");
        assert_eq!(problem["field"], field, "{problem}");
    }
}

#[tokio::test]
async fn a_cluster_of_level_1_refuses_conditions_and_backups_with_them() {
    let of_level_2 = Cluster::start(1).await;
    let submitted = of_level_2.api(1).submit(&workflow()).await;
    let file = of_level_2.root().join("backup");
    let file = Path::new(&file).to_str().expect("plain").to_owned();
    let backup = ["cluster", "backup", &file];
    of_level_2.cli().run(&backup).await.expect(0);

    let cluster = level_1().await;
    let api = cluster.api(1);
    let refused = api.post("/v1/jobs", &workflow()).await;
    let refused = refused.refused(409, "node_too_old");
    assert_eq!(
        (&refused["field"], &refused["level"], &refused["needed"]),
        (&json!("tasks[2].after[0].when"), &json!(1), &json!(2))
    );
    let first = api.submit(&fake_worker::job(json!(1))).await;
    let mut after = fake_worker::job(json!(2));
    after["after_jobs"] = json!([{"job": first["id"]}]);
    let refused = api.post("/v1/jobs", &after).await;
    let refused = refused.refused(409, "node_too_old");
    assert_eq!(refused["field"], "after_jobs");
    let cancel = format!("/v1/jobs/{}/cancel", first["id"].as_str().expect("an id"));
    api.post(&cancel, &json!({})).await.expect(200);
    let forgotten = api
        .post("/v1/tasks/forget", &json!({"state": "cancelled"}))
        .await;
    assert_eq!(forgotten.expect(200)["count"], 1);
    let schedule = json!({"cron": "0 0 1 1 *", "job": workflow()});
    let put = api.put("/v1/schedules/s", &schedule).await;
    let refused = put.refused(409, "node_too_old");
    assert_eq!(refused["field"], "job.tasks[2].after[0].when");
    // The default may be spelled out.
    let plain = json!([
        task("a", &json!([])),
        task("b", &json!([{"key": "a", "when": "succeeded"}]))
    ]);
    let restore = ["cluster", "restore", &file];
    let ran = cluster.cli().run(&restore).await.expect(1);
    ran.says("triarch cluster upgrade");
    assert!(api.all("/v1/jobs", "jobs").await.is_empty());
    api.submit(&json!({ "tasks": plain })).await;

    let cluster = Cluster::start(1).await;
    cluster.cli().run(&restore).await.expect(0);
    let api = cluster.api(1);
    let restored = shown(&api, &submitted).await;
    assert_eq!(
        restored[2]["after"],
        json!([{"key": "load", "when": "failed"}])
    );
    let first = restored[0]["id"].as_str().expect("an id");
    let cancel = format!("/v1/tasks/{first}/cancel");
    api.post(&cancel, &json!({})).await.expect(200);
    wait_state(&api, restored[3]["id"].as_str().expect("an id"), "queued").await;
}
