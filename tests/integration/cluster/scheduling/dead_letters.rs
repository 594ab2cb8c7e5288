//! Dead letters: shown, retried or deleted, each exactly once, although the leader dies during the operation.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, Lease, Options, fake_worker};

use crate::job_helpers::{counted_attempts, counted_outcomes, wait_job};

async fn cluster() -> Cluster {
    Cluster::with(Options {
        lease_ms: 60_000,
        ..Options::default()
    })
    .await
}

async fn worker(cluster: &Cluster, slots: usize) -> FakeWorker {
    let body =
        json!({"name": "w", "slots": slots, "kinds": [fake_worker::KIND], "queues": ["mail"]});
    FakeWorker::register_as(cluster, &body).await
}

fn mails(count: usize) -> Value {
    let task = |nth| json!({"kind": fake_worker::KIND, "queue": "mail", "payload": nth});
    json!({"tasks": (0..count).map(task).collect::<Vec<_>>()})
}

/// Submits these tasks and makes all of them fail permanently.
async fn dead(api: &Api, worker: &FakeWorker, job: &Value) -> Value {
    let submitted = api.submit(job).await;
    let count = submitted["tasks"].as_array().expect("ids").len();
    let leases = worker.take_many(count).await;
    let failed: Vec<Value> = leases.iter().map(|lease| lease.failed(false)).collect();
    worker.report_all(&failed).await;
    submitted
}

#[tokio::test]
async fn retrying_the_dead_letters_of_a_queue_retries_each_once_over_a_leader_death() {
    // More tasks than one command of the log processes.
    const COUNT: usize = 2_300;
    let mut cluster = cluster().await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = worker(&cluster, COUNT).await;
    let submitted = dead(&api, &worker, &mails(COUNT)).await;
    let rows = api.all("/v1/tasks?queue=mail&state=failed", "tasks").await;
    assert_eq!(rows.len(), COUNT);

    let selection = json!({"queue": "mail"});
    let retry = cluster.api(leader).call(Method::POST, "/v1/tasks/retry");
    let retry = retry.json(&selection);
    cluster
        .kill9_amid(leader, Duration::from_millis(20), vec![retry])
        .await;
    cluster.leader_other_than(leader).await;
    let rest = api.post("/v1/tasks/retry", &selection).await.expect(200);
    assert!(rest["count"].as_u64() <= Some(COUNT as u64), "{rest}");
    let none = api.post("/v1/tasks/retry", &selection).await.expect(200);
    assert_eq!(none["count"], 0);
    let rows = api.all("/v1/tasks?queue=mail", "tasks").await;
    assert_eq!(rows.len(), COUNT);
    for row in &rows {
        assert_eq!(
            (&row["state"], &row["failures"]),
            (&json!("queued"), &json!(0)),
            "{row}"
        );
    }

    let leases = worker.take_many(COUNT).await;
    assert!(leases.iter().all(|lease| lease.attempt > 1));
    let done: Vec<Value> = leases
        .iter()
        .map(|lease| lease.succeeded(json!(1)))
        .collect();
    worker.report_all(&done).await;
    let job = wait_job(&api, submitted["id"].as_str().expect("an id")).await;
    assert_eq!(
        (&job["state"], &job["counts"]["succeeded"]),
        (&json!("succeeded"), &json!(COUNT))
    );
}

#[tokio::test]
async fn a_repeated_bulk_retry_request_retries_once() {
    let mut cluster = cluster().await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = worker(&cluster, 2).await;
    let submitted = dead(&api, &worker, &mails(2)).await;
    let task = submitted["tasks"][1].as_str().expect("an id");
    let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
    let attempt = counted_attempts(&shown)[0];
    assert_eq!(
        (
            &attempt["outcome"],
            &attempt["worker"],
            &attempt["error"]["message"]
        ),
        (
            &json!("failed"),
            &json!(worker.id),
            &json!("failed by the test")
        ),
        "{shown}"
    );
    assert!(attempt["token"].is_u64() && attempt["ended_at"].is_string());

    let path = format!("/v1/tasks/{task}/retry");
    let retry = |api: &Api| {
        let call = api.call(Method::POST, &path);
        call.header("triarch-request-id", "once")
    };
    cluster
        .kill9_amid(
            leader,
            Duration::from_millis(3),
            vec![retry(&cluster.api(leader))],
        )
        .await;
    cluster.leader_other_than(leader).await;
    let again = retry(&api).answer().await.expect(200);
    assert_eq!(again["state"], "queued");
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, task);
    worker.report_all(&[lease.failed(false)]).await;
    // The task failed again. The old request does not retry it again, and a new request does.
    let late = retry(&api).answer().await.expect(200);
    assert_eq!(
        (&late["state"], &late["attempt"]),
        (&json!("failed"), &json!(lease.attempt))
    );
    api.post(&path, &json!({})).await.expect(200);
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, task);
    worker
        .report_all(&[lease.succeeded(json!("at last"))])
        .await;
    let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
    assert_eq!(counted_outcomes(&shown), ["failed", "failed", "succeeded"]);
    // The other task is still failed.
    let left = api.all("/v1/tasks?queue=mail&state=failed", "tasks").await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["id"], submitted["tasks"][0]);
}

#[tokio::test]
async fn purging_dead_letters_removes_them_with_their_finished_jobs() {
    let mut cluster = cluster().await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = worker(&cluster, 8).await;
    let gone = dead(&api, &worker, &mails(3)).await;
    // An unfinished job: another of its tasks runs.
    let unfinished = api.submit(&mails(2)).await;
    let leases = worker.take_many(2).await;
    worker.report_all(&[leases[0].failed(false)]).await;
    // A job that succeeded, and a job in another queue.
    let well = api.submit(&mails(1)).await;
    let running: Vec<Lease> = vec![leases[1].clone()];
    let lease = worker.take(&running).await;
    worker.report_all(&[lease.succeeded(json!(1))]).await;
    let queue = api.get("/v1/queues/mail").await.expect(200);
    assert_eq!(queue["failed"], 4);

    let path = "/v1/queues/mail/purge";
    let letters = json!({"dead_letters": true});
    let purge = api.call(Method::POST, path).json(&letters);
    let replies = cluster
        .kill9_amid(leader, Duration::from_millis(3), vec![purge])
        .await;
    replies[0]
        .as_ref()
        .expect("the follower answers")
        .expect(200);
    let again = api.post(path, &letters).await.expect(200);
    assert_eq!(again, json!({"cancelled": 0, "forgotten_jobs": 0}));
    let job = |submitted: &Value| format!("/v1/jobs/{}", submitted["id"].as_str().expect("an id"));
    api.get(&job(&gone)).await.refused(404, "not_found");
    for task in gone["tasks"].as_array().expect("ids") {
        let path = format!("/v1/tasks/{}", task.as_str().expect("an id"));
        api.get(&path).await.refused(404, "not_found");
    }
    assert_eq!(
        api.get(&job(&unfinished)).await.expect(200)["state"],
        "running"
    );
    assert_eq!(api.get(&job(&well)).await.expect(200)["state"], "succeeded");

    // A finished job can be deleted too, and a succeeded one if the request selects it.
    worker.report_all(&[leases[1].succeeded(json!(1))]).await;
    wait_job(&api, unfinished["id"].as_str().expect("an id")).await;
    let forget = api
        .post("/v1/tasks/forget", &json!({"queue": "mail"}))
        .await;
    assert_eq!(forget.expect(200)["count"], 1);
    api.get(&job(&unfinished)).await.refused(404, "not_found");
    let succeeded = json!({"queue": "mail", "state": "succeeded"});
    let forget = api.post("/v1/tasks/forget", &succeeded).await;
    assert_eq!(forget.expect(200)["count"], 1);
    assert!(api.all("/v1/tasks?queue=mail", "tasks").await.is_empty());
}

#[tokio::test]
async fn a_bulk_action_without_a_valid_filter_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    for verb in ["cancel", "retry", "forget"] {
        let path = format!("/v1/tasks/{verb}");
        let nothing = api.post(&path, &json!({})).await;
        nothing.refused(400, "invalid_request");
        let unknown = api.post(&path, &json!({"queues": "mail"})).await;
        assert_eq!(unknown.refused(400, "invalid_request")["field"], "queues");
    }
    for verb in ["retry", "forget"] {
        let running = json!({"queue": "mail", "state": "running"});
        let refused = api.post(&format!("/v1/tasks/{verb}"), &running).await;
        assert_eq!(refused.refused(400, "invalid_request")["field"], "state");
    }
}
