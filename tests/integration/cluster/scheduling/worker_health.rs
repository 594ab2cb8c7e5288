//! Workers that fail tasks which others complete, workers in quarantine, and the resources of a worker.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use triarch_harness::fake_workers::{most_at_once, spans};
use triarch_harness::{Api, Cluster, FakeWorker, Options, fake_worker};

use crate::job_helpers::{shown, submit_task, succeeded_once, wait_job, wait_succeeded};

async fn cluster() -> Cluster {
    Cluster::with(Options {
        lease_ms: 60_000,
        ..Options::default()
    })
    .await
}

async fn state(api: &Api, worker: &FakeWorker) -> Value {
    let path = format!("/v1/workers/{}", worker.id);
    api.get(&path).await.expect(200)
}

#[tokio::test]
async fn a_worker_that_fails_what_others_complete_is_quarantined_by_every_leader() {
    let mut cluster = cluster().await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let (bad, good) = (
        FakeWorker::register(&cluster, "bad", 5).await,
        FakeWorker::register(&cluster, "good", 10).await,
    );
    let tasks = |count: usize| json!({"tasks": vec![json!({"kind": fake_worker::KIND}); count]});
    api.submit(&tasks(5)).await;
    let failing = bad.take_many(5).await;
    let failed: Vec<Value> = failing.iter().map(|lease| lease.failed(false)).collect();
    bad.report_all(&failed[..4]).await;
    // Four failures have no effect yet, and neither have five failures of tasks that no other worker has completed.
    assert_eq!(state(&api, &bad).await["failing"], 4);
    api.submit(&tasks(10)).await;
    let leases = good.take_many(10).await;
    let done: Vec<Value> = leases
        .iter()
        .map(|lease| lease.succeeded(json!(1)))
        .collect();
    good.report_all(&done).await;
    assert_eq!(state(&api, &bad).await["state"], "live");

    let path = format!("/v1/workers/{}/report", bad.id);
    let report = cluster.api(leader).call(Method::POST, &path);
    let report = report.json(&json!({"results": [failed[4]]}));
    cluster
        .kill9_amid(leader, Duration::from_millis(3), vec![report])
        .await;
    cluster.leader_other_than(leader).await;
    bad.report_all(&failed[4..]).await;
    let shown = state(&api, &bad).await;
    assert_eq!(shown["state"], "quarantined", "{shown}");
    assert!(shown["quarantined_until"].is_string(), "{shown}");
    assert_eq!(state(&api, &good).await["state"], "live");
    let listed = api.all("/v1/workers?state=quarantined", "workers").await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["id"], bad.id);

    // The quarantined worker polls first and gets nothing. The other one gets the task.
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    bad.take_nothing(&[]).await;
    let lease = good.take(&[]).await;
    assert_eq!(lease.task, task);
    good.report_all(&[lease.succeeded(json!(1))]).await;
    // The worker has been repaired.
    let path = format!("/v1/workers/{}/resume", bad.id);
    let resumed = api.post(&path, &json!({})).await.expect(200);
    assert_eq!(
        (&resumed["state"], &resumed["failing"]),
        (&json!("live"), &json!(0))
    );
    let task = submit_task(&api, &fake_worker::job(json!(2))).await;
    assert_eq!(bad.take(&[]).await.task, task);
}

#[tokio::test]
async fn tasks_that_fail_on_every_worker_quarantine_none() {
    let mut cluster = cluster().await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let (one, other) = (
        FakeWorker::register(&cluster, "one", 10).await,
        FakeWorker::register(&cluster, "other", 10).await,
    );
    let poison =
        json!({"kind": fake_worker::KIND, "max_attempts": 3, "backoff": {"initial_ms": 0}});
    api.submit(&json!({"tasks": vec![poison; 6]})).await;
    for worker in [&one, &other] {
        let leases = worker.take_many(6).await;
        let failed: Vec<Value> = leases.iter().map(|lease| lease.failed(true)).collect();
        worker.report_all(&failed).await;
    }
    assert_eq!(state(&api, &one).await["failing"], 0);
    assert_eq!(state(&api, &other).await["failing"], 0);
}

#[tokio::test]
async fn a_paused_worker_keeps_its_tasks_and_gets_no_new_one_from_any_leader() {
    let mut cluster = cluster().await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 4).await;
    let first = submit_task(&api, &fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    let pause = api.call(Method::POST, &format!("/v1/workers/{}/pause", worker.id));
    let replies = cluster
        .kill9_amid(leader, Duration::from_millis(3), vec![pause])
        .await;
    let paused = replies[0].as_ref().expect("the follower answers");
    assert_eq!(paused.expect(200)["state"], "paused");
    let second = submit_task(&api, &fake_worker::job(json!(2))).await;
    worker.take_nothing(std::slice::from_ref(&lease)).await;
    let shown = state(&api, &worker).await;
    assert_eq!(
        (&shown["state"], &shown["running"]),
        (&json!("paused"), &json!(1))
    );
    worker.report_all(&[lease.succeeded(json!("kept"))]).await;
    let task = api.get(&format!("/v1/tasks/{first}")).await.expect(200);
    assert_eq!(task["result"], "kept");
    worker.take_nothing(&[]).await;
    let resume = format!("/v1/workers/{}/resume", worker.id);
    api.post(&resume, &json!({})).await.expect(200);
    assert_eq!(worker.take(&[]).await.task, second);
}

#[tokio::test]
async fn no_worker_is_leased_more_than_its_capacity_however_it_polls() {
    const TASKS: usize = 120;
    let mut cluster = cluster().await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let mut workers = Vec::new();
    for nth in 0..2 {
        let body = json!({
            "name": format!("w{nth}"), "slots": 50, "kinds": [fake_worker::KIND], "resources": {"gpu": 2, "mem_mb": 100},
        });
        workers.push(FakeWorker::register_as(&cluster, &body).await);
    }
    // Three of these tasks use all the memory, and two of the others all the cards.
    let task = |nth: usize| match nth % 2 {
        0 => json!({"kind": fake_worker::KIND, "requires": {"resources": {"mem_mb": 30}}}),
        _ => json!({"kind": fake_worker::KIND, "requires": {"resources": {"gpu": 1, "mem_mb": 5}}}),
    };
    let tasks: Vec<Value> = (0..TASKS).map(task).collect();
    let submitted = api.submit(&json!({ "tasks": tasks })).await;
    // Many concurrent polls of the same worker, each without knowledge of the tasks of the others. Most of the tasks
    // are left for the next leader.
    let before_kill = Arc::new(Semaphore::new(20));
    let mut pollers = Vec::new();
    for nth in 0..12 {
        let worker = workers[nth % 2].clone();
        let may_end = Arc::clone(&before_kill);
        pollers.push(tokio::spawn(async move {
            let ask = json!({"max": 50, "wait_ms": 100});
            loop {
                let given = worker.worker_call("poll", &ask).await.expect(200);
                let results: Vec<Value> = given["tasks"]
                    .as_array()
                    .expect("tasks")
                    .iter()
                    .map(|task| json!({"task": task["id"], "token": task["token"], "status": "succeeded"}))
                    .collect();
                for result in results {
                    may_end.acquire().await.expect("never closed").forget();
                    worker.report_all(&[result]).await;
                }
            }
        }));
    }
    wait_succeeded(&api, &submitted, 20).await;
    before_kill.add_permits(TASKS * 100);
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    // Leases that the dead leader granted and did not deliver are delivered again, because each poll lists its
    // attempts.
    let sweep = async {
        loop {
            for worker in &workers {
                for lease in worker.poll(50, 20, &[]).await {
                    worker.report(lease.succeeded(json!(null))).await;
                }
            }
        }
    };
    let id = submitted["id"].as_str().expect("an id");
    let job = tokio::select! {
        job = wait_job(&api, id) => job,
        () = sweep => unreachable!("it goes on and on"),
    };
    for poller in pollers {
        poller.abort();
    }
    assert_eq!(job["state"], "succeeded");
    let tasks = shown(&api, &submitted).await;
    for worker in &workers {
        let here = |task: &Value| {
            let mut task = task.clone();
            let attempts = task["attempts"].as_array_mut().expect("attempts");
            attempts.retain(|attempt| attempt["worker"] == worker.id);
            task
        };
        let cards: Vec<Value> = tasks.iter().skip(1).step_by(2).map(here).collect();
        assert!(most_at_once(&spans(&cards)) <= 2);
        let memory: Vec<Value> = tasks.iter().step_by(2).map(here).collect();
        assert!(most_at_once(&spans(&memory)) <= 3);
    }
    assert!(tasks.iter().all(succeeded_once));
}
