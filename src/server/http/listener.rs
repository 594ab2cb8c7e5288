//! Listener for one address with two kinds of peers: other nodes, and clients with workers.
//!
//! Connections of other nodes are served on the consensus runtime, all others on the runtime for requests. No flood of
//! requests therefore delays a Raft heartbeat. A connection is classified by the path of its first request, because
//! nodes only ever request `/raft/…`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::http::browser_guard;
use crate::server::http::request_metrics::RequestMetrics;
use crate::server::http::slow_client::SlowClientGuard;
use crate::server::protocol::problem::{Code, PROBLEM_JSON, Problem};

/// Maximum number of connections that are not classified yet or wait to be handed off.
const UNCLASSIFIED_CONNECTIONS_MAX: usize = 20_000;
/// File descriptors reserved for other nodes, the log, and this node's own requests.
const RESERVED_FILE_DESCRIPTORS: u64 = 512;
/// Maximum number of concurrent rejections with a response; more connections are closed without one.
const REJECTIONS_MAX: usize = 256;
/// Maximum time for one rejection.
const REJECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of open connections of other nodes.
const PEER_CONNECTIONS_MAX: usize = 1_000;
/// Maximum time without a request, before the first and between two.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Length of the queue from the acceptor to the runtime for requests.
pub const HANDOFF_QUEUE_LEN: usize = 1_024;
/// Maximum time for a connection to enter that queue before it is closed.
const HANDOFF_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Number of bytes of a request line that show the beginning of its path.
const PEEK_BYTES: usize = 16;
/// Delay between two peeks at an incomplete request line. It doubles from the minimum to the maximum; then the connection
/// counts as a client's.
const PEEK_DELAY_MIN: Duration = Duration::from_millis(1);
const PEEK_DELAY_MAX: Duration = Duration::from_millis(512);

/// Accepts connections until `stop`. Runs on the consensus runtime; clients' connections go to `clients`.
pub async fn accept(
    listener: TcpListener,
    peers: Router,
    clients: mpsc::Sender<std::net::TcpStream>,
    metrics: Arc<RequestMetrics>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(PEER_CONNECTIONS_MAX));
    let unclassified = Arc::new(Semaphore::new(UNCLASSIFIED_CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let Ok(unclassified_permit) = Arc::clone(&unclassified).try_acquire_owned() else {
            metrics.clients.refused.add(1);
            tracing::warn!("too many new connections at once, closing one");
            continue;
        };
        let (peers, clients, metrics, permits, stop) = (
            peers.clone(),
            clients.clone(),
            Arc::clone(&metrics),
            Arc::clone(&permits),
            stop.clone(),
        );
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let peer = match tokio::time::timeout(IDLE_TIMEOUT, is_peer(&stream)).await {
                Ok(Ok(peer)) => peer,
                // No byte came in time, or the connection is gone.
                Ok(Err(_)) | Err(_) => return,
            };
            if peer {
                drop(unclassified_permit);
                match permits.try_acquire() {
                    Ok(_permit) => {
                        let _open = metrics.peers.open();
                        serve(stream, peers, stop).await;
                    }
                    Err(_) => metrics.peers.refused.add(1),
                }
            } else if let Ok(stream) = stream.into_std() {
                // Simultaneous connections enter the queue one after the other. If it stays full, the connection is closed
                // rather than left waiting unseen.
                let handed_off = tokio::time::timeout(HANDOFF_TIMEOUT, clients.send(stream));
                if !matches!(handed_off.await, Ok(Ok(()))) {
                    metrics.clients.refused.add(1);
                }
                drop(unclassified_permit);
            }
        });
    }
}

/// Returns whether the first request on this connection comes from another node. Only peeks, so the bytes stay unread.
async fn is_peer(stream: &TcpStream) -> std::io::Result<bool> {
    let mut seen = [0; PEEK_BYTES];
    let mut delay = PEEK_DELAY_MIN;
    loop {
        let count = stream.peek(&mut seen).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = &seen[..count];
        if let Some(space) = line.iter().position(|byte| *byte == b' ') {
            let path = &line[space + 1..];
            let prefix = b"/raft/";
            if path.len() >= prefix.len() || !prefix.starts_with(path) {
                return Ok(path.starts_with(prefix));
            }
        }
        if count == PEEK_BYTES || delay > PEEK_DELAY_MAX {
            return Ok(false);
        }
        // Only part of a request line has arrived. That is rare, and the rest mostly follows soon. The wait is bounded
        // because a peek cannot distinguish a peer that hung up from a silent one.
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
}

/// Serves clients' connections until `stop`, then lets those in the middle of a request finish.
pub async fn serve_clients(
    mut streams: mpsc::Receiver<std::net::TcpStream>,
    clients: Router,
    metrics: Arc<RequestMetrics>,
    connections_max: usize,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(connections_max));
    let rejections = Arc::new(Semaphore::new(REJECTIONS_MAX));
    let mut rejecting = false;
    let open = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            stream = streams.recv() => stream,
        };
        let Some(stream) = stream else { break };
        let Ok(stream) = TcpStream::from_std(stream) else {
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            metrics.clients.refused.add(1);
            // Logged once each time it begins, not once for each of thousands of connections.
            if !std::mem::replace(&mut rejecting, true) {
                tracing::warn!(
                    bound = connections_max,
                    "too many connections: refusing new ones"
                );
            }
            if let Ok(rejection_permit) = Arc::clone(&rejections).try_acquire_owned() {
                tokio::spawn(async move {
                    let rejection = reject(stream, connections_max);
                    let _ = tokio::time::timeout(REJECTION_TIMEOUT, rejection).await;
                    drop(rejection_permit);
                });
            }
            continue;
        };
        rejecting = false;
        let (clients, metrics, stop) = (clients.clone(), Arc::clone(&metrics), stop.clone());
        open.spawn(async move {
            let _open = metrics.clients.open();
            serve(stream, clients, stop).await;
            drop(permit);
        });
    }
    open.close();
    open.wait().await;
}

/// Sends a problem, and lingers until the client has read it. Closing on unread bytes would reset the connection and
/// discard the response.
async fn reject(mut stream: TcpStream, connections_max: usize) -> std::io::Result<()> {
    let problem = Problem::new(
        Code::Unavailable,
        format!(
            "{connections_max} connections are open on this node, its limit; use another node, or retry later"
        ),
    );
    let body = problem.to_json().to_string();
    let mut headers = HeaderMap::new();
    browser_guard::harden(&mut headers);
    let hardening: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap_or_default()))
        .collect();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n{hardening}\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut unread = [0; 1_024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// Returns the maximum number of client connections within the file descriptor limit, after raising it as far as
/// allowed.
pub fn client_connections_max(wanted: usize) -> usize {
    let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let needed = (wanted as u64)
        .saturating_add(RESERVED_FILE_DESCRIPTORS)
        .min(most);
    let files = if now >= needed || setrlimit(Resource::RLIMIT_NOFILE, needed, most).is_err() {
        now
    } else {
        needed
    };
    let possible = files
        .saturating_sub(RESERVED_FILE_DESCRIPTORS)
        .max(files / 2);
    let possible = usize::try_from(possible).unwrap_or(usize::MAX);
    if possible < wanted {
        tracing::warn!(
            wanted,
            possible,
            "this process may open only {files} files (ulimit -n), so it accepts fewer connections; raise the limit"
        );
    }
    wanted.min(possible)
}

async fn serve(stream: TcpStream, router: Router, stop: CancellationToken) {
    let (stream, head_tracker) = SlowClientGuard::new(stream);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, head_tracker) = (router.clone(), head_tracker.clone());
        async move {
            let _in_progress = head_tracker.head_complete();
            router.call(request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended during a request");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than the test takes on any machine, and shorter than a client's timeout.
    const DEADLINE: Duration = Duration::from_secs(4);

    #[tokio::test]
    async fn simultaneous_connections_are_all_handed_off_when_the_queue_is_short() {
        const CONNECTIONS: usize = 50;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (hand_off, mut streams) = mpsc::channel(1);
        let metrics = Arc::new(RequestMetrics::default());
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(accept(
            listener,
            Router::new(),
            hand_off,
            Arc::clone(&metrics),
            stop.clone(),
        ));
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = TcpStream::connect(address).await.expect("it listens");
            connection
                .write_all(b"GET /healthz HTTP/1.1\r\n")
                .await
                .expect("it is open");
            connections.push(connection);
        }
        for number in 0..CONNECTIONS {
            let handed_off = tokio::time::timeout(DEADLINE, streams.recv()).await;
            assert!(
                matches!(handed_off, Ok(Some(_))),
                "{number} of {CONNECTIONS} were handed off"
            );
        }
        assert_eq!(metrics.clients.refused.get(), 0);
        stop.cancel();
        accepting.await.expect("it ends");
    }

    #[tokio::test]
    async fn a_refused_connection_gets_the_cause_and_hardened_headers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut client = TcpStream::connect(address).await.expect("it listens");
        let (stream, _) = listener.accept().await.expect("a connection");
        let refusal = tokio::spawn(reject(stream, 7));
        let mut answer = vec![0; 4_096];
        let mut length = 0;
        let read = async {
            while length < answer.len() {
                match client.read(&mut answer[length..]).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => length += count,
                }
            }
        };
        tokio::time::timeout(DEADLINE, read).await.expect("an end");
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        for part in [
            "HTTP/1.1 503",
            "x-content-type-options: nosniff\r\n",
            "cache-control: no-store\r\n",
            "content-security-policy: frame-ancestors 'none'\r\n",
            "7 connections are open",
        ] {
            assert!(answer.contains(part), "{part}: {answer}");
        }
        drop(client);
        let _ = refusal.await;
    }
}
