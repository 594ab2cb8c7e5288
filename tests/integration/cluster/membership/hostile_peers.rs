//! Connections, bodies, addresses and texts of processes that are no masters: they take nothing from those that are.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use triarch_harness::{Api, Cluster, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, submit_task};

/// Connections of strangers; more than a master keeps.
const STRANGERS: usize = 400;
/// Connections of strangers that a master keeps, and those of its peers.
const KEPT_MAX: u64 = 300;

/// Envelope of a message to a node, from a node that no member knows.
fn envelope(cluster_id: &str, to: u64) -> Vec<u8> {
    let hex: String = cluster_id.chars().filter(|c| *c != '-').collect();
    let cluster = (0..32)
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"));
    let mut out = vec![1, 16];
    out.extend(cluster);
    out.extend([66, 16]);
    out.extend([5; 16]);
    out.extend([to as u8, 16]);
    out.extend([0; 16]);
    out
}

/// Opens a connection that sends the head of a message and `body`, which may be part of it.
async fn stranger(address: &str, path: &str, length: usize, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!(
        "POST /raft/{path} HTTP/1.1\r\nHost: {address}\r\ntriarch-version: 0; level=2\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("a head");
    // The master may have answered and closed already.
    let _ = stream.write_all(body).await;
    stream
}

/// Reads until the end, which must come soon.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = async {
        let mut part = [0; 4_096];
        // A reset ends the answer too.
        while let Ok(count @ 1..) = stream.read(&mut part).await {
            answer.extend_from_slice(&part[..count]);
            if answer.starts_with(b"HTTP/1.1 409") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("an answer, or the end");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn open_connections_of_masters(api: &Api) -> u64 {
    let text = api.get("/metrics").await.text;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("triarch_connections{of=\"masters\"} "));
    let count: f64 = line
        .unwrap_or_else(|| panic!("{text}"))
        .parse()
        .expect("a number");
    count as u64
}

#[tokio::test]
async fn strangers_take_neither_places_nor_memory_of_masters() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(leader);
    let status = api.get("/v1/cluster").await.expect(200);
    let cluster_id = status["cluster_id"].as_str().expect("formed");
    let address = cluster.addr(leader);

    // A watch would be held for as long as both live.
    let watch = envelope(cluster_id, leader);
    let mut watching = stranger(&address, "watch", watch.len(), &watch).await;
    let said = answer(&mut watching).await;
    assert!(said.starts_with("HTTP/1.1 409"), "{said}");
    assert!(said.contains("has no node 66"), "{said}");

    // Bytes that are no message are refused without waiting for the rest, and so is a stranger's large message.
    let large = 36 << 20;
    for begin in [vec![b'x'; 1 << 20], watch.clone()] {
        let mut stream = stranger(&address, "append", large, &begin).await;
        let said = answer(&mut stream).await;
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 409"),
            "{said}"
        );
    }

    // Of connections that send less than an envelope, the oldest are closed.
    let mut silent = Vec::new();
    for _ in 0..STRANGERS {
        silent.push(stranger(&address, "watch", watch.len(), &watch[..1]).await);
    }
    until(WAIT_TIMEOUT, "the oldest are closed", async || {
        open_connections_of_masters(&api).await <= KEPT_MAX
    })
    .await;
    cluster.kill9(follower);
    cluster.restart(follower);
    cluster.wait_ready().await;
    submit_task(&api, &fake_worker::job(json!("accepted"))).await;
    cluster.wait_caught_up(follower).await;
    drop(silent);
}

/// Listener that answers every request with `answer`, and keeps the first line of each.
async fn listener(answer: Vec<u8>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let lines = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4_096];
            let count = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..count]).into_owned();
            let line = text.lines().next().unwrap_or_default().to_owned();
            lines.lock().expect("no panic").push(line);
            // The master may be gone.
            let _ = stream.write_all(&answer).await;
        }
    });
    (address, seen)
}

#[tokio::test]
async fn a_master_posts_to_addresses_only_and_says_little_of_what_is_there() {
    let mut cluster = Cluster::start(1).await;
    cluster.wait_ready().await;
    let api = cluster.api(1);
    let secret = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nSECRET".to_vec();
    let (address, seen) = listener(secret).await;
    let add = async |addr: &str| {
        let body = json!({"id": 9, "addr": addr});
        api.post("/v1/cluster/nodes?wait_ms=0", &body).await
    };
    for wrong in [
        format!("{address}/internal/admin?x=1#"),
        format!("user:password@{address}"),
        format!("{address}/\\.."),
        format!("{address}/v1?:80"),
        format!("http://{address}"),
        format!(" {address}"),
        format!("{address}\r\n"),
        "127.0.0.1:0".to_owned(),
        "127.0.0.1".to_owned(),
    ] {
        let problem = add(&wrong).await.refused(400, "invalid_request");
        assert_eq!(problem["field"], "addr", "{wrong:?}");
    }
    assert!(seen.lock().expect("no panic").is_empty());

    let detail = |reply: triarch_harness::Reply| {
        let problem = reply.refused(409, "conflict");
        problem["detail"].as_str().expect("a detail").to_owned()
    };
    // Whether something listens there is not said, nor what it says.
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed = nobody.local_addr().expect("bound").to_string();
    drop(nobody);
    let (open, closed_said) = (detail(add(&address).await), detail(add(&closed).await));
    assert_eq!(
        open.replace(&address, "X"),
        closed_said.replace(&closed, "X")
    );
    assert_eq!(
        *seen.lock().expect("no panic"),
        ["POST /raft/hello HTTP/1.1"]
    );

    // A redirect is not followed.
    let (target, followed) = listener(Vec::new()).await;
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{target}/\r\ncontent-length: 0\r\n\r\n"
    );
    let (redirecting, _) = listener(redirect.into_bytes()).await;
    detail(add(&redirecting).await);
    assert!(followed.lock().expect("no panic").is_empty());

    // A refusal of a peer with a line of its own stays within one line of the log, and of the answer.
    let text = "no\n2026-01-01T00:00:00Z ERROR forged";
    // The eighth variant is that of a refusal in words.
    let mut refusal = vec![7, text.len() as u8];
    refusal.extend(text.bytes());
    let mut answer = format!(
        "HTTP/1.1 409 Conflict\r\ncontent-length: {}\r\n\r\n",
        refusal.len()
    )
    .into_bytes();
    answer.extend(refusal);
    let (forging, _) = listener(answer).await;
    detail(add(&forging).await);
    until(WAIT_TIMEOUT, "the refusal is logged", async || {
        cluster.log_line_of(1).contains("ERROR forged")
    })
    .await;
    let log = cluster.log_line_of(1);
    assert!(
        !log.lines().any(|line| line.starts_with("2026-01-01")),
        "{log}"
    );
}
