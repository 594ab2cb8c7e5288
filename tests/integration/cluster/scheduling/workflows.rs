//! Tasks with dependencies: each starts once and with its inputs, or not at all, whichever leader decides.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Cluster, FakeWorker, Options, fake_worker};

use crate::job_helpers::{submit_task, succeeded_once, wait_job};

/// Longer than any election here, so that no lease ends by itself.
async fn cluster() -> Cluster {
    Cluster::with(Options {
        lease_ms: 60_000,
        ..Options::default()
    })
    .await
}

fn task(key: &str, after: &[&str]) -> Value {
    json!({"kind": fake_worker::KIND, "payload": key, "key": key, "after": after})
}

fn ids(submitted: &Value) -> Vec<String> {
    let tasks = submitted["tasks"].as_array().expect("ids");
    tasks
        .iter()
        .map(|id| id.as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn a_callback_starts_once_though_the_leader_dies_as_its_last_members_end() {
    let mut cluster = cluster().await;
    let worker = FakeWorker::register(&cluster, "w", 8).await;
    let other = FakeWorker::register(&cluster, "other", 8).await;
    let members = ["a", "b", "c", "d", "e"];
    // Before, during and shortly before the end of the workflow.
    for part in [0.0, 0.5, 1.0] {
        let leader = cluster.wait_ready().await;
        let mut chord: Vec<Value> = members.iter().map(|key| task(key, &[])).collect();
        chord.push(task("callback", &members));
        let submitted = cluster.api(leader).submit(&json!({"tasks": chord})).await;
        let callback = ids(&submitted).pop().expect("tasks");
        let leases = worker.take_many(members.len()).await;
        let result = |key: &Value| json!({"of": key});
        let mut reports = leases.iter().map(|lease| {
            let result = result(&lease.payload);
            lease.succeeded(result)
        });
        let first: Vec<Value> = reports.by_ref().take(3).collect();
        let begun = Instant::now();
        worker.report_all(&first).await;
        let took = begun.elapsed();

        let last: Vec<Value> = reports.collect();
        let path = format!("/v1/workers/{}/report", worker.id);
        let calls = last.iter().map(|report| {
            let call = cluster.api(leader).call(Method::POST, &path);
            call.json(&json!({"results": [report]}))
        });
        let calls = calls.collect();
        cluster.kill9_amid(leader, took.mul_f64(part), calls).await;
        let next = cluster.leader_other_than(leader).await;
        worker.report_all(&last).await;

        let lease = worker.take(&[]).await;
        assert_eq!(lease.task, callback);
        let inputs: serde_json::Map<String, Value> = members
            .iter()
            .map(|key| ((*key).to_owned(), result(&json!(key))))
            .collect();
        assert_eq!(lease.inputs, Value::Object(inputs));
        // The same request again while the task runs: it is accepted and has no effect.
        worker.report_all(&last).await;
        other.take_nothing(&[]).await;
        worker.report_all(&[lease.succeeded(json!("all"))]).await;
        other.take_nothing(&[]).await;
        let api = cluster.api(next);
        let job = wait_job(&api, submitted["id"].as_str().expect("an id")).await;
        assert_eq!(job["state"], "succeeded");
        for id in ids(&submitted) {
            let shown = api.get(&format!("/v1/tasks/{id}")).await.expect(200);
            assert!(succeeded_once(&shown), "{shown}");
        }
        cluster.restart(leader);
        cluster.wait_caught_up(leader).await;
    }
}

#[tokio::test]
async fn a_chain_of_ten_thousand_tasks_is_cancelled_and_revived_with_its_first() {
    let mut cluster = cluster().await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let length = 10_000;
    let chain: Vec<Value> = (0..length)
        .map(|nth: usize| {
            let after: Vec<String> = nth
                .checked_sub(1)
                .map(|before| format!("t{before}"))
                .into_iter()
                .collect();
            json!({"kind": fake_worker::KIND, "key": format!("t{nth}"), "after": after})
        })
        .collect();
    let api = cluster.api(follower);
    let submitted = api.submit(&json!({"tasks": chain})).await;
    let (job, tasks) = (submitted["id"].as_str().expect("an id"), ids(&submitted));
    assert_eq!(tasks.len(), length);

    // The follower forwards the request to a leader that dies, and still makes sure that it is done.
    let cancel = api.call(Method::POST, &format!("/v1/tasks/{}/cancel", tasks[0]));
    let replies = cluster
        .kill9_amid(leader, Duration::from_millis(5), vec![cancel])
        .await;
    let cancelled = replies[0].as_ref().expect("the follower answers");
    assert_eq!(cancelled.expect(200)["state"], "cancelled");
    let shown = api.get(&format!("/v1/jobs/{job}")).await.expect(200);
    assert_eq!(
        (&shown["state"], &shown["counts"]["cancelled"]),
        (&json!("cancelled"), &json!(length)),
        "{shown}"
    );
    let rows = api
        .all(&format!("/v1/jobs/{job}/tasks?fields=error"), "tasks")
        .await;
    assert_eq!(rows.len(), length);
    assert!(rows[0]["error"].is_null(), "{}", rows[0]);
    for (nth, row) in rows.iter().enumerate().skip(1) {
        assert_eq!(
            (&row["state"], &row["error"]["type"], &row["error"]["task"]),
            (
                &json!("cancelled"),
                &json!("dependency_failed"),
                &json!(tasks[nth - 1])
            ),
            "{row}"
        );
    }

    // A task in the middle has no inputs. A retry of the first task retries all that depend on it.
    let retry = |task: &str| format!("/v1/tasks/{task}/retry");
    let problem = api.post(&retry(&tasks[5_000]), &json!({})).await;
    let problem = problem.refused(409, "conflict");
    assert_eq!(problem["dependency"], tasks[4_999], "{problem}");
    api.post(&retry(&tasks[0]), &json!({})).await.expect(200);
    let shown = api.get(&format!("/v1/jobs/{job}")).await.expect(200);
    assert_eq!(
        (
            &shown["state"],
            &shown["counts"]["queued"],
            &shown["counts"]["waiting"]
        ),
        (&json!("running"), &json!(1), &json!(length - 1)),
        "{shown}"
    );
}

#[tokio::test]
async fn dependents_of_a_failed_task_are_cancelled_and_revived_by_its_retry() {
    let mut cluster = cluster().await;
    let leader = cluster.wait_ready().await;
    let worker = FakeWorker::register(&cluster, "w", 8).await;
    let job = json!({"tasks": [
        task("bad", &[]), task("good", &[]), task("x", &["bad"]), task("y", &["x", "good"]), task("z", &["good"]),
    ]});
    let submitted = cluster.api(leader).submit(&job).await;
    let tasks = ids(&submitted);
    let leases = worker.take_many(2).await;
    let (bad, good) = (&leases[0], &leases[1]);
    assert_eq!(
        (&bad.payload, &good.payload),
        (&json!("bad"), &json!("good"))
    );

    let failure = bad.failed(false);
    let path = format!("/v1/workers/{}/report", worker.id);
    let report = cluster.api(leader).call(Method::POST, &path);
    let report = report.json(&json!({"results": [failure]}));
    cluster
        .kill9_amid(leader, Duration::from_millis(3), vec![report])
        .await;
    let next = cluster.leader_other_than(leader).await;
    let api = cluster.api(next);
    worker.report_all(&[failure]).await;
    let states = async || {
        let id = submitted["id"].as_str().expect("an id");
        let rows = api
            .all(&format!("/v1/jobs/{id}/tasks?fields=error"), "tasks")
            .await;
        let states: Vec<String> = rows
            .iter()
            .map(|row| row["state"].as_str().expect("a state").to_owned())
            .collect();
        (states, rows)
    };
    let (now, rows) = states().await;
    assert_eq!(
        now,
        ["failed", "running", "cancelled", "cancelled", "waiting"]
    );
    for (row, first) in [(2, 0), (3, 2)] {
        let error = &rows[row]["error"];
        assert_eq!(
            (&error["type"], &error["task"]),
            (&json!("dependency_failed"), &json!(tasks[first]))
        );
    }
    // The other tasks continue.
    worker.report_all(&[good.succeeded(json!(2))]).await;
    let z = worker.take(&[]).await;
    assert_eq!((&z.task, &z.inputs), (&tasks[4], &json!({"good": 2})));
    worker.report_all(&[z.succeeded(json!(5))]).await;
    let id = submitted["id"].as_str().expect("an id");
    assert_eq!(wait_job(&api, id).await["state"], "failed");

    // Succeeded tasks stay so. Failed tasks are retried, with those that depend on them.
    let retry = |task: &str| format!("/v1/tasks/{task}/retry");
    api.post(&retry(&tasks[1]), &json!({}))
        .await
        .refused(409, "conflict");
    api.post(&retry(&tasks[0]), &json!({})).await.expect(200);
    let (now, _) = states().await;
    assert_eq!(
        now,
        ["queued", "succeeded", "waiting", "waiting", "succeeded"]
    );
    for (place, inputs, result) in [
        (0, json!({}), json!(1)),
        (2, json!({"bad": 1}), json!(3)),
        (3, json!({"x": 3, "good": 2}), json!(4)),
    ] {
        let lease = worker.take(&[]).await;
        assert_eq!((&lease.task, &lease.inputs), (&tasks[place], &inputs));
        worker.report_all(&[lease.succeeded(result)]).await;
    }
    assert_eq!(wait_job(&api, id).await["state"], "succeeded");
}

#[tokio::test]
async fn a_fail_fast_job_stops_its_tasks_on_other_workers() {
    let mut cluster = cluster().await;
    let leader = cluster.wait_ready().await;
    let worker = FakeWorker::register(&cluster, "w", 8).await;
    let job = json!({"on_failure": "fail_fast", "tasks": [
        task("bad", &[]), task("runs", &[]), task("later", &["runs"]),
        {"kind": fake_worker::KIND, "key": "much-later", "delay_ms": 3_600_000},
    ]});
    let submitted = cluster.api(leader).submit(&job).await;
    let tasks = ids(&submitted);
    let leases = worker.take_many(2).await;
    let failure = leases[0].failed(false);
    let path = format!("/v1/workers/{}/report", worker.id);
    let report = cluster.api(leader).call(Method::POST, &path);
    let report = report.json(&json!({"results": [failure]}));
    cluster
        .kill9_amid(leader, Duration::from_millis(3), vec![report])
        .await;
    let next = cluster.leader_other_than(leader).await;
    worker.report_all(&[failure]).await;
    let api = cluster.api(next);
    let id = submitted["id"].as_str().expect("an id");
    assert_eq!(wait_job(&api, id).await["state"], "failed");
    for other in &tasks[1..] {
        let shown = api.get(&format!("/v1/tasks/{other}")).await.expect(200);
        assert_eq!(
            (
                &shown["state"],
                &shown["error"]["type"],
                &shown["error"]["task"]
            ),
            (&json!("cancelled"), &json!("job_failed"), &json!(tasks[0])),
            "{shown}"
        );
    }
    // The worker is asked to stop, and its result comes too late.
    let orders = worker.heartbeat(&leases[1..]).await;
    assert_eq!(orders["cancel"], json!([tasks[1]]));
    let acknowledgement = worker.report(leases[1].succeeded(json!(1))).await;
    assert_eq!(acknowledgement["code"], "already_finished");
}

#[tokio::test]
async fn jobs_with_dependency_cycles_or_unknown_dependencies_are_refused_whole() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let mut twice = task("b", &["a", "a"]);
    twice["queue"] = "never".into();
    for (field, tasks) in [
        (
            "tasks[1].after",
            json!([task("a", &[]), task("b", &["nobody"])]),
        ),
        ("tasks[1].after", json!([task("a", &[]), task("b", &["b"])])),
        ("tasks[1].after", json!([task("a", &[]), twice])),
        ("tasks[1].key", json!([task("a", &[]), task("a", &[])])),
        (
            "tasks[1].after",
            json!([
                task("a", &[]),
                task("b", &["a", "d"]),
                task("c", &["b"]),
                task("d", &["c"])
            ]),
        ),
    ] {
        let refused = api.post("/v1/jobs", &json!({"tasks": tasks})).await;
        let problem = refused.refused(400, "invalid_request");
        assert_eq!(problem["field"], field, "{problem}");
    }
    assert!(api.all("/v1/jobs", "jobs").await.is_empty());
    assert!(api.all("/v1/tasks", "tasks").await.is_empty());
    let unmade = api.get("/v1/queues/never").await;
    unmade.refused(404, "not_found");
    // The refused requests do not affect a valid one.
    submit_task(&api, &json!({"tasks": [task("a", &[]), task("b", &["a"])]})).await;
}
