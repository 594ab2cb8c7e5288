//! Overload: excess requests are refused with an explicit answer, and acknowledged work is not lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use triarch_harness::cluster::WAIT_TIMEOUT;
use triarch_harness::{Cluster, FakeWorker, Options, fake_worker, until};

use crate::job_helpers::submit_task;
use crate::operations::metrics::scrape;

/// Maximum time after which a slow client is disconnected: a multiple of the master's own timeouts.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(60);

fn options(more: &[&str]) -> Options {
    Options {
        more: more.iter().map(|word| (*word).to_owned()).collect(),
        ..Options::default()
    }
}

/// Sends these bytes and nothing more, and returns the answer until the other side closes the connection.
async fn send_and_wait(addr: &str, text: String) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("it accepts");
    stream.write_all(text.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(DISCONNECT_TIMEOUT, stream.read_to_end(&mut answer)).await;
    assert!(
        closed.is_ok(),
        "still open after {DISCONNECT_TIMEOUT:?}: {text}"
    );
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_slow_client_is_disconnected_and_others_are_served() {
    let mut cluster = Cluster::with(Options {
        nodes: 1,
        ..Options::default()
    })
    .await;
    let node = cluster.leader().await;
    let (addr, api) = (cluster.addr(node), cluster.api(node));

    // A client that does not read a stream with much output.
    let deaf = TcpSocket::new_v4().expect("a socket");
    deaf.set_recv_buffer_size(4_096).expect("small");
    let mut deaf = deaf
        .connect(addr.parse().expect("an address"))
        .await
        .expect("it accepts");
    let ask = format!("GET /v1/events HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    deaf.write_all(ask.as_bytes()).await.expect("written");
    let held = async |wanted: f64| {
        until(
            DISCONNECT_TIMEOUT,
            format!("{wanted} streams of events"),
            async || {
                scrape(&cluster, node)
                    .await
                    .value("triarch_http_held", &[("kind", "events")])
                    == wanted
            },
        )
        .await;
    };
    held(1.0).await;
    let tasks: Vec<_> = (0..5_000)
        .map(|_| json!({"kind": fake_worker::KIND}))
        .collect();
    for _ in 0..8 {
        api.submit(&json!({"tasks": tasks})).await;
    }

    // Heads and bodies that do not end, and many connections without a byte.
    let head = send_and_wait(
        &addr,
        format!("GET /healthz HTTP/1.1\r\nhost: {addr}\r\nslow: "),
    );
    let body = send_and_wait(
        &addr,
        format!("POST /v1/jobs HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 1000\r\n\r\n{{"),
    );
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(&addr).await.expect("it accepts"));
    }
    api.get("/healthz").await.expect(200);
    let (head, body) = tokio::join!(head, body);
    assert!(!head.contains("200 OK"), "{head}");
    assert!(body.starts_with("HTTP/1.1 504"), "{body}");
    held(0.0).await;
    drop(deaf);
    drop(silent);
}

/// Sends this request on `connections` connections from one address. Returns the first answer, and what holds the connections.
async fn first_answer(
    from: &str,
    addr: &str,
    request: &str,
    connections: usize,
) -> (String, JoinSet<()>) {
    let (answers, mut answered) = mpsc::channel(connections.max(1));
    let mut held = JoinSet::new();
    for _ in 0..connections {
        let socket = TcpSocket::new_v4().expect("a socket");
        let from = format!("{from}:0").parse().expect("an address");
        socket.bind(from).expect("a loopback address");
        let addr = addr.parse().expect("an address");
        let mut stream = socket.connect(addr).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("written");
        let answers = answers.clone();
        held.spawn(async move {
            let mut answer = Vec::new();
            if stream.read_to_end(&mut answer).await.is_ok() {
                let _ = answers
                    .send(String::from_utf8_lossy(&answer).into_owned())
                    .await;
            }
        });
    }
    let answer = tokio::time::timeout(WAIT_TIMEOUT, answered.recv()).await;
    let answer = answer.expect("one is answered").expect("all are held");
    (answer, held)
}

#[tokio::test]
async fn a_connection_over_the_limit_is_refused_with_a_problem() {
    const MOST: usize = 12;
    /// Three quarters of them is what one address may have.
    const OF_ONE_CLIENT: usize = MOST / 4 * 3;
    let mut cluster = Cluster::with(Options {
        nodes: 1,
        ..options(&["--connections-max", &MOST.to_string()])
    })
    .await;
    let node = cluster.leader().await;
    let (addr, api) = (cluster.addr(node), cluster.api(node));
    let task = submit_task(&api, &json!({"tasks": [{"kind": "none"}]})).await;
    let ask = format!("GET /v1/tasks/{task}?wait_ms=60000 HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    let (own, first) = first_answer("127.0.0.7", &addr, &ask, OF_ONE_CLIENT + 1).await;
    assert!(own.contains("your address"), "{own}");
    let (all, second) = first_answer("127.0.0.8", &addr, &ask, OF_ONE_CLIENT).await;
    assert!(!all.contains("your address"), "{all}");
    for refused in [own, all] {
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        for part in [
            "retry-after: 1",
            "application/problem+json",
            "\"code\":\"unavailable\"",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
    }
    drop((first, second));
    until(WAIT_TIMEOUT, "there is room again", async || {
        let reply = api.call(Method::GET, "/metrics").send().await;
        reply.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    assert!(
        scrape(&cluster, node)
            .await
            .value("triarch_connections_refused_total", &[("of", "clients")])
            >= 2.0
    );
}

#[tokio::test]
async fn a_request_flood_costs_no_lease_no_leader_and_nothing_acknowledged() {
    const LEASES: usize = 5;
    const CLIENTS: u64 = 60;
    /// Minimum duration of the load. It continues until some jobs were acknowledged and the node has refused others.
    const LASTS: Duration = Duration::from_secs(8);
    const LASTS_MAX: Duration = Duration::from_secs(80);
    const RSS_BYTES_MAX: f64 = 1e9;
    let mut cluster = Cluster::with(Options {
        lease_ms: 10_000,
        // Other load on this machine must not matter here.
        ..options(&[
            "--requests-max",
            "8",
            "--bodies-mib",
            "4",
            "--timing",
            "wan",
            "--election-ms",
            "3000..5000",
        ])
    })
    .await;
    let leader = cluster.wait_ready().await;
    let before = scrape(&cluster, leader).await;
    let worker = FakeWorker::register(&cluster, "steady", LEASES as u32).await;
    let tasks: Vec<_> = (0..LEASES)
        .map(|n| json!({"kind": fake_worker::KIND, "payload": n}))
        .collect();
    cluster.api(leader).submit(&json!({"tasks": tasks})).await;
    let leases = worker.take_many(LEASES).await;
    let alive = worker.keep_alive(&leases);

    let filling = "x".repeat(2_000);
    let tasks: Vec<_> = (0..200)
        .map(|_| json!({"kind": "flood", "payload": filling}))
        .collect();
    let batch = Arc::new(json!({"tasks": tasks}).to_string());
    let refused = Arc::new(AtomicUsize::new(0));
    let shed = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for nth in 0..CLIENTS {
        let api = cluster.api(nth % 3 + 1);
        let (batch, refused) = (Arc::clone(&batch), Arc::clone(&refused));
        let (shed, accepted) = (Arc::clone(&shed), Arc::clone(&accepted));
        clients.spawn(async move {
            let mut acknowledged = Vec::new();
            let met = |count: &AtomicUsize| count.load(Ordering::Relaxed) > 0;
            while begun.elapsed() < LASTS
                || !(met(&shed) && met(&accepted)) && begun.elapsed() < LASTS_MAX
            {
                let call = api
                    .call(Method::POST, "/v1/jobs")
                    .raw(batch.as_str().to_owned());
                let reply = call.answer().await;
                match reply.status {
                    201 => {
                        acknowledged.push(reply.json()["id"].as_str().expect("an id").to_owned());
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    429 => {
                        assert!(
                            ["rate_limited", "queue_full"].contains(&reply.code().as_str()),
                            "{reply:?}"
                        );
                        assert!(reply.header("retry-after").is_some(), "{reply:?}");
                        refused.fetch_add(1, Ordering::Relaxed);
                        shed.fetch_add(
                            usize::from(reply.code() == "rate_limited"),
                            Ordering::Relaxed,
                        );
                    }
                    // The outcome of the request is unknown.
                    504 => {}
                    _ => panic!("{reply:?}"),
                }
            }
            acknowledged
        });
    }
    let acknowledged: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    let refused = refused.load(Ordering::Relaxed);
    println!(
        "{} jobs acknowledged, {refused} refused",
        acknowledged.len()
    );
    assert!(!acknowledged.is_empty() && refused > 0);

    // No acknowledged work was lost.
    let after = scrape(&cluster, leader).await;
    for name in ["triarch_term", "triarch_is_leader"] {
        assert_eq!(after.value(name, &[]), before.value(name, &[]), "{name}");
    }
    assert_eq!(after.value("triarch_leases_expired_total", &[]), 0.0);
    assert_eq!(after.value("triarch_workers_lost_total", &[]), 0.0);
    drop(alive);
    let results: Vec<_> = leases
        .iter()
        .map(|lease| lease.succeeded(json!(1)))
        .collect();
    worker.report_all(&results).await;
    let mut shed = 0.0;
    for node in cluster.ids() {
        let one = scrape(&cluster, node).await;
        shed += one.value("triarch_http_shed_total", &[]);
        let rss = one.value("process_resident_memory_bytes", &[]);
        assert!(rss < RSS_BYTES_MAX, "master {node} takes {rss} bytes");
        assert_eq!(
            one.value("triarch_proposals_open", &[]),
            0.0,
            "master {node}"
        );
    }
    assert!(shed > 0.0);
    let api = cluster.api(leader);
    for job in acknowledged {
        api.get(&format!("/v1/jobs/{job}")).await.expect(200);
    }
    // The next request is served as usual.
    api.submit(&fake_worker::job(json!("after"))).await;
    worker.take(&[]).await;
}
