//! Results are reported soon, until there is a verdict, and under the lease of their attempt.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use triarch_sdk::wire::ProblemCode;
use triarch_sdk::worker::StopReason;

use crate::cluster::{Cluster, Worker, with};
use crate::scripted::{Seen, eventually};

#[tokio::test]
async fn a_refused_result_is_dropped_and_not_repeated() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.script().acknowledgements.insert(1, "stale_token");
    cluster.offer("t1-0", 1, "finish", None);
    eventually("it is reported", || {
        !with(&cluster.script().results, 1).is_empty()
    })
    .await;
    cluster.offer("t2-0", 2, "finish", None);
    eventually("the next is reported", || {
        !with(&cluster.script().results, 2).is_empty()
    })
    .await;
    worker.shutdown.finish();
    worker.ended().await.expect("left");
    assert_eq!(with(&cluster.script().results, 1).len(), 1);
}

#[tokio::test]
async fn a_report_is_repeated_until_it_is_acknowledged() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| config.register.slots = 2);
    let refusals = [
        ProblemCode::NoLeader,
        ProblemCode::StorageFailed,
        ProblemCode::Internal,
    ];
    cluster.script().refuse_reports = refusals.into();
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    eventually("a poll waits for more", || {
        master.count(&Method::POST, "/poll") >= 2
    })
    .await;
    worker.tester.release.notify_one();
    eventually("it is accepted", || {
        !with(&cluster.script().results, 1).is_empty()
    })
    .await;
    assert!(cluster.script().refuse_reports.is_empty());
    assert_eq!(with(&cluster.script().results, 1).len(), 1);
}

#[tokio::test]
async fn a_result_over_the_bound_is_reported_as_a_failure() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| config.register.slots = 2);
    cluster.script().refuse_reports = [ProblemCode::PayloadTooLarge].into();
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    eventually("a poll waits for more", || {
        master.count(&Method::POST, "/poll") >= 2
    })
    .await;
    worker.tester.release.notify_one();
    eventually("it is settled", || {
        !with(&cluster.script().results, 1).is_empty()
    })
    .await;
    let result = with(&cluster.script().results, 1)[0].clone();
    assert_eq!(
        (&result["status"], &result["retryable"]),
        (&json!("failed"), &json!(false))
    );
    assert_eq!(result["error"]["type"], "result_refused");
}

#[tokio::test]
async fn time_limits_and_panics_are_failures() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| {
        config.abandon_after = Duration::from_millis(50);
    });
    cluster.offer("t1-0", 1, "wait", Some(50));
    cluster.offer("t2-0", 2, "hang", Some(50));
    cluster.offer("t3-0", 3, "panic", None);
    eventually("all are reported", || cluster.script().results.len() == 3).await;
    assert!(worker.tester.was_stopped("t1-0", StopReason::TimedOut));
    let script = cluster.script();
    let kinds = [1, 2, 3].map(|token| with(&script.results, token)[0]["error"]["type"].clone());
    assert_eq!(kinds, ["timeout", "timeout", "panic"].map(Value::from));
}

#[tokio::test]
async fn a_result_does_not_wait_for_work_to_come() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| {
        config.poll_wait = Duration::from_secs(600)
    });
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    eventually("a poll waits for more", || {
        master.count(&Method::POST, "/poll") >= 2
    })
    .await;
    worker.tester.release.notify_one();
    eventually("it is reported", || {
        !with(&cluster.script().results, 1).is_empty()
    })
    .await;
}

/// Returns whether this is a poll with results.
fn brings_results(seen: &Seen) -> bool {
    let results = seen.body["results"].as_array();
    seen.is(&Method::POST, "/poll") && results.is_some_and(|results| !results.is_empty())
}

#[tokio::test]
async fn under_a_backlog_results_travel_with_the_question_for_more() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    for token in 1..=200 {
        cluster.offer(&format!("t{token}-0"), token, "finish", None);
    }
    let worker = Worker::start(&master);
    eventually("all are reported", || cluster.script().results.len() >= 200).await;
    for token in 1..=200 {
        assert_eq!(with(&cluster.script().results, token).len(), 1, "t{token}");
    }
    drop(worker);
    assert!(master.seen().iter().any(brings_results));
}

#[tokio::test]
async fn a_result_held_for_a_poll_goes_by_itself_when_that_is_not_answered() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    for token in 1..=3 {
        cluster.offer(&format!("t{token}-0"), token, "wait", None);
    }
    cluster.script().hang_on_results = true;
    // The first poll gets all the tasks it asks for, so there seem to be more.
    let worker = Worker::start_as(&master, |config| config.register.slots = 3);
    eventually("they run", || {
        (1..=3).all(|token| worker.tester.has_begun(token))
    })
    .await;
    worker.tester.release.notify_one();
    eventually("a poll takes the result along", || {
        master.seen().iter().any(brings_results)
    })
    .await;
    worker.tester.release.notify_one();
    eventually("the next result goes without it", || {
        cluster.script().results.len() == 1
    })
    .await;
    assert_eq!(master.count(&Method::POST, "/report"), 1);
    // Asked to leave, the worker reports the rest without waiting for a poll, and takes back the results of an
    // unanswered one.
    worker.tester.release.notify_one();
    worker.shutdown.finish();
    worker.ended().await.expect("left");
    for token in 1..=3 {
        assert_eq!(with(&cluster.script().results, token).len(), 1, "t{token}");
    }
    assert_eq!(cluster.script().left, 1);
}

#[tokio::test]
async fn a_poll_whose_answer_is_lost_reports_the_same_results_again() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    cluster.script().lost_acknowledgements = 2;
    cluster.offer("t1-0", 1, "finish", None);
    let worker = Worker::start_as(&master, |config| config.register.slots = 1);
    eventually("it is told until there is a verdict", || {
        with(&cluster.script().results, 1).len() >= 2
    })
    .await;
    cluster.offer("t2-0", 2, "finish", None);
    eventually("the next is reported", || {
        !with(&cluster.script().results, 2).is_empty()
    })
    .await;
    worker.shutdown.finish();
    worker.ended().await.expect("left");
    let reports = with(&cluster.script().results, 1);
    assert!(
        reports.iter().all(|result| *result == reports[0]),
        "{reports:?}"
    );
}
