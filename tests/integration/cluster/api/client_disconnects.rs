//! Clients that disconnect in the middle of a request leave no resources occupied.

use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use triarch_harness::{Cluster, FakeWorker, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works, submit_task};
use crate::operations::metrics::{held, wait_held};

/// Number of clients for each kind of disconnection.
const MANY: usize = 50;
/// Tolerance in the number of open descriptors of a master, because connections between masters come and go.
const SLACK: usize = 20;

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("a process of ours")
        .count()
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("a process of ours")
        .count()
}

#[tokio::test]
async fn clients_that_disconnect_leak_no_resources() {
    let mut cluster = Cluster::start(3).await;
    assert_works(&mut cluster).await;
    let before: Vec<(usize, usize)> = cluster
        .ids()
        .map(|id| (descriptors(cluster.pid(id)), threads(cluster.pid(id))))
        .collect();
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let waited_for = submit_task(
        &cluster.api(1),
        &json!({"tasks": [{"kind": "nobody-runs-this"}]}),
    )
    .await;

    for node in cluster.ids() {
        let address = cluster.addr(node);
        for head in [
            // No bytes at all; half a request line; half the headers; half a body.
            String::new(),
            "POST /v1/jo".to_owned(),
            "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-".to_owned(),
            "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{\"tasks\": ["
                .to_owned(),
            "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"tas"
                .to_owned(),
            // A whole request, with a disconnection before the answer.
            format!("GET /v1/tasks/{waited_for}?wait_ms=60000 HTTP/1.1\r\nhost: localhost\r\n\r\n"),
            "GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        ] {
            for _ in 0..MANY {
                let mut stream = TcpStream::connect(&address).await.expect("it listens");
                stream.write_all(head.as_bytes()).await.expect("it reads");
                drop(stream);
            }
        }
    }
    // Polls whose client disconnects while they wait.
    let leader = cluster.leader().await;
    for _ in 0..MANY {
        let path = format!("/v1/workers/{}/poll", worker.id);
        let call = cluster
            .api(leader)
            .call(Method::POST, &path)
            .json(&json!({"max": 1, "wait_ms": 60_000}));
        until(WAIT_TIMEOUT, "the poll before is forgotten", async || {
            held(&cluster, leader, "poll").await == 0.0
        })
        .await;
        let polling = tokio::spawn(call.send());
        wait_held(&cluster, &[leader], "poll", 1).await;
        polling.abort();
        let hung_up = polling.await;
        assert!(hung_up.is_err(), "{hung_up:?}");
    }
    // Work that is submitted now is not leased to any of the disconnected workers.
    let task = submit_task(&cluster.api(1), &fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    assert_eq!((&lease.task, lease.attempt), (&task, 1), "{lease:?}");
    assert_eq!(
        worker.report(lease.succeeded(json!(1))).await["accepted"],
        true
    );
    worker.leave().await;

    for (node, (files, tasks)) in cluster.ids().zip(before) {
        let pid = cluster.pid(node);
        let what =
            format!("master {node} is back to about {files} descriptors and {tasks} threads");
        until(WAIT_TIMEOUT, what, async || {
            descriptors(pid) <= files + SLACK && threads(pid) <= tasks + SLACK
        })
        .await;
    }
    let job = cluster
        .api(1)
        .get(&format!("/v1/tasks/{waited_for}"))
        .await
        .expect(200);
    let path = format!("/v1/jobs/{}/cancel", job["job"].as_str().expect("an id"));
    cluster.api(1).post(&path, &json!({})).await.expect(200);
    assert_works(&mut cluster).await;
}
