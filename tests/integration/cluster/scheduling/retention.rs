//! Retention of finished jobs follows the settings of the queue, under any leader.

use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, fake_worker, until};

use crate::job_helpers::WAIT_TIMEOUT;

/// Returns the jobs of this queue that are still kept, oldest first.
async fn kept(api: &Api, queue: &str) -> Vec<String> {
    let rows = api.all(&format!("/v1/tasks?queue={queue}"), "tasks").await;
    let job = |row: &Value| row["job"].as_str().expect("an id").to_owned();
    rows.iter().map(job).collect()
}

async fn finish_jobs(api: &Api, worker: &FakeWorker, queue: &str, count: usize) -> Vec<String> {
    let mut jobs = Vec::new();
    for nth in 0..count {
        let job = json!({
            "idempotency_key": format!("{queue}-{nth}"),
            "tasks": [{"kind": fake_worker::KIND, "queue": queue}],
        });
        let submitted = api.post("/v1/jobs", &job).await.expect(201);
        let lease = worker.take(&[]).await;
        worker.report_all(&[lease.succeeded(json!(nth))]).await;
        jobs.push(submitted["id"].as_str().expect("an id").to_owned());
    }
    jobs
}

#[tokio::test]
async fn the_next_leader_removes_jobs_over_the_retention_limit_and_keeps_the_rest() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let body =
        json!({"name": "w", "slots": 1, "kinds": [fake_worker::KIND], "queues": ["few", "all"]});
    let worker = FakeWorker::register_as(&cluster, &body).await;
    let all = finish_jobs(&api, &worker, "all", 3).await;
    let few = finish_jobs(&api, &worker, "few", 6).await;
    assert_eq!(kept(&api, "few").await, few);
    // The bound is set, and the leader is killed.
    let call = api.call(reqwest::Method::PUT, "/v1/queues/few");
    let set = call.json(&json!({"retain_jobs": 2}));
    let replies = cluster
        .kill9_amid(leader, std::time::Duration::from_millis(3), vec![set])
        .await;
    replies[0]
        .as_ref()
        .expect("the follower answers")
        .expect(200);
    until(WAIT_TIMEOUT, "the two latest are left", async || {
        kept(&api, "few").await == few[4..]
    })
    .await;
    assert_eq!(kept(&api, "all").await, all);
    let gone = api.get(&format!("/v1/jobs/{}", few[0])).await;
    gone.refused(404, "not_found");
    // The idempotency key is remembered longer than the job.
    let job =
        json!({"idempotency_key": "few-0", "tasks": [{"kind": fake_worker::KIND, "queue": "few"}]});
    let again = api.post("/v1/jobs", &job).await.expect(200);
    assert_eq!(
        (&again["id"], &again["duplicate"]),
        (&json!(few[0]), &json!(true))
    );
    let more = finish_one_more(&api, &worker).await;
    until(WAIT_TIMEOUT, "one goes for each that comes", async || {
        kept(&api, "few").await == [few[5].clone(), more.clone()]
    })
    .await;
}

async fn finish_one_more(api: &Api, worker: &FakeWorker) -> String {
    let job = json!({"tasks": [{"kind": fake_worker::KIND, "queue": "few"}]});
    let submitted = api.submit(&job).await;
    let lease = worker.take(&[]).await;
    worker.report_all(&[lease.succeeded(json!("more"))]).await;
    submitted["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn jobs_past_their_retention_without_a_leader_are_removed_by_the_next() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let body =
        json!({"name": "w", "slots": 1, "kinds": [fake_worker::KIND], "queues": ["brief", "all"]});
    let worker = FakeWorker::register_as(&cluster, &body).await;
    let all = finish_jobs(&api, &worker, "all", 1).await;
    let settings = json!({"retain_ms": 300});
    api.put("/v1/queues/brief", &settings).await.expect(200);
    let brief = finish_jobs(&api, &worker, "brief", 1).await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    until(WAIT_TIMEOUT, "it is forgotten", async || {
        let reply = api.get(&format!("/v1/jobs/{}", brief[0])).await;
        reply.status == 404
    })
    .await;
    assert_eq!(kept(&api, "all").await, all);
}
