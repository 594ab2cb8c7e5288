//! Backups: taken from a cluster under load, restored into an empty cluster.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, equal_digests, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, submit_task};

/// Returns the contents of a table, without its workers and leases.
async fn contents(api: &Api) -> Value {
    let mut tasks = api.all("/v1/tasks?fields=result,error", "tasks").await;
    for task in &mut tasks {
        if let Some(task) = task.as_object_mut() {
            // The next page continues here.
            for running in [
                "state",
                "worker",
                "started_at",
                "attempt",
                "attempts",
                "token",
                "progress",
                "note",
            ] {
                if task.get("result").is_none_or(Value::is_null) {
                    task.remove(running);
                }
            }
        }
    }
    let schedules = api.get("/v1/schedules").await.expect(200);
    json!({"tasks": tasks, "schedules": schedules["schedules"]})
}

async fn backed_up(cluster: &Cluster, file: &Path) -> Value {
    let file = file.to_str().expect("plain");
    let args = ["cluster", "backup", file, "--output", "json"];
    cluster.cli().run(&args).await.expect(0).json()
}

#[tokio::test]
async fn a_backup_restored_into_a_new_cluster_gives_all_its_contents() {
    let mut old = Cluster::start(3).await;
    let (_, follower) = old.leader_and_follower().await;
    let api = old.api(follower);
    let worker = FakeWorker::register(&old, "w", 2).await;
    let done = submit_task(&api, &fake_worker::job(json!("done"))).await;
    let lease = worker.take(&[]).await;
    worker.report_all(&[lease.succeeded(json!("kept"))]).await;
    let running = submit_task(&api, &fake_worker::job(json!("running"))).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, running);
    let queued = submit_task(
        &api,
        &json!({"tasks": [{"kind": "later", "payload": 1, "priority": 7}]}),
    )
    .await;
    let mut keyed = fake_worker::job(json!("keyed"));
    keyed["idempotency_key"] = json!("once");
    keyed["tasks"][0]["delay_ms"] = json!(3_600_000);
    let keyed_job = api.submit(&keyed).await;
    let schedule = json!({"cron": "0 0 1 1 *", "job": {"tasks": [{"kind": "yearly"}]}});
    api.put("/v1/schedules/yearly", &schedule).await.expect(201);
    let settings = json!({"max_running": 3, "paused": true});
    api.put("/v1/queues/slow", &settings).await.expect(200);

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup");
    let summary = backed_up(&old, &file).await;
    assert_eq!(summary["tasks"], 4);
    let mode = file.metadata().expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = contents(&api).await;
    // An existing file is not replaced without `--force`.
    let again = ["cluster", "backup", file.to_str().expect("plain")];
    old.cli().run(&again).await.expect(2).says("exists already");

    drop(old);

    // The leader of the new cluster is killed as soon as it has the first part.
    let mut new = Cluster::start(3).await;
    let leader = new.wait_ready().await;
    let stranger = FakeWorker::register(&new, "early", 1).await;
    let restore = ["cluster", "restore", file.to_str().expect("plain")];
    let restored = new.cli().run(&restore).await.expect(0);
    restored.shows("restored 4 jobs and 4 tasks");
    new.kill9(leader);
    let next = new.leader_other_than(leader).await;
    let api = new.api(next);
    assert_eq!(contents(&api).await, before);
    // A repeated restore is done already, and jobs that came since do not belong to it.
    let later = json!({"tasks": [{"kind": "later"}]});
    let later = api.submit(&later).await;
    let again = new.cli().run(&restore).await.expect(0);
    let again = again.shows("was restored before: nothing is changed");
    again.shows("the cluster holds 5 jobs and 5 tasks now");
    let later = later["id"].as_str().expect("an id");
    let path = format!("/v1/jobs/{later}/cancel");
    api.post(&path, &json!({})).await.expect(200);
    new.restart(leader);

    // Running tasks are queued again and get a higher token. Their workers are not known any more.
    let shown = api.get(&format!("/v1/tasks/{running}")).await.expect(200);
    assert_eq!(shown["state"], "queued");
    assert_eq!(shown["attempts"][0]["outcome"], "returned");
    let poll = stranger
        .worker_call("poll", &json!({"max": 1, "wait_ms": 0}))
        .await;
    poll.refused(404, "unknown_worker");
    let worker = FakeWorker::register(&new, "w", 2).await;
    let lease_there = worker.take(&[]).await;
    assert_eq!(lease_there.task, running);
    assert!(
        lease_there.token > lease.token,
        "{} after {}",
        lease_there.token,
        lease.token
    );
    let stale = worker.report(lease.succeeded(json!("late"))).await;
    assert_eq!(stale["code"], "stale_token");
    worker
        .report_all(&[lease_there.succeeded(json!("again"))])
        .await;

    let shown = api.get(&format!("/v1/tasks/{done}")).await.expect(200);
    assert_eq!(shown["result"], "kept");
    let shown = api.get(&format!("/v1/tasks/{queued}")).await.expect(200);
    assert_eq!(
        (&shown["state"], &shown["priority"]),
        (&json!("queued"), &json!(7))
    );
    let duplicate = api.post("/v1/jobs", &keyed).await.expect(200);
    assert_eq!(
        (&duplicate["id"], &duplicate["duplicate"]),
        (&keyed_job["id"], &json!(true))
    );
    let queues = api.get("/v1/queues").await.expect(200).to_string();
    assert!(queues.contains("\"slow\""), "{queues}");
    // A new id is higher than every old one.
    let fresh = submit_task(&api, &fake_worker::job(json!("fresh"))).await;
    let index = |task: &str| {
        task[1..]
            .split('-')
            .next()
            .and_then(|index| index.parse::<u64>().ok())
    };
    assert!(index(&fresh) > index(&queued), "{fresh} after {queued}");
    // All replicas have the same table.
    new.wait_ready().await;
    equal_digests(WAIT_TIMEOUT, &new.apis()).await;
}

#[tokio::test]
async fn a_backup_that_is_damaged_or_has_no_empty_cluster_is_refused() {
    let mut cluster = Cluster::start(3).await;
    cluster.wait_ready().await;
    let api = cluster.api(1);
    submit_task(&api, &fake_worker::job(json!(1))).await;
    let file = cluster.root().join("backup");
    backed_up(&cluster, &file).await;

    // A cluster with jobs is not overwritten.
    let restore = ["cluster", "restore", file.to_str().expect("plain")];
    let refused = cluster.cli().run(&restore).await.expect(1);
    refused.says("this cluster holds 1 job: a backup is restored into a new cluster");

    let bytes = std::fs::read(&file).expect("readable");
    let bad = cluster.root().join("bad");
    let restore = ["cluster", "restore", bad.to_str().expect("plain")];
    std::fs::write(&bad, &bytes[..bytes.len() / 2]).expect("writable");
    let refused = cluster.cli().run(&restore).await.expect(1);
    refused.says("cut short");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    std::fs::write(&bad, &flipped).expect("writable");
    cluster.cli().run(&restore).await.expect(1).says("damaged");
    std::fs::write(&bad, "PK").expect("writable");
    cluster
        .cli()
        .run(&restore)
        .await
        .expect(1)
        .says("not a backup");

    // The cluster itself refuses pieces that form no valid table, and is unchanged.
    drop(cluster);
    let new = Cluster::start(3).await;
    let api = new.api(2);
    let part = |number: u32| {
        let path = format!("/v1/cluster/restore?backup=b&part={number}&parts=2");
        api.call(Method::POST, &path).raw("no table")
    };
    let first = part(1).answer().await.expect(202);
    assert_eq!(
        (&first["received"], &first["parts"]),
        (&json!(1), &json!(2))
    );
    part(2).answer().await.refused(400, "invalid_request");
    submit_task(&api, &fake_worker::job(json!(1))).await;
    part(1).answer().await.refused(409, "conflict");
    for bad in [
        "part=0&parts=2",
        "part=3&parts=2",
        "part=1",
        "parts=1",
        "part=x&parts=1",
    ] {
        let path = format!("/v1/cluster/restore?backup=c&{bad}");
        let reply = api.call(Method::POST, &path).raw("x").answer().await;
        reply.refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_stale_backup_of_the_last_master_rescues_what_it_has() {
    let mut old = Cluster::start(3).await;
    let api = old.api(1);
    for n in 0..3 {
        submit_task(&api, &json!({"tasks": [{"kind": "later", "payload": n}]})).await;
    }
    let (_, last) = old.leader_and_follower().await;
    let index = api.get("/v1/cluster").await.index();
    until(WAIT_TIMEOUT, "the last master has everything", async || {
        old.api(last)
            .get("/v1/cluster?consistency=stale")
            .await
            .index()
            >= index
    })
    .await;
    for node in (1..=3).filter(|node| *node != last) {
        old.kill9(node);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rescued");
    let file = file.to_str().expect("plain");
    let url = old.masters();
    let args = [
        "cluster",
        "backup",
        file,
        "--stale",
        "--masters",
        &url,
        "--output",
        "json",
    ];
    let summary = old.cli().run(&args).await.expect(0).json();
    assert_eq!(summary["tasks"], 3);

    let new = Cluster::start(1).await;
    let restored = new.cli().run(&["cluster", "restore", file]).await.expect(0);
    restored.shows("restored 3 jobs and 3 tasks");
}
