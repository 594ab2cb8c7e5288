//! Concurrency keys: tasks with the same key share its limit, over all queues, workers and leaders.

use serde_json::{Value, json};
use triarch_harness::fake_workers::{most_at_once, spans};
use triarch_harness::{Cluster, FakeWorker, FakeWorkers, fake_worker};

use crate::job_helpers::{shown, succeeded_once, wait_job};
use crate::operations::metrics::wait_held;

#[tokio::test]
async fn running_tasks_of_a_concurrency_key_never_exceed_its_limit() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    // Two keys over two queues, with tasks of different requirements, and other tasks without a key.
    let task = |nth: usize| {
        let queue = if nth.is_multiple_of(2) { "even" } else { "odd" };
        let mut task =
            json!({"kind": fake_worker::KIND, "queue": queue, "payload": nth, "priority": nth % 5});
        match nth % 3 {
            0 => task["concurrency_key"] = "alone".into(),
            1 => {
                task["concurrency_key"] = "pair".into();
                task["concurrency_limit"] = 2.into();
            }
            _ => {}
        }
        task
    };
    let tasks: Vec<Value> = (0..120).map(task).collect();
    let fake_workers = FakeWorkers::start_limited(30, &cluster, 3, 4, &["even", "odd"]).await;
    let submitted = api.submit(&json!({ "tasks": tasks })).await;
    fake_workers.wait_spent().await;
    fake_workers.release();
    cluster.kill9(leader);
    let id = submitted["id"].as_str().expect("an id");
    assert_eq!(wait_job(&api, id).await["state"], "succeeded");
    fake_workers.finish().await;

    let tasks = shown(&api, &submitted).await;
    let of = |key: Value| {
        tasks
            .iter()
            .filter(move |task| task["concurrency_key"] == key)
    };
    assert_eq!(most_at_once(&spans(of("alone".into()))), 1);
    assert_eq!(most_at_once(&spans(of("pair".into()))), 2);
    assert!(most_at_once(&spans(of(Value::Null))) > 2);
    for task in &tasks {
        assert!(succeeded_once(task), "{task}");
    }
}

#[tokio::test]
async fn the_smallest_limit_submitted_for_a_concurrency_key_applies() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let keyed = |limit: u32| json!({"kind": fake_worker::KIND, "concurrency_key": "k", "concurrency_limit": limit});
    let worker = FakeWorker::register(&cluster, "w", 8).await;
    api.submit(&json!({"tasks": [keyed(3), keyed(3), keyed(3), keyed(3)]}))
        .await;
    let mut leases = worker.take_many(3).await;
    worker.take_nothing(&leases).await;
    // Three tasks run when one with a limit of 1 arrives. No other task of the key starts until it can start.
    let alone = api.submit(&json!({"tasks": [keyed(1)]})).await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    while let Some(lease) = leases.pop() {
        worker
            .take_nothing(&[leases.clone(), vec![lease.clone()]].concat())
            .await;
        worker.report_all(&[lease.succeeded(json!(1))]).await;
    }
    // The fourth task of the first group was submitted earlier.
    for _ in 0..2 {
        let lease = worker.take(&[]).await;
        worker.take_nothing(std::slice::from_ref(&lease)).await;
        worker.report_all(&[lease.succeeded(json!(1))]).await;
    }
    let id = alone["id"].as_str().expect("an id");
    assert_eq!(wait_job(&api, id).await["state"], "succeeded");
}

#[tokio::test]
async fn cancelling_a_key_holder_grants_the_next_task_to_a_waiting_poll() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    // No worker meets the requirements of the first task. The second one waits for it only because of their key.
    let mut first = json!({"kind": fake_worker::KIND, "concurrency_key": "k"});
    let second = first.clone();
    first["requires"] = json!({"labels": {"zone": "nowhere"}});
    let submitted = api.submit(&json!({"tasks": [first, second]})).await;
    let ids = submitted["tasks"].as_array().expect("ids").clone();
    worker.take_nothing(&[]).await;
    let polling = {
        let worker = worker.clone();
        tokio::spawn(async move { worker.poll(1, 20_000, &[]).await })
    };
    wait_held(&cluster, &[leader], "poll", 1).await;
    let cancel = format!("/v1/tasks/{}/cancel", ids[0].as_str().expect("an id"));
    api.post(&cancel, &json!({})).await.expect(200);
    let leases = polling.await.expect("a poll does not panic");
    let given: Vec<&str> = leases.iter().map(|lease| &*lease.task).collect();
    assert_eq!(given, [ids[1].as_str().expect("an id")]);
}
