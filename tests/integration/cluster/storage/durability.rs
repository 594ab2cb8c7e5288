//! Durability: nothing is acknowledged before it is on disk, and a failing disk ends the master.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use triarch_harness::strace::{Call, Tracer, now};
use triarch_harness::{Cluster, Load, LoadOptions, acknowledged_jobs, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, shell};

#[tokio::test]
async fn a_submission_is_synced_by_a_quorum_before_it_is_acknowledged() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let mut tracers = Vec::new();
    for node in cluster.ids() {
        let traced = "trace=pwrite64,pwritev,write,fdatasync,fsync";
        tracers.push(Tracer::attach(&cluster, node, &["-e", traced]).await);
    }
    let api = cluster.api(leader);
    let mut acknowledged = Vec::new();
    for nth in 0..5 {
        let sent = now();
        api.submit(&fake_worker::job(
            json!({"nth": nth, "fill": "x".repeat(3_000)}),
        ))
        .await;
        acknowledged.push((sent, now()));
    }
    let mut seen: Vec<Vec<Call>> = Vec::new();
    for tracer in tracers {
        seen.push(tracer.finish().await);
    }
    for (sent, acked) in acknowledged {
        let synced = seen
            .iter()
            .filter(|calls| wrote_then_synced(calls, sent, acked))
            .count();
        assert!(
            synced >= 2,
            "a submission sent at {sent} was acknowledged at {acked}, when only {synced} of 3 masters had written and \
             then fdatasynced it; calls seen: {:#?}",
            seen.iter()
                .flatten()
                .filter(|call| call.entered > sent && call.returned < acked)
                .collect::<Vec<_>>()
        );
    }
}

/// Returns whether, between these times, a file of the log was appended to and the same file was synced afterwards.
fn wrote_then_synced(calls: &[Call], from: f64, to: f64) -> bool {
    let within: Vec<&Call> = calls
        .iter()
        .filter(|call| call.entered >= from && call.returned <= to && call.succeeded)
        .collect();
    within.iter().any(|sync| {
        let is_sync = matches!(sync.name.as_str(), "fdatasync" | "fsync");
        is_sync
            && sync.path.is_some()
            && within.iter().any(|write| {
                let is_write = matches!(write.name.as_str(), "pwrite64" | "pwritev" | "write");
                is_write && write.path == sync.path && write.returned <= sync.entered
            })
    })
}

#[tokio::test]
async fn a_failed_fsync_ends_the_master_with_a_message_and_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&["--slots", "4"]);
    let sink = cluster.root().join("sink");
    let script = acknowledged_jobs::sink_script(&sink);
    let options = LoadOptions {
        submitters: 4,
        pause: Duration::from_millis(5),
        request_timeout: Duration::from_secs(2),
        name: "disk".to_owned(),
        make: Arc::new(move |_| shell(&script)),
    };
    let load = Load::start(&cluster.apis(), options);
    // First a follower, then, after its return, the leader.
    for leads in [false, true] {
        let wanted = load.count() + 30;
        until(
            WAIT_TIMEOUT,
            format!("{wanted} submissions are acknowledged"),
            async || load.count() >= wanted,
        )
        .await;
        let leader = cluster.leader().await;
        let victim = cluster
            .ids()
            .find(|id| (*id == leader) == leads)
            .expect("one of three");
        let inject = "inject=fdatasync,fsync:error=EIO:when=3+";
        let tracer = Tracer::attach(
            &cluster,
            victim,
            &["-e", "trace=fdatasync,fsync", "-e", inject],
        )
        .await;
        let status = cluster.node(victim).wait(WAIT_TIMEOUT).await;
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
        let log = cluster.node(victim).log();
        assert!(
            log.contains("cannot go on"),
            "{}",
            cluster.node(victim).last_words()
        );
        drop(tracer);
        let wanted = load.count() + 30;
        until(
            WAIT_TIMEOUT,
            format!("{wanted} submissions are acknowledged"),
            async || load.count() >= wanted,
        )
        .await;
        cluster.restart(victim);
        cluster.wait_caught_up(victim).await;
    }
    let acked = load.finish().await;
    let mut check_result =
        acknowledged_jobs::check(&cluster.apis(), &acked, Duration::from_secs(60)).await;
    acknowledged_jobs::check_sink(&mut check_result, &sink, &acked);
    check_result.assert_good();
}
