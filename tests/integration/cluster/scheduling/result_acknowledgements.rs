//! Verdicts on results reach the worker that reported them, even if it leaves or is lost at the same time.

use reqwest::Method;
use serde_json::json;
use triarch_harness::fake_worker::Lease;
use triarch_harness::wait::Polling;
use triarch_harness::{Api, Cluster, FakeWorker, Options, eventually, fake_worker};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works, submit_task};
use crate::operations::metrics::scrape;

#[tokio::test]
async fn a_poll_gets_its_result_acknowledgements_though_its_worker_was_removed() {
    let mut cluster = Cluster::with(Options {
        // Followers that are paused for a short time must not start an election.
        more: vec!["--election-ms".into(), "1000..2000".into()],
        ..Options::default()
    })
    .await;
    let mut polling = Polling::new(
        WAIT_TIMEOUT,
        "a worker is gone when its results are accepted",
    );
    for nth in 0.. {
        if is_acknowledged_after_removal(&mut cluster, nth).await {
            break;
        }
        // Leadership has changed, or another command was proposed in between.
        polling.pause().await;
    }
    assert_works(&mut cluster).await;
}

/// Sends a worker's results and its leave so that they are in one entry: the worker is gone when its results get their
/// verdict. Returns false if they were not.
async fn is_acknowledged_after_removal(cluster: &mut Cluster, nth: u64) -> bool {
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(cluster, &format!("worker-{nth}"), 1).await;
    submit_task(&api, &fake_worker::job(json!(nth))).await;
    let lease = worker.take(&[]).await;

    let followers: Vec<u64> = cluster.ids().filter(|id| *id != leader).collect();
    for follower in &followers {
        cluster.stop(*follower);
    }
    // Two entries are in flight to paused followers. Proposals from here on wait, and go together into the next entry.
    let path = format!("/v1/workers/{}", worker.id);
    let other = json!({"tasks": [{"kind": "nobody's"}]});
    // A worker that is still known learns that it has lost a lease that it never had.
    let running = json!([{"task": "t1-0", "token": 1}]);
    let results = json!([lease.succeeded(json!("right"))]);
    let poll = json!({"max": 0, "wait_ms": 0, "running": running, "results": results});
    let calls = [
        api.call(Method::POST, "/v1/jobs").json(&other),
        api.call(Method::POST, "/v1/jobs").json(&other),
        api.call(Method::POST, &format!("{path}/poll")).json(&poll),
        api.call(Method::DELETE, &path),
    ];
    let mut asked = Vec::new();
    for (call, nth) in calls.into_iter().zip(1_u8..) {
        asked.push(tokio::spawn(call.send()));
        let what = format!("{nth} are proposed");
        let all_wait = eventually(WAIT_TIMEOUT, what, async || {
            let all_wait = open_proposals(cluster, leader).await >= f64::from(nth);
            (all_wait || asked.iter().any(|one| one.is_finished())).then_some(all_wait)
        })
        .await;
        if !all_wait {
            // The entries were committed before the followers paused, or the proposals were refused.
            break;
        }
    }
    for follower in &followers {
        cluster.cont(*follower);
    }
    let mut replies = Vec::new();
    for one in asked {
        replies.push(one.await.expect("a request does not panic"));
    }
    cluster.wait_ready().await;
    let shown = api
        .get(&format!("/v1/tasks/{}", lease.task))
        .await
        .expect(200);
    let [_, _, Ok(polled), Ok(_)] = &replies[..] else {
        return false;
    };
    if shown["state"] != "succeeded" || matches!(polled.status, 307 | 503 | 504) {
        return false;
    }
    let answer = polled.expect(200);
    assert_eq!(answer["results"][0]["accepted"], true, "{answer}");
    assert_eq!(answer["tasks"], json!([]), "{answer}");
    let is_gone = answer["lost"] == json!([]);
    if is_gone {
        // The worker learns of this with its next call.
        let beat = worker
            .worker_call("heartbeat", &json!({"running": []}))
            .await;
        beat.refused(404, "unknown_worker");
    }
    is_gone
}

async fn open_proposals(cluster: &Cluster, node: u64) -> f64 {
    scrape(cluster, node)
        .await
        .value("triarch_proposals_open", &[])
}

#[tokio::test]
async fn results_and_the_lease_for_the_freed_slot_are_one_log_entry() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(&cluster, "busy", 1).await;
    submit_task(&api, &fake_worker::job(json!(0))).await;
    let mut lease = worker.take(&[]).await;
    let mut polling = Polling::new(WAIT_TIMEOUT, "results and the next lease are one entry");
    for nth in 1.. {
        submit_task(&api, &fake_worker::job(json!(nth))).await;
        let before = commit_index(&api).await;
        let results = json!([lease.succeeded(json!(nth))]);
        let poll = json!({"max": 1, "wait_ms": 1000, "running": [], "results": results});
        let answer = worker.worker_call("poll", &poll).await.expect(200);
        let after = commit_index(&api).await;
        assert_eq!(answer["results"][0]["accepted"], true, "{answer}");
        lease = match answer["tasks"].get(0) {
            Some(task) => Lease::read(task),
            None => worker.take(&[]).await,
        };
        if after == before + 1 && answer["tasks"] != json!([]) {
            break;
        }
        // Another command was proposed in between.
        polling.pause().await;
    }
    assert_eq!(
        worker.report(lease.succeeded(json!("last"))).await["accepted"],
        true
    );
}

#[tokio::test]
async fn a_result_and_the_lease_of_its_dependent_task_are_one_log_entry() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    let first = FakeWorker::register(&cluster, "first", 1).await;
    let second = FakeWorker::register(&cluster, "second", 1).await;
    let mut polling = Polling::new(
        WAIT_TIMEOUT,
        "a result and the lease that hung on it are one entry",
    );
    for nth in 0.. {
        let task = |key: &str, after: &[&str]| json!({"kind": fake_worker::KIND, "key": key, "after": after, "payload": nth});
        let job = json!({"tasks": [task("a", &[]), task("b", &["a"])]});
        submit_task(&api, &job).await;
        let a = first.take(&[]).await;
        let waits = {
            let second = second.clone();
            tokio::spawn(async move { second.take(&[]).await })
        };
        eventually(WAIT_TIMEOUT, "the second worker waits", async || {
            let metrics = scrape(&cluster, leader).await;
            (metrics.value("triarch_http_held", &[("kind", "poll")]) >= 1.0).then_some(())
        })
        .await;
        let before = commit_index(&api).await;
        let acknowledgement = first.report(a.succeeded(json!("done"))).await;
        let b = waits.await.expect("a worker does not panic");
        let after = commit_index(&api).await;
        assert_eq!(acknowledgement["accepted"], true, "{acknowledgement}");
        assert_eq!(b.inputs, json!({"a": "done"}));
        assert_eq!(
            second.report(b.succeeded(json!("too"))).await["accepted"],
            true
        );
        if after == before + 1 {
            break;
        }
        polling.pause().await;
    }
}

async fn commit_index(api: &Api) -> u64 {
    let cluster = api.get("/v1/cluster").await.expect(200);
    cluster["commit_index"].as_u64().expect("a commit index")
}
