//! A leader that is paused, loses its leadership, and resumes in the belief that it still leads.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use triarch_harness::{Cluster, FakeWorker, Options, Reply, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works, counted_outcomes, submit_task};

/// Duration of the pause, like a long garbage collection or a move of a virtual machine.
const PAUSE_DURATION: Duration = Duration::from_secs(5);
/// Number of requests that wait in the paused leader's sockets until it resumes.
const OPEN_REQUESTS: usize = 40;

#[tokio::test]
async fn a_paused_leader_answers_nothing_from_its_lost_leadership() {
    let mut cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "w", 4).await;
    let sleeper = cluster.wait_ready().await;
    let old = cluster.api(sleeper);
    let (first, second) = (
        submit_task(&old, &fake_worker::job(json!(1))).await,
        submit_task(&old, &fake_worker::job(json!(2))).await,
    );
    let one = worker.take(&[]).await;
    let two = worker.take(std::slice::from_ref(&one)).await;
    assert_eq!((&one.task, &two.task), (&first, &second));

    cluster.stop(sleeper);
    let next = cluster.leader_other_than(sleeper).await;
    let new = cluster.api(next);
    // Under the new leader one task finishes, one is cancelled, and one job is submitted.
    let report = format!("/v1/workers/{}/report", worker.id);
    let right = json!({"results": [one.succeeded(json!("right"))]});
    let reported = new.post(&report, &right).await.expect(200);
    assert_eq!(reported["results"][0]["accepted"], true);
    new.post(&format!("/v1/tasks/{second}/cancel"), &json!({}))
        .await
        .expect(200);
    let newest = new.submit(&fake_worker::job(json!(3))).await;
    let newest = newest["id"].as_str().expect("an id").to_owned();

    // These requests wait for the paused leader, and are answered in the first moments after it resumes.
    let wrong = [
        one.succeeded(json!("wrong")),
        one.failed(false),
        two.succeeded(json!("wrong")),
    ];
    let mut asked = tokio::task::JoinSet::new();
    for nth in 0..OPEN_REQUESTS {
        let reads = [
            (Question::Finished, format!("/v1/tasks/{first}")),
            (Question::Cancelled, format!("/v1/tasks/{second}")),
            (Question::Newest, format!("/v1/jobs/{newest}")),
        ];
        for (question, path) in reads {
            let mut call = old.call(Method::GET, &path);
            // With and without forwarding by the follower.
            if nth % 2 == 0 {
                call = call.header("triarch-forward", "never");
            }
            asked.spawn(async move { (question, call.send().await) });
        }
        let call = old
            .call(Method::POST, &report)
            .json(&json!({"results": [wrong[nth % wrong.len()]]}));
        asked.spawn(async move { (Question::Report, call.send().await) });
    }
    // Measured from here, because all requests have been sent by now, however long the election took.
    tokio::time::sleep(PAUSE_DURATION).await;
    cluster.cont(sleeper);

    let mut answered = 0;
    while let Some(done) = asked.join_next().await {
        let (question, reply) = done.expect("a request does not panic");
        // A connection may break when a leader steps down. An answer must be right.
        if let Ok(reply) = reply {
            question.judge(&reply);
            answered += 1;
        }
    }
    assert!(
        answered > OPEN_REQUESTS,
        "only {answered} were answered at all"
    );
    cluster.wait_ready().await;
    for api in cluster.apis() {
        let shown = api.get(&format!("/v1/tasks/{first}")).await.expect(200);
        assert_eq!(
            (&shown["result"], counted_outcomes(&shown)),
            (&json!("right"), vec!["succeeded".to_owned()])
        );
        assert_eq!(
            api.get(&format!("/v1/tasks/{second}")).await.expect(200)["state"],
            "cancelled"
        );
    }
    new.post(&format!("/v1/jobs/{newest}/cancel"), &json!({}))
        .await
        .expect(200);
    worker.leave().await;
    assert_works(&mut cluster).await;
}

/// A request to the paused leader.
#[derive(Debug, Clone, Copy)]
enum Question {
    Finished,
    Cancelled,
    Newest,
    Report,
}

impl Question {
    fn judge(self, reply: &Reply) {
        if matches!(reply.status, 307 | 503) {
            return;
        }
        let context = || format!("{self:?}: {reply:?}");
        assert_eq!(reply.status, 200, "{}", context());
        let body = reply.json();
        match self {
            Question::Finished => assert_eq!(
                (&body["state"], &body["result"]),
                (&json!("succeeded"), &json!("right")),
                "{}",
                context()
            ),
            Question::Cancelled => assert_eq!(body["state"], "cancelled", "{}", context()),
            Question::Newest => assert_eq!(body["state"], "running", "{}", context()),
            Question::Report => assert_eq!(body["results"][0]["accepted"], false, "{}", context()),
        }
    }
}

#[tokio::test]
async fn a_paused_leader_expires_no_worker_when_it_resumes() {
    let mut cluster = Cluster::with(Options {
        // Shorter than the pause, and long enough for heartbeats of a busy machine.
        lease_ms: 4_000,
        ..Options::default()
    })
    .await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let sleeper = cluster.wait_ready().await;
    let task = submit_task(&cluster.api(sleeper), &fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    cluster.stop(sleeper);
    let next = cluster.leader_other_than(sleeper).await;
    // The worker sends heartbeats to the new leader, for longer than a lease.
    let awake = worker.with_masters(
        cluster
            .running()
            .into_iter()
            .map(|id| cluster.api(id))
            .collect(),
    );
    let _alive = awake.keep_alive(std::slice::from_ref(&lease));
    tokio::time::sleep(PAUSE_DURATION).await;
    cluster.cont(sleeper);
    cluster.wait_ready().await;
    let shown = cluster
        .api(next)
        .get(&format!("/v1/tasks/{task}"))
        .await
        .expect(200);
    assert_eq!(counted_outcomes(&shown), ["running"], "{shown}");
    assert_eq!(
        worker.report(lease.succeeded(json!(1))).await["accepted"],
        true
    );
}

/// No other master leads, so the leader resumes its leadership. All workers have been silent for longer than a lease.
#[tokio::test]
async fn a_paused_single_master_expires_no_worker_when_it_resumes() {
    let mut cluster = Cluster::with(Options {
        nodes: 1,
        lease_ms: 4_000,
        ..Options::default()
    })
    .await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let api = cluster.api(1);
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    cluster.stop(1);
    tokio::time::sleep(PAUSE_DURATION).await;
    cluster.cont(1);
    // The search for silent workers runs concurrently with the timers.
    let later = json!({"tasks": [{"kind": "hand", "delay_ms": 600}]});
    let later = submit_task(&api, &later).await;
    until(WAIT_TIMEOUT, "what was delayed is due", async || {
        let shown = api.get(&format!("/v1/tasks/{later}")).await.expect(200);
        shown["state"] == "queued"
    })
    .await;
    let orders = worker.heartbeat(std::slice::from_ref(&lease)).await;
    assert_eq!(orders["lost"], json!([]), "{orders}");
    let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
    assert_eq!(counted_outcomes(&shown), ["running"], "{shown}");
    assert_eq!(
        worker.report(lease.succeeded(json!(1))).await["accepted"],
        true
    );
}
