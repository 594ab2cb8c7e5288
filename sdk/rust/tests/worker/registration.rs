//! Registration and departure of a worker: registering, leaving in order and at once, being drained.

use std::time::Duration;

use axum::http::Method;
use triarch_sdk::WorkerError;
use triarch_sdk::wire::ProblemCode;
use triarch_sdk::worker::StopReason;

use crate::cluster::{Cluster, Worker, with};
use crate::scripted::eventually;

#[tokio::test]
async fn a_name_that_is_taken_is_waited_for_and_then_given_up() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    cluster.script().refuse_registration = Some(ProblemCode::Conflict);
    let worker = Worker::start(&master);
    eventually("it tries again", || {
        master.count(&Method::POST, "/workers") >= 2
    })
    .await;
    cluster.script().refuse_registration = None;
    eventually("it registers", || cluster.script().registered == 1).await;
    drop(worker);

    cluster.script().refuse_registration = Some(ProblemCode::Conflict);
    let worker = Worker::start_as(&master, |config| config.name_patience = Duration::ZERO);
    assert!(matches!(
        worker.ended().await,
        Err(WorkerError::NameTaken { .. })
    ));
}

#[tokio::test]
async fn the_name_of_a_worker_that_is_silent_is_waited_for_longer_than_that_of_a_live_one() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    {
        let mut script = cluster.script();
        script.refuse_registration = Some(ProblemCode::Conflict);
        script.holder_silent_ms = Some(40_000);
    }
    let worker = Worker::start_as(&master, |config| config.name_patience = Duration::ZERO);
    eventually("it tries again", || {
        master.count(&Method::POST, "/workers") >= 2
    })
    .await;
    cluster.script().holder_silent_ms = Some(100);
    assert!(matches!(
        worker.ended().await,
        Err(WorkerError::NameTaken { .. })
    ));
}

#[tokio::test]
async fn a_registration_that_is_refused_is_an_error() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    cluster.script().refuse_registration = Some(ProblemCode::InvalidRequest);
    let worker = Worker::start(&master);
    assert!(matches!(worker.ended().await, Err(WorkerError::Refused(_))));
}

#[tokio::test]
async fn a_worker_that_shuts_down_finishes_its_running_attempts() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    worker.shutdown.finish();
    let heartbeats = master.count(&Method::POST, "/heartbeat");
    eventually("its leases are confirmed meanwhile", || {
        master.count(&Method::POST, "/heartbeat") > heartbeats + 1
    })
    .await;
    cluster.offer("t2-0", 2, "finish", None);
    worker.tester.release.notify_one();
    let tester = worker.tester.clone();
    worker.ended().await.expect("left");
    assert_eq!(with(&cluster.script().results, 1)[0]["result"], "released");
    assert!(!tester.has_begun(2), "no more is taken");
    assert_eq!(cluster.script().left, 1);
}

#[tokio::test]
async fn attempts_beyond_the_shutdown_timeout_are_returned() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| config.grace = Duration::from_millis(50));
    cluster.offer("t1-0", 1, "wait", None);
    cluster.offer("t2-0", 2, "finish when stopped", None);
    eventually("they run", || {
        worker.tester.has_begun(1) && worker.tester.has_begun(2)
    })
    .await;
    let tester = worker.tester.clone();
    worker.shutdown.finish();
    worker.ended().await.expect("left");
    assert!(tester.was_stopped("t1-0", StopReason::ShuttingDown));
    let script = cluster.script();
    assert!(
        with(&script.results, 1).is_empty(),
        "handed back, not failed"
    );
    assert_eq!(with(&script.results, 2).len(), 1, "what ended well is told");
    assert_eq!(script.left, 1);
}

#[tokio::test]
async fn a_worker_that_stops_at_once_waits_for_nothing() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| {
        config.grace = Duration::from_secs(600);
        config.abandon_after = Duration::from_secs(600);
    });
    cluster.offer("t1-0", 1, "hang", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    worker.shutdown.finish();
    worker.shutdown.now();
    worker.ended().await.expect("left");
    assert_eq!(cluster.script().left, 1);
}

#[tokio::test]
async fn a_drained_worker_finishes_and_leaves() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    cluster.script().drain = true;
    let heartbeats = master.count(&Method::POST, "/heartbeat");
    eventually("it is told", || {
        master.count(&Method::POST, "/heartbeat") > heartbeats + 1
    })
    .await;
    worker.tester.release.notify_one();
    worker.ended().await.expect("left");
    assert_eq!(with(&cluster.script().results, 1).len(), 1);
}
