//! Jobs that come after other jobs.

use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, Options, fake_worker};

use crate::job_helpers::{shown, wait_job};

fn job(payload: &str, after: &Value) -> Value {
    let task = json!({"kind": fake_worker::KIND, "payload": payload, "max_attempts": 1});
    json!({"name": payload, "tasks": [task], "after_jobs": after})
}

async fn submit(api: &Api, payload: &str, after: &Value) -> Value {
    api.submit(&job(payload, after)).await
}

fn id(submitted: &Value) -> String {
    submitted["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_job_starts_once_when_those_before_it_have_ended_over_a_leader_death() {
    let mut cluster = Cluster::with(Options {
        lease_ms: 60_000,
        ..Options::default()
    })
    .await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 4).await;
    let first = id(&submit(&api, "a", &json!([])).await);
    let second = id(&submit(&api, "b", &json!([])).await);
    let before = json!([{"job": first}, {"job": second, "when": "failed"}]);
    let third = submit(&api, "c", &before).await;
    let denied = submit(&api, "d", &json!([{"job": second}])).await;
    let last = submit(&api, "e", &json!([{"job": id(&third), "when": "ended"}])).await;
    let task = third["tasks"][0].as_str().expect("an id").to_owned();
    let why = api
        .get(&format!("/v1/tasks/{task}/explain"))
        .await
        .expect(200);
    assert_eq!(why["reasons"][0]["code"], "jobs", "{why}");
    assert_eq!(why["reasons"][0]["jobs"], json!([first, second]), "{why}");
    let mut leases = worker.take_many(2).await;
    leases.sort_by_key(|lease| lease.payload.to_string());
    worker.report_all(&[leases[0].succeeded(json!(1))]).await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    worker.take_nothing(&leases[1..]).await;
    worker.report_all(&[leases[1].failed(false)]).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.payload, "c");
    let met = api
        .get(&format!("/v1/jobs/{}", id(&third)))
        .await
        .expect(200);
    assert_eq!(
        met["after_jobs"],
        json!([
            {"job": first, "when": "succeeded", "met": true},
            {"job": second, "when": "failed", "met": true}
        ])
    );
    worker.report_all(&[lease.succeeded(json!(1))]).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.payload, "e");
    worker.report_all(&[lease.succeeded(json!(1))]).await;
    assert_eq!(wait_job(&api, &id(&last)).await["state"], "succeeded");
    let denied = shown(&api, &denied).await.remove(0);
    assert_eq!(
        (
            &denied["state"],
            &denied["error"]["type"],
            &denied["error"]["job"]
        ),
        (
            &json!("cancelled"),
            &json!("job_dependency_failed"),
            &json!(second)
        ),
        "{denied}"
    );
}

#[tokio::test]
async fn jobs_after_unknown_jobs_are_refused_whole() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let first = id(&submit(&api, "a", &json!([])).await);
    let refused = async |body: Value, status: u16, code: &str| {
        api.post("/v1/jobs", &body).await.refused(status, code)
    };
    refused(job("b", &json!([{"job": "j1-99"}])), 404, "not_found").await;
    let twice = json!([{"job": first}, {"job": first, "when": "ended"}]);
    for (field, after) in [
        ("after_jobs[0].job", json!([{"job": "nobody"}])),
        ("after_jobs[1].job", twice),
        (
            "after_jobs[0].when",
            json!([{"job": first, "when": "soon"}]),
        ),
        ("after_jobs[0].if", json!([{"job": first, "if": "ended"}])),
        ("after_jobs", Value::from(vec![json!({"job": first}); 65])),
    ] {
        let problem = refused(job("b", &after), 400, "invalid_request").await;
        assert_eq!(problem["field"], field, "{problem}");
    }
    let mut part = job("b", &json!([{"job": first}]));
    part["idempotency_key"] = "k".into();
    part["part"] = 1.into();
    part["parts"] = 2.into();
    let problem = refused(part, 400, "invalid_request").await;
    assert_eq!(problem["field"], "after_jobs");
    let schedule = json!({"cron": "0 0 1 1 *", "job": job("b", &json!([{"job": first}]))});
    let problem = api.put("/v1/schedules/s", &schedule).await;
    let problem = problem.refused(400, "invalid_request");
    assert_eq!(problem["field"], "job.after_jobs");
    assert_eq!(api.all("/v1/jobs", "jobs").await.len(), 1);
}
