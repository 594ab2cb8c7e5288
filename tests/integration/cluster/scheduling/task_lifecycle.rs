//! Life cycle of tasks: cancellation, retry, delay, and time limits.

use serde_json::json;
use triarch_harness::{Cluster, FakeWorker, fake_worker, until};

use crate::job_helpers::{
    WAIT_TIMEOUT, counted_attempts, counted_outcomes, exec, first_task, shell, submit_task,
    wait_job, wait_state,
};

fn is_alive(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid.trim()).exists()
}

#[tokio::test]
async fn cancelling_a_queued_task_ends_it_at_once() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let job = api.submit(&json!({"tasks": [{"kind": "hand"}, {"kind": "hand"}, {"kind": "hand", "delay_ms": 600_000}]})).await;
    let id = job["id"].as_str().expect("an id");
    let task = first_task(&job);
    let one = api
        .post(&format!("/v1/tasks/{task}/cancel"), &json!({}))
        .await
        .expect(200);
    assert_eq!(one["state"], "cancelled");
    assert_eq!(
        api.get(&format!("/v1/jobs/{id}")).await.expect(200)["state"],
        "running"
    );
    let all = api
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await
        .expect(200);
    assert_eq!(
        (&all["state"], &all["counts"]["cancelled"]),
        (&json!("cancelled"), &json!(3)),
        "{all}"
    );
    // None of these tasks is ever leased.
    let worker = FakeWorker::register(&cluster, "w", 3).await;
    assert_eq!(worker.poll(3, 200, &[]).await, []);
}

#[tokio::test]
async fn cancelling_a_running_task_kills_its_process_tree() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&["--slots", "1"]);
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let pids = cluster.root().join("pids");
    // A child that ignores SIGTERM, with a child of its own.
    let script = format!(
        "trap '' TERM; sleep 600 & echo $$ > '{0}.new'; echo $! >> '{0}.new'; mv '{0}.new' '{0}'; while :; do sleep 1; done",
        pids.display()
    );
    let job = api.submit(&shell(&script)).await;
    until(WAIT_TIMEOUT, "the command runs", async || pids.exists()).await;
    let text = std::fs::read_to_string(&pids).expect("two pids");
    assert!(
        text.lines().count() == 2 && text.lines().all(is_alive),
        "{text}"
    );

    let cancelled = api
        .post(
            &format!("/v1/tasks/{}/cancel", first_task(&job)),
            &json!({}),
        )
        .await
        .expect(200);
    assert_eq!(cancelled["state"], "cancelled");
    until(WAIT_TIMEOUT, "both processes are gone", async || {
        !text.lines().any(is_alive)
    })
    .await;
    let done = wait_job(&api, job["id"].as_str().expect("an id")).await;
    assert_eq!(done["state"], "cancelled");
    // The slot is free again.
    let next = submit_task(&api, &shell("echo next")).await;
    assert_eq!(
        wait_state(&api, &next, "succeeded").await["result"]["stdout"],
        "next\n"
    );
    let task = api
        .get(&format!("/v1/tasks/{}", first_task(&job)))
        .await
        .expect(200);
    assert_eq!(
        (&task["state"], counted_outcomes(&task)),
        (&json!("cancelled"), vec!["cancelled".to_owned()])
    );
}

#[tokio::test]
async fn a_failing_task_is_retried_up_to_its_limit_and_again_on_request() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&["--slots", "1"]);
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let counter = cluster.root().join("counter");
    let script = format!(
        "echo x >> '{0}'; echo told >&2; [ $(wc -l < '{0}') -ge 3 ]",
        counter.display()
    );
    let mut job = shell(&script);
    job["tasks"][0]["max_attempts"] = 2.into();
    job["tasks"][0]["backoff"] = json!({"initial_ms": 50, "jitter": 0});
    let submitted = api.submit(&job).await;
    let task = first_task(&submitted);
    let failed = wait_state(&api, &task, "failed").await;
    assert_eq!(counted_outcomes(&failed), ["failed", "failed"]);
    assert_eq!(
        (&failed["error"]["exit_code"], &failed["error"]["stderr"]),
        (&json!(1), &json!("told\n")),
        "{failed}"
    );
    assert_eq!(
        wait_job(&api, submitted["id"].as_str().expect("an id")).await["state"],
        "failed"
    );

    let retried = api
        .post(&format!("/v1/tasks/{task}/retry"), &json!({}))
        .await
        .expect(200);
    assert!(
        !matches!(retried["state"].as_str(), Some("failed")),
        "{retried}"
    );
    let done = wait_state(&api, &task, "succeeded").await;
    assert_eq!(
        counted_outcomes(&done),
        ["failed", "failed", "succeeded"],
        "{done}"
    );
    assert_eq!(
        wait_job(&api, submitted["id"].as_str().expect("an id")).await["state"],
        "succeeded"
    );
}

#[tokio::test]
async fn a_non_retryable_failure_is_not_retried() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    assert_eq!(worker.report(lease.failed(false)).await["accepted"], true);
    let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
    assert_eq!(
        (&shown["state"], &shown["error"]["type"]),
        (&json!("failed"), &json!("test"))
    );
}

#[tokio::test]
async fn a_delayed_task_does_not_start_before_its_time() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(&cluster, "w", 2).await;
    let delayed = submit_task(
        &api,
        &json!({"tasks": [{"kind": "hand", "delay_ms": 1_500}]}),
    )
    .await;
    let prompt = submit_task(&api, &fake_worker::job(json!(1))).await;
    let shown = api.get(&format!("/v1/tasks/{delayed}")).await.expect(200);
    assert_eq!(shown["state"], "delayed");
    let first = worker.take(&[]).await;
    assert_eq!(first.task, prompt);
    // A waiting worker gets the task when its time comes.
    let second = worker.take(std::slice::from_ref(&first)).await;
    assert_eq!(second.task, delayed);
    let task = api.get(&format!("/v1/tasks/{delayed}")).await.expect(200);
    let (created, started) = (unix_ms(&task["created_at"]), unix_ms(&task["started_at"]));
    assert!(started - created >= 1_500, "{task}");
}

#[tokio::test]
async fn a_retry_does_not_start_before_its_back_off_ends() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let backoff = json!({"initial_ms": 500, "factor": 3.0, "jitter": 0.0});
    let task = submit_task(
        &api,
        &json!({"tasks": [{"kind": "hand", "max_attempts": 3, "backoff": backoff}]}),
    )
    .await;
    for _ in 0..3 {
        let lease = worker.take(&[]).await;
        assert_eq!(lease.task, task);
        assert_eq!(worker.report(lease.failed(true)).await["accepted"], true);
        let state = api.get(&format!("/v1/tasks/{task}")).await.expect(200)["state"].clone();
        assert!(state != "running" && state != "succeeded", "{state}");
    }
    let shown = wait_state(&api, &task, "failed").await;
    assert_eq!(counted_outcomes(&shown), ["failed"; 3], "{shown}");
    let attempts = counted_attempts(&shown);
    for (nth, wait_ms) in [(1, 500), (2, 1_500)] {
        let waited =
            unix_ms(&attempts[nth]["started_at"]) - unix_ms(&attempts[nth - 1]["ended_at"]);
        assert!(
            waited >= wait_ms,
            "attempt {} began {waited} ms after the one before: {shown}",
            nth + 1
        );
    }
}

#[tokio::test]
async fn an_attempt_past_its_timeout_is_stopped() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&["--slots", "1"]);
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let mut job = shell("echo begun; sleep 600");
    job["tasks"][0]["timeout_ms"] = 300.into();
    job["tasks"][0]["max_attempts"] = 2.into();
    job["tasks"][0]["backoff"] = json!({"initial_ms": 0});
    let task = submit_task(&api, &job).await;
    let shown = wait_state(&api, &task, "failed").await;
    assert_eq!(counted_attempts(&shown).len(), 2, "{shown}");
    assert_eq!(shown["error"]["type"], "timeout", "{shown}");
    assert_eq!(
        shown["error"]["stdout"], "begun\n",
        "what it wrote is kept: {shown}"
    );
    let next = submit_task(&api, &exec(&["true"])).await;
    wait_state(&api, &next, "succeeded").await;
}

#[tokio::test]
async fn a_task_that_is_not_started_in_time_expires() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let job = api
        .submit(&json!({"tasks": [{"kind": "hand", "expires_ms": 300}]}))
        .await;
    let done = wait_job(&api, job["id"].as_str().expect("an id")).await;
    assert_eq!(
        (&done["state"], &done["counts"]["expired"]),
        (&json!("failed"), &json!(1)),
        "{done}"
    );
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    assert_eq!(worker.poll(1, 200, &[]).await, []);
}

#[tokio::test]
async fn a_task_of_higher_priority_starts_before_an_older_one() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let tasks: Vec<_> = [0, 9, 5, 9, 0]
        .iter()
        .enumerate()
        .map(|(nth, priority)| json!({"kind": "hand", "priority": priority, "payload": nth}))
        .collect();
    api.submit(&json!({"tasks": tasks})).await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let mut order = Vec::new();
    for _ in 0..5 {
        let lease = worker.take(&[]).await;
        order.push(lease.payload.as_u64().expect("a number"));
        worker.report(lease.succeeded(json!(null))).await;
    }
    assert_eq!(order, [1, 3, 2, 0, 4]);
}

#[tokio::test]
async fn a_task_is_leased_only_to_a_worker_that_matches_its_requirements() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let body = |name: &str, queues: &[&str], kinds: &[&str], zone: &str| json!({"name": name, "slots": 4, "queues": queues, "kinds": kinds, "labels": {"zone": zone}, "resources": {"mem_mb": 100}});
    let plain =
        FakeWorker::register_as(&cluster, &body("plain", &["default"], &["hand"], "eu")).await;
    let other =
        FakeWorker::register_as(&cluster, &body("other", &["q"], &["hand", "special"], "us")).await;
    let tasks = json!({"tasks": [
        {"kind": "hand", "payload": "plain"},
        {"kind": "special", "queue": "q", "payload": "special"},
        {"kind": "hand", "queue": "q", "requires": {"labels": {"zone": "us"}}, "payload": "us"},
        {"kind": "hand", "queue": "q", "requires": {"labels": {"zone": "eu"}}, "payload": "nobody"},
        {"kind": "hand", "requires": {"resources": {"mem_mb": 101}}, "payload": "too much"},
        {"kind": "special", "payload": "wrong queue"},
    ]});
    let job = api.submit(&tasks).await;
    let given = |leases: Vec<triarch_harness::Lease>| {
        let mut names: Vec<String> = leases
            .iter()
            .map(|lease| lease.payload.as_str().expect("a name").to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(given(plain.poll(4, 500, &[]).await), ["plain"]);
    assert_eq!(given(other.poll(4, 500, &[]).await), ["special", "us"]);
    let shown = api
        .get(&format!("/v1/jobs/{}", job["id"].as_str().expect("an id")))
        .await
        .expect(200);
    assert_eq!(
        (&shown["counts"]["running"], &shown["counts"]["queued"]),
        (&json!(3), &json!(3)),
        "{shown}"
    );
}

/// Parses a time of the interface, for comparisons.
fn unix_ms(time: &serde_json::Value) -> i64 {
    let text = time
        .as_str()
        .unwrap_or_else(|| panic!("not a time: {time}"));
    chrono::DateTime::parse_from_rfc3339(text)
        .expect("RFC 3339")
        .timestamp_millis()
}

#[tokio::test]
async fn an_acknowledged_cancellation_survives_the_death_of_its_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let worker = FakeWorker::register(&cluster, "w", 2).await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    // The leader is killed before the worker calls again, so only the log has the cancellation.
    api.post(&format!("/v1/tasks/{task}/cancel"), &json!({}))
        .await
        .expect(200);
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    let orders = worker.heartbeat(std::slice::from_ref(&lease)).await;
    assert_eq!(orders["cancel"], json!([task]), "{orders}");
    // The worker's success comes after the cancellation in the log, and is too late.
    let late = worker.report(lease.succeeded(json!(1))).await;
    assert_eq!(late["code"], "already_finished", "{late}");
    let task = cluster
        .api(next)
        .get(&format!("/v1/tasks/{task}"))
        .await
        .expect(200);
    assert_eq!(
        (&task["state"], &task["result"]),
        (&json!("cancelled"), &json!(null)),
        "{task}"
    );
}
