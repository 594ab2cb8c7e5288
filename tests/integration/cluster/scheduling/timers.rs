//! Timers that become due while no master leads: they take effect under the next leader, not earlier and not twice.

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use triarch_harness::fake_workers::time;
use triarch_harness::{Cluster, FakeWorker, Options, eventually, fake_worker, until};

use crate::job_helpers::{
    WAIT_TIMEOUT, counted_attempts, counted_outcomes, outcomes, shown, succeeded_once, wait_state,
};

/// Initial time from the submission until everything is due. It is increased if the masters of a slow machine are not
/// killed by then.
const DUE_MS: i64 = 2_000;
const DUE_MS_MAX: i64 = 32_000;

fn task(fields: &Value) -> Value {
    let mut task = json!({"kind": fake_worker::KIND});
    for (name, value) in fields.as_object().expect("fields") {
        task[name] = value.clone();
    }
    task
}

#[tokio::test]
async fn timers_due_without_a_leader_fire_once_under_the_next() {
    let mut due_ms = DUE_MS;
    while !falls_due_while_nobody_leads(due_ms).await {
        due_ms *= 2;
        assert!(due_ms <= DUE_MS_MAX, "the masters die too late");
    }
}

/// Returns false if a timer was due before the masters were dead.
async fn falls_due_while_nobody_leads(due_ms: i64) -> bool {
    let mut cluster = Cluster::with(Options {
        lease_ms: 60_000,
        ..Options::default()
    })
    .await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let other = cluster.ids().find(|id| ![leader, follower].contains(id));
    let other = other.expect("three masters");
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 100).await;

    let begun = Utc::now();
    let backoff = json!({"initial_ms": due_ms, "jitter": 0});
    let failing = task(&json!({"payload": "back-off", "backoff": backoff, "max_attempts": 2}));
    let tried = api.submit(&json!({"tasks": [failing]})).await;
    let lease = worker.take(&[]).await;
    let due = Utc::now() + TimeDelta::milliseconds(due_ms);
    let submitted = api
        .submit(&json!({"tasks": [
            task(&json!({"payload": "delay", "delay_ms": due_ms})),
            task(&json!({"payload": "run_at", "run_at": due.to_rfc3339()})),
            task(&json!({"payload": "later", "delay_ms": 3_600_000})),
            task(&json!({"payload": "expires delayed", "delay_ms": 3_600_000, "expires_ms": due_ms})),
            task(&json!({"payload": "both", "delay_ms": due_ms, "expires_ms": due_ms})),
        ]}))
        .await;
    // No worker polls until it is too late for these tasks.
    let expiring = vec![task(&json!({"payload": "expires", "expires_ms": due_ms})); 500];
    let expiring = api.submit(&json!({ "tasks": expiring })).await;
    worker.report_all(&[lease.failed(true)]).await;
    // Without a majority the table's time stands still, but the real time passes.
    cluster.kill9(leader);
    cluster.kill9(other);
    let all_due = Utc::now() + TimeDelta::milliseconds(due_ms + 50);
    if Utc::now() >= begun + TimeDelta::milliseconds(due_ms) {
        return false;
    }
    // The worker polls all the time, and is present before any master leads.
    let polling = {
        let worker = worker.clone();
        tokio::spawn(async move { worker.take_many(3).await })
    };
    until(WAIT_TIMEOUT, "everything is due", async || {
        Utc::now() > all_due
    })
    .await;
    cluster.restart(other);
    cluster.leader_other_than(leader).await;

    let leases = tokio::time::timeout(WAIT_TIMEOUT, polling)
        .await
        .expect("the tasks are given out")
        .expect("the worker does not panic");
    let mut given: Vec<&Value> = leases.iter().map(|lease| &lease.payload).collect();
    given.sort_by_key(|payload| payload.to_string());
    assert_eq!(given, ["back-off", "delay", "run_at"]);
    worker.take_nothing(&leases).await;
    let done: Vec<Value> = leases
        .iter()
        .map(|lease| lease.succeeded(json!(1)))
        .collect();
    worker.report_all(&done).await;

    let ids = submitted["tasks"].as_array().expect("ids");
    for (nth, state) in ["succeeded", "succeeded", "delayed", "expired", "expired"]
        .iter()
        .enumerate()
    {
        let id = ids[nth].as_str().expect("an id");
        let shown = wait_state(&api, id, state).await;
        let attempts: &[&str] = if *state == "succeeded" {
            &["succeeded"]
        } else {
            &[]
        };
        assert_eq!(counted_outcomes(&shown), attempts, "{shown}");
        if let Some(attempt) = shown["attempts"].get(0) {
            assert!(
                time(&attempt["started_at"]) >= Some(due - TimeDelta::milliseconds(1)),
                "{shown}"
            );
        }
    }
    for shown in shown(&api, &expiring).await {
        assert_eq!(shown["state"], "expired", "{shown}");
        assert_eq!(outcomes(&shown), [""; 0], "{shown}");
        assert!(
            time(&shown["finished_at"]) >= time(&shown["expires_at"]),
            "{shown}"
        );
    }
    let retried = wait_state(
        &api,
        tried["tasks"][0].as_str().expect("an id"),
        "succeeded",
    )
    .await;
    assert_eq!(counted_outcomes(&retried), ["failed", "succeeded"]);
    let attempts = counted_attempts(&retried);
    let ended = time(&attempts[0]["ended_at"]).expect("it ended");
    assert!(
        time(&attempts[1]["started_at"]) >= Some(ended + TimeDelta::milliseconds(due_ms)),
        "{retried}"
    );
    true
}

#[tokio::test]
async fn an_attempt_whose_worker_does_not_stop_it_is_ended_by_the_next_leader() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "deaf", 2).await;
    let limited = task(&json!({"timeout_ms": 200, "backoff": {"initial_ms": 0}}));
    let free = task(&json!({"timeout_ms": 3_600_000}));
    let submitted = api.submit(&json!({"tasks": [limited, free]})).await;
    let leases = worker.take_many(2).await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    // The worker confirms the attempt that it should have stopped, until it learns that the lease is lost.
    let lost = eventually(3 * WAIT_TIMEOUT, "the attempt is ended", async || {
        let orders = worker.heartbeat(&leases).await;
        let lost = orders["lost"].as_array().cloned().unwrap_or_default();
        (!lost.is_empty()).then_some(lost)
    })
    .await;
    assert_eq!(lost, [json!(leases[0].task)]);
    let acknowledgement = worker.report(leases[0].succeeded(json!("late"))).await;
    assert_eq!(acknowledgement["code"], "stale_token", "{acknowledgement}");
    let again = worker.take(&leases[1..]).await;
    assert_eq!(again.task, leases[0].task);
    worker
        .report_all(&[again.succeeded(json!(1)), leases[1].succeeded(json!(2))])
        .await;
    let tasks = shown(&api, &submitted).await;
    assert_eq!(counted_outcomes(&tasks[0]), ["timed_out", "succeeded"]);
    assert!(succeeded_once(&tasks[1]), "{}", tasks[1]);
}
