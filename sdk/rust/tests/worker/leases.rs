//! Leases of a worker when masters redirect it, forget it, take leases away, or go silent.

use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use triarch_sdk::worker::StopReason;

use crate::cluster::{Cluster, Worker, with};
use crate::scripted::{Scripted, eventually, redirect};

#[tokio::test]
async fn a_worker_pointed_at_a_follower_works_for_the_leader() {
    let cluster = Cluster::default();
    let leader = cluster.master().await;
    let to = leader.url.clone();
    let follower = Scripted::start(move |seen| {
        let to = to.clone();
        async move { redirect(&to, &seen) }
    })
    .await;
    let worker = Worker::start(&follower);
    for token in 1..=20 {
        cluster.offer(&format!("t{token}-0"), token, "finish", None);
    }
    eventually("all are reported", || cluster.script().results.len() == 20).await;
    let result = with(&cluster.script().results, 7)[0].clone();
    assert_eq!(
        (&result["task"], &result["status"]),
        (&json!("t7-0"), &json!("succeeded"))
    );
    assert_eq!(result["result"], "done");
    worker.shutdown.finish();
    worker.ended().await.expect("left");
    assert_eq!(cluster.script().left, 1);
    let asked = follower.seen();
    assert!(
        asked.len() <= 3,
        "the leader is remembered: {} requests",
        asked.len()
    );
}

#[tokio::test]
async fn an_unknown_worker_drops_everything_and_registers_anew() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    cluster.script().known.clear();
    eventually("it registers anew", || cluster.script().registered == 2).await;
    assert!(worker.tester.was_stopped("t1-0", StopReason::Lost));
    cluster.offer("t1-0", 2, "finish", None);
    eventually("it works again", || {
        !with(&cluster.script().results, 2).is_empty()
    })
    .await;
    assert!(with(&cluster.script().results, 1).is_empty());
}

#[tokio::test]
async fn cancelled_and_lost_attempts_are_stopped_and_only_those() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    for token in 1..=3 {
        cluster.offer(&format!("t{token}-0"), token, "wait", None);
    }
    eventually("they run", || {
        (1..=3).all(|token| worker.tester.has_begun(token))
    })
    .await;
    cluster.script().cancel = vec!["t1-0".to_owned()];
    cluster.script().lost = vec!["t2-0".to_owned(), "t99-0".to_owned()];
    eventually("the cancelled one is stopped", || {
        worker.tester.was_stopped("t1-0", StopReason::Cancelled)
    })
    .await;
    eventually("the lost one is stopped", || {
        worker.tester.was_stopped("t2-0", StopReason::Lost)
    })
    .await;
    worker.tester.release.notify_one();
    eventually("the third goes on to its end", || {
        !with(&cluster.script().results, 3).is_empty()
    })
    .await;
    assert_eq!(
        cluster.script().results.len(),
        1,
        "nothing is told of the others"
    );
}

#[tokio::test]
async fn a_silent_cluster_ends_what_its_leases_no_longer_cover() {
    let cluster = Cluster::default();
    cluster.script().lease_ms = Some(400);
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    cluster.script().silent = true;
    eventually("it is stopped", || {
        worker.tester.was_stopped("t1-0", StopReason::Lost)
    })
    .await;
    cluster.script().silent = false;
    let heartbeats = master.count(&Method::POST, "/heartbeat");
    eventually("it is heard of again", || {
        master.count(&Method::POST, "/heartbeat") > heartbeats + 1
    })
    .await;
    cluster.offer("t1-0", 2, "finish", None);
    eventually("it works again", || {
        !with(&cluster.script().results, 2).is_empty()
    })
    .await;
    assert!(with(&cluster.script().results, 1).is_empty());
}

#[tokio::test]
async fn a_poll_that_hangs_on_the_old_leader_is_asked_of_the_new() {
    let (before, after) = (Cluster::default(), Cluster::default());
    let old = before.master().await;
    let new = after.master().await;
    let worker = Worker::start_as(&old, |config| config.poll_wait = Duration::from_secs(600));
    eventually("a poll waits", || old.count(&Method::POST, "/poll") > 0).await;
    after.script().known.insert("w1-0".to_owned());
    after.offer("t1-0", 1, "finish", None);
    // From now on the old leader redirects, and never answers the poll that waits there.
    before.script().redirect_to = Some(new.url.clone());
    eventually("the new leader's task is done", || {
        !with(&after.script().results, 1).is_empty()
    })
    .await;
    drop(worker);
}
