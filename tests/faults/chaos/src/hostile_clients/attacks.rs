//! The kinds of hostile clients, and what each does on one connection.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::connection::Connection;
use super::{Effects, Targets};

/// Time for which a connection is held that a master does not close.
const HOLD: Duration = Duration::from_secs(20);
/// Time for which an answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Declared length of a body that stalls, in bytes.
const STALLED_BODY_BYTES: usize = 8 << 20;
/// Length of the part of it that is sent, in bytes.
const STALLED_PART_BYTES: usize = 256 << 10;

/// A kind of hostile client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Attack {
    /// Says nothing.
    SilentConnection,
    /// Sends a part of a body, to routes of clients and of masters.
    StalledBody,
    /// Asks for the largest answers and reads none.
    UnreadAnswer,
    /// Takes places in which a request waits: for tasks, jobs, events and heartbeats of masters.
    Watcher,
    /// Sends heads that are too long, too many, or never end.
    OversizedHead,
    /// Sends what masters send each other, without being one.
    WrongPeer,
    /// Sends what is no HTTP, or no JSON, or neither whole.
    Garbage,
}

impl Attack {
    /// All kinds.
    pub const ALL: [Attack; 7] = [
        Attack::SilentConnection,
        Attack::StalledBody,
        Attack::UnreadAnswer,
        Attack::Watcher,
        Attack::OversizedHead,
        Attack::WrongPeer,
        Attack::Garbage,
    ];

    /// Returns the number of clients of this kind at once.
    pub fn clients(self) -> usize {
        match self {
            Attack::SilentConnection => 200,
            Attack::StalledBody | Attack::UnreadAnswer => 48,
            Attack::Watcher => 96,
            Attack::OversizedHead | Attack::WrongPeer | Attack::Garbage => 16,
        }
    }

    /// Returns its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Attack::SilentConnection => "silent connections",
            Attack::StalledBody => "stalled bodies",
            Attack::UnreadAnswer => "unread answers",
            Attack::Watcher => "watchers",
            Attack::OversizedHead => "oversized heads",
            Attack::WrongPeer => "wrong peers",
            Attack::Garbage => "garbage",
        }
    }

    /// Attacks one master once.
    pub async fn run(self, targets: &Targets, effects: &Effects, random: &mut StdRng) {
        let (id, addr) = &targets.masters[random.random_range(0..targets.masters.len())];
        let Some(mut connection) = Connection::open(addr, effects, random.random()).await else {
            return;
        };
        match self {
            Attack::SilentConnection => connection.wait_answer(HOLD).await,
            Attack::StalledBody => {
                let paths = [
                    "/v1/jobs",
                    "/raft/append",
                    "/raft/snapshot/chunk",
                    "/v1/events",
                ];
                let path = paths[random.random_range(0..paths.len())];
                let head = head("POST", path, addr, STALLED_BODY_BYTES);
                let part = vec![b' '; random.random_range(1..STALLED_PART_BYTES)];
                if connection.send(head.as_bytes()).await && connection.send(&part).await {
                    connection.wait_answer(HOLD).await;
                }
            }
            Attack::UnreadAnswer => {
                let paths = [
                    "/v1/tasks?limit=1000&fields=all",
                    "/v1/jobs?limit=1000",
                    "/v1/cluster/backup",
                    "/v1/events",
                    "/metrics",
                    "/openapi.json",
                ];
                let path = paths[random.random_range(0..paths.len())];
                // Pipelined, so that one connection asks for more than one answer.
                let request = head("GET", path, addr, 0).repeat(8);
                if connection.send(request.as_bytes()).await {
                    connection.hold(HOLD / 4).await;
                    connection.wait_answer(ANSWER_TIMEOUT).await;
                }
            }
            Attack::Watcher => {
                let (task, job) = &targets.unfinished;
                let ids = vec![format!("{task:?}"); 1_000].join(",");
                let request = match random.random_range(0..4) {
                    0 => with_body(
                        "POST",
                        "/v1/tasks/wait?wait_ms=30000",
                        addr,
                        &format!("{{\"tasks\":[{ids}]}}"),
                    ),
                    1 => head("GET", &format!("/v1/jobs/{job}?wait_ms=30000"), addr, 0),
                    2 => head("GET", "/v1/events", addr, 0),
                    _ => head("POST", "/raft/watch", addr, 0),
                };
                if connection.send(request.as_bytes()).await {
                    connection.wait_answer(HOLD).await;
                }
            }
            Attack::OversizedHead => {
                let head = match random.random_range(0..3) {
                    0 => format!(
                        "GET /{} HTTP/1.1\r\nhost: {addr}\r\n\r\n",
                        "x".repeat(1 << 20)
                    ),
                    1 => format!(
                        "GET / HTTP/1.1\r\nhost: {addr}\r\n{}\r\n",
                        "a: b\r\n".repeat(50_000)
                    ),
                    _ => format!(
                        "GET / HTTP/1.1\r\nhost: {addr}\r\na: {}",
                        "y".repeat(1 << 20)
                    ),
                };
                if connection.send(head.as_bytes()).await {
                    connection.wait_answer(ANSWER_TIMEOUT).await;
                }
            }
            Attack::WrongPeer => {
                let paths = [
                    "append",
                    "vote",
                    "hello",
                    "form",
                    "adopt",
                    "transfer",
                    "digest",
                    "clock",
                    "snapshot/offer",
                ];
                let path = format!("/raft/{}", paths[random.random_range(0..paths.len())]);
                let message = peer_message(targets, *id, random);
                let head = head("POST", &path, addr, message.len());
                if connection.send(head.as_bytes()).await && connection.send(&message).await {
                    connection.wait_answer(ANSWER_TIMEOUT).await;
                }
            }
            Attack::Garbage => {
                match random.random_range(0..5) {
                    0 => {
                        let bytes: Vec<u8> = (0..4_096).map(|_| random.random()).collect();
                        connection.send(&bytes).await;
                    }
                    1 => {
                        // The beginning of TLS.
                        connection
                            .send(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])
                            .await;
                    }
                    2 => {
                        let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
                        let body = format!("{{\"tasks\":{deep}}}");
                        connection
                            .send(with_body("POST", "/v1/jobs", addr, &body).as_bytes())
                            .await;
                    }
                    3 => {
                        let body = "{\"tasks\":[{\"kind\":";
                        connection
                            .send(with_body("POST", "/v1/jobs", addr, body).as_bytes())
                            .await;
                        connection.half_close().await;
                    }
                    _ => {
                        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
                    }
                }
                connection.wait_answer(ANSWER_TIMEOUT).await;
            }
        }
    }
}

fn head(method: &str, target: &str, addr: &str, body_bytes: usize) -> String {
    format!("{method} {target} HTTP/1.1\r\nhost: {addr}\r\ncontent-length: {body_bytes}\r\n\r\n")
}

fn with_body(method: &str, target: &str, addr: &str, body: &str) -> String {
    head(method, target, addr, body.len()) + body
}

/// Returns a message with a whole envelope of this cluster, in the name of a master that is none, and random contents.
fn peer_message(targets: &Targets, to: u64, random: &mut StdRng) -> Vec<u8> {
    let uuid = |bytes: [u8; 16]| [&[16][..], &bytes].concat();
    let from: u8 = random.random_range(1..=9);
    let to = u8::try_from(to).expect("few masters");
    let mut message = vec![1];
    message.extend(uuid(targets.cluster));
    message.push(from);
    message.extend(uuid(random.random()));
    message.push(to);
    message.extend(uuid([0; 16]));
    let length = random.random_range(0..2_000);
    message.extend((0..length).map(|_| random.random::<u8>()));
    message
}
