//! Signals: those that mean no stop leave masters and workers alone, and a second stop is at once.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use triarch_harness::{Cluster, Process, until};

use crate::job_helpers::{WAIT_TIMEOUT, shell, submit_task, succeeded_once, wait_state};

/// Signals of log rotation, users, timers, terminals and limits. Each would end or stop a process by default.
const HARMLESS: [Signal; 10] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGPIPE,
    Signal::SIGTTOU,
];

async fn logs(process: &Process, text: &str) {
    until(
        WAIT_TIMEOUT,
        format!("{} logs {text:?}", process.name),
        async || process.log().contains(text),
    )
    .await;
}

#[tokio::test]
async fn signals_that_mean_no_stop_leave_master_and_worker_alone() {
    let mut cluster = Cluster::start(1).await;
    let mut command = cluster.marked(triarch_harness::binary::triarch());
    command.args([
        "worker",
        "--name",
        "steady",
        "--masters",
        &cluster.masters(),
    ]);
    let mut worker = cluster.spawn("steady", command);
    cluster.wait_workers(1).await;
    let api = cluster.api(1);
    let dir = tempfile::tempdir().expect("a directory");
    let go = dir.path().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let task = submit_task(&api, &shell(&script)).await;
    wait_state(&api, &task, "running").await;
    for signal in HARMLESS {
        cluster.node(1).signal(signal);
        worker.signal(signal);
    }
    // Of masters alone: programs that a worker starts would inherit that it is ignored.
    cluster.node(1).signal(Signal::SIGXFSZ);
    logs(cluster.node(1), "SIGHUP has no effect").await;
    logs(&worker, "SIGHUP has no effect").await;
    std::fs::write(&go, "").expect("the directory is writable");
    let task = wait_state(&api, &task, "succeeded").await;
    assert!(succeeded_once(&task), "{task}");
    for process in [cluster.node(1), &mut worker] {
        assert!(process.is_running(), "{}", process.last_words());
    }
    worker.terminate();
    assert_eq!(worker.wait(WAIT_TIMEOUT).await.code(), Some(0));
}

#[tokio::test]
async fn a_second_stop_signal_ends_a_master_that_waits_for_a_request_at_once() {
    let mut cluster = Cluster::start(1).await;
    let mut unfinished = TcpStream::connect(cluster.addr(1)).expect("it listens");
    unfinished
        .write_all(b"POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
        .expect("it reads");
    let api = cluster.api(1);
    until(WAIT_TIMEOUT, "the request is being read", async || {
        let metrics = api.get("/metrics").await.text;
        metrics.lines().any(|line| {
            line.starts_with("triarch_http_requests_in_flight") && !line.ends_with(" 0")
        }) || metrics.contains("triarch_http_connections")
    })
    .await;
    cluster.node(1).terminate();
    logs(cluster.node(1), "stopping: handing over leadership").await;
    cluster.node(1).interrupt();
    let status = cluster.node(1).wait(Duration::from_secs(4)).await;
    assert_eq!(status.code(), Some(0), "{}", cluster.node(1).last_words());
    let log = cluster.node(1).log();
    assert!(log.contains("stopping at once"), "{log}");
}
