//! Delays that failed tasks choose for their next attempts.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use serde_json::{Value, json};
use triarch_harness::fake_worker::Lease;
use triarch_harness::fake_workers::time;
use triarch_harness::{Cluster, FakeWorker, Options, Program, fake_worker};

use crate::job_helpers::{counted_attempts, counted_outcomes, submit_task, wait_state};

/// A task that would wait for an hour after a failure.
fn patient(max_attempts: u32) -> Value {
    let backoff = json!({"initial_ms": 3_600_000, "max_ms": 3_600_000, "jitter": 0});
    let task = json!({"kind": fake_worker::KIND, "backoff": backoff, "max_attempts": max_attempts});
    json!({ "tasks": [task] })
}

/// Returns a report of failure with this member added.
fn failed_with(lease: &Lease, name: &str, value: Value) -> Value {
    let mut report = lease.failed(true);
    report[name] = value;
    report
}

#[tokio::test]
async fn a_failed_task_begins_again_after_the_delay_it_chose_over_a_leader_death() {
    let mut cluster = Cluster::with(Options {
        lease_ms: 60_000,
        ..Options::default()
    })
    .await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let task = submit_task(&api, &patient(2)).await;
    let first = worker.take(&[]).await;
    let report = failed_with(&first, "retry_after_ms", json!(400));
    worker.report_all(std::slice::from_ref(&report)).await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    let repeated = worker.report(report).await;
    assert_eq!(repeated["accepted"], true, "{repeated}");
    let second = worker.take(&[]).await;
    assert_eq!(second.task, task);
    // Its attempts are used up, whatever it asks for.
    let last = failed_with(&second, "retry_after_ms", json!(0));
    worker.report_all(&[last]).await;
    let shown = wait_state(&api, &task, "failed").await;
    assert_eq!(counted_outcomes(&shown), ["failed", "failed"]);
    let attempts = counted_attempts(&shown);
    let ended = time(&attempts[0]["ended_at"]).expect("it ended");
    let began = time(&attempts[1]["started_at"]);
    assert!(
        began >= Some(ended + TimeDelta::milliseconds(400)),
        "{shown}"
    );
}

#[tokio::test]
async fn a_delay_that_cannot_be_kept_costs_itself_and_not_the_failure() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(1);
    let worker = FakeWorker::register(&cluster, "w", 3).await;
    for _ in 0..3 {
        submit_task(&api, &patient(3)).await;
    }
    let leases = worker.take_many(3).await;
    let mut final_one = failed_with(&leases[0], "retry_after_ms", json!(5));
    final_one["retryable"] = json!(false);
    let results = [
        final_one,
        failed_with(&leases[1], "retry_after_ms", json!(u64::MAX)),
        failed_with(&leases[2], "retry_after_ms", json!(-1)),
    ];
    let answer = worker
        .worker_call("report", &json!({ "results": results }))
        .await;
    let answer = answer.expect(200);
    let verdicts = &answer["results"];
    assert_eq!(
        [
            &verdicts[0]["accepted"],
            &verdicts[1]["accepted"],
            &verdicts[2]["code"]
        ],
        [&json!(true), &json!(true), &json!("invalid_request")],
        "{answer}"
    );
    let fields: Vec<&Value> = answer["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|problem| &problem["field"])
        .collect();
    assert_eq!(
        fields,
        ["results[0].retry_after_ms", "results[1].retry_after_ms"],
        "{answer}"
    );
    wait_state(&api, &leases[0].task, "failed").await;
    wait_state(&api, &leases[1].task, "delayed").await;
    // The third is still leased.
    wait_state(&api, &leases[2].task, "running").await;
    worker.report_all(&[leases[2].failed(false)]).await;
}

#[tokio::test]
async fn a_cluster_of_level_1_takes_the_failure_with_the_back_off_and_says_so() {
    let cluster = Cluster::with(Options {
        nodes: 1,
        programs: BTreeMap::from([(1, Program::of_level(1))]),
        ..Options::default()
    })
    .await;
    let api = cluster.api(1);
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let task = submit_task(&api, &patient(3)).await;
    let lease = worker.take(&[]).await;
    let report = failed_with(&lease, "retry_after_ms", json!(1));
    let answer = worker
        .worker_call("report", &json!({ "results": [report] }))
        .await;
    let answer = answer.expect(200);
    assert_eq!(answer["results"][0]["accepted"], true, "{answer}");
    let problem = &answer["problems"][0];
    assert_eq!(problem["field"], "results[0].retry_after_ms", "{answer}");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("triarch cluster upgrade"), "{detail}");
    wait_state(&api, &task, "delayed").await;
    worker.take_nothing(&[]).await;
}
