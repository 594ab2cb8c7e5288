//! Listener for one address with two kinds of peers: other nodes, and clients with workers.
//!
//! Connections of other nodes are served on the consensus runtime, all others on the runtime for requests. No flood of
//! requests therefore delays a Raft heartbeat. A connection is classified by the path of its first request, because
//! nodes only ever request `/raft/…`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Uri};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::http::browser_guard;
use crate::server::http::client_address::ClientAddress;
use crate::server::http::connection_bounds::ConnectionBounds;
use crate::server::http::connection_registry::{
    BusyConnection, ConnectionRegistry, OpenClientConnection, TooManyConnections,
};
use crate::server::http::peer_connections::{PeerConnection, PeerConnections};
use crate::server::http::request_metrics::{self, RequestMetrics};
use crate::server::http::slow_client::{InputEnd, RequestInProgress, SlowClientGuard};
use crate::server::protocol::headers::EXECUTED;
use crate::server::protocol::problem::{Code, PROBLEM_JSON, Problem};

/// Minimum age of an unclassified connection that may be closed for a new one.
const UNCLASSIFIED_AGE_MIN: Duration = Duration::from_millis(200);
/// Delay before the acceptor looks for room again.
const UNCLASSIFIED_RETRY_DELAY: Duration = Duration::from_millis(10);
/// Maximum time for the first byte of a connection.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of concurrent rejections with a response; more connections are closed without one.
const REJECTIONS_MAX: usize = 256;
/// Maximum time for one rejection.
const REJECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time for an idle connection to close after it was asked to.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Length of the queue from the acceptor to the runtime for requests.
pub const HANDOFF_QUEUE_LEN: usize = 1_024;
/// Maximum time for a connection to enter that queue before it is closed.
const HANDOFF_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// Minimum time between two log lines about failed accepts.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum length of a request's head in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Number of bytes of a request line that show the beginning of its path.
const PEEK_BYTES: usize = 16;
/// Delay between two peeks at an incomplete request line. It doubles from the minimum to the maximum; then the connection
/// counts as a client's.
const PEEK_DELAY_MIN: Duration = Duration::from_millis(1);
const PEEK_DELAY_MAX: Duration = Duration::from_millis(512);

/// Connections that have not shown what they are, by age.
#[derive(Debug, Default)]
struct Unclassified {
    next_id: u64,
    by_age: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// Entry of an unclassified connection. Removed on drop.
struct UnclassifiedEntry {
    all: Arc<Mutex<Unclassified>>,
    id: u64,
    closed: CancellationToken,
}

impl UnclassifiedEntry {
    fn add(all: &Arc<Mutex<Unclassified>>) -> Self {
        let mut known = all.lock();
        let (id, closed) = (known.next_id, CancellationToken::new());
        known.next_id += 1;
        known.by_age.insert(id, (Instant::now(), closed.clone()));
        drop(known);
        Self {
            all: Arc::clone(all),
            id,
            closed,
        }
    }
}

impl Drop for UnclassifiedEntry {
    fn drop(&mut self) {
        self.all.lock().by_age.remove(&self.id);
    }
}

/// Waits until there is room for one more unclassified connection. A silent one is closed for it, the oldest first.
async fn unclassified_room(all: &Mutex<Unclassified>, max: usize, metrics: &RequestMetrics) {
    loop {
        {
            let mut known = all.lock();
            if known.by_age.len() < max {
                return;
            }
            let oldest = known.by_age.first_entry();
            if let Some(oldest) =
                oldest.filter(|entry| entry.get().0.elapsed() >= UNCLASSIFIED_AGE_MIN)
            {
                oldest.remove().1.cancel();
                metrics.clients.refused.add(1);
                return;
            }
        }
        tokio::time::sleep(UNCLASSIFIED_RETRY_DELAY).await;
    }
}

/// Accepts connections until `stop`. Runs on the consensus runtime; clients' connections go to `clients`.
pub async fn accept(
    listener: TcpListener,
    peers: Router,
    clients: mpsc::Sender<std::net::TcpStream>,
    bounds: ConnectionBounds,
    registry: ConnectionRegistry,
    metrics: Arc<RequestMetrics>,
    stop: CancellationToken,
) {
    let peer_connections = PeerConnections::new(bounds.peers, Arc::clone(&metrics));
    let unclassified = Arc::new(Mutex::new(Unclassified::default()));
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = async {
                unclassified_room(&unclassified, bounds.unclassified, &metrics).await;
                listener.accept().await
            } => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                metrics.accept_errors.add(1);
                let closed_idle = registry.close_idle();
                if logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_INTERVAL) {
                    logged = Some(Instant::now());
                    tracing::warn!(%error, closed_idle, "cannot accept a connection, so idle ones are closed; it is tried again");
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let entry = UnclassifiedEntry::add(&unclassified);
        let (peers, clients, metrics, peer_connections, stop) = (
            peers.clone(),
            clients.clone(),
            Arc::clone(&metrics),
            peer_connections.clone(),
            stop.clone(),
        );
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let peer = tokio::select! {
                peer = tokio::time::timeout(FIRST_BYTE_TIMEOUT, is_peer(&stream)) => peer,
                () = entry.closed.cancelled() => return,
            };
            let peer = match peer {
                Ok(Ok(peer)) => peer,
                // No byte came in time, or the connection is gone.
                Ok(Err(_)) | Err(_) => return,
            };
            if peer {
                drop(entry);
                let connection = peer_connections.open(&stop);
                let _open = metrics.peers.open();
                serve(stream, peers, Remote::Peer(connection), &stop).await;
            } else if let Ok(stream) = stream.into_std() {
                // Simultaneous connections enter the queue one after the other. If it stays full, the connection is closed
                // rather than left waiting unseen.
                let handed_off = tokio::time::timeout(HANDOFF_TIMEOUT, clients.send(stream));
                if !matches!(handed_off.await, Ok(Ok(()))) {
                    metrics.clients.refused.add(1);
                }
                drop(entry);
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
    registry: ConnectionRegistry,
    stop: CancellationToken,
) {
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
        // A connection without an address has ended already.
        let Ok(peer) = stream.peer_addr() else {
            continue;
        };
        let client = ClientAddress::of_peer(peer);
        let connection = match registry.admit(client) {
            Ok(connection) => connection,
            Err(bound) => {
                metrics.clients.refused.add(1);
                // Logged once each time it begins, not once for each of thousands of connections.
                if !std::mem::replace(&mut rejecting, true) {
                    tracing::warn!(%client, ?bound, "too many connections: refusing new ones");
                }
                if let Ok(rejection_permit) = Arc::clone(&rejections).try_acquire_owned() {
                    tokio::spawn(async move {
                        let rejection = reject(stream, bound);
                        let _ = tokio::time::timeout(REJECTION_TIMEOUT, rejection).await;
                        drop(rejection_permit);
                    });
                }
                continue;
            }
        };
        rejecting = false;
        let (clients, metrics, stop) = (clients.clone(), Arc::clone(&metrics), stop.clone());
        open.spawn(async move {
            let _open = metrics.clients.open();
            serve(stream, clients, Remote::Client(Arc::new(connection)), &stop).await;
        });
    }
    open.close();
    open.wait().await;
}

/// Sends a problem, and lingers until the client has read it. Closing on unread bytes would reset the connection and
/// discard the response.
async fn reject(mut stream: TcpStream, bound: TooManyConnections) -> std::io::Result<()> {
    let detail = match bound {
        TooManyConnections::All(max) => {
            format!(
                "{max} connections are open on this node, its limit; use another node, or retry later"
            )
        }
        TooManyConnections::Client(max) => format!(
            "{max} connections from your address are open on this node, its limit for one; close some, use another node, or retry \
             later"
        ),
    };
    let problem = Problem::new(Code::Unavailable, detail);
    let body = problem.to_json().to_string();
    let mut headers = HeaderMap::new();
    browser_guard::harden(&mut headers);
    let hardening: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap_or_default()))
        .collect();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\
         retry-after: 1\r\n{EXECUTED}: no\r\nconnection: close\r\n{hardening}\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut unread = [0; 1_024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// Returns what the end of a client's input means in the middle of this request. A long poll, a stream and a message
/// between nodes end with their client; a short request is answered all the same.
fn input_end(uri: &Uri) -> InputEnd {
    let path = uri.path();
    let held = request_metrics::is_long_poll(uri.query())
        || path.ends_with("/poll")
        || path.starts_with("/raft/")
        || ["/v1/events", "/v1/cluster/backup"].contains(&path);
    match held {
        true => InputEnd::ClientGone,
        false => InputEnd::ClientReads,
    }
}

/// Other end of a connection.
#[derive(Clone)]
enum Remote {
    Client(Arc<OpenClientConnection>),
    Peer(Arc<PeerConnection>),
}

impl Remote {
    /// Returns the token that is cancelled at the stop of this node, and when another connection needs the place.
    fn close_token(&self) -> &CancellationToken {
        match self {
            Remote::Client(client) => client.close_token(),
            Remote::Peer(peer) => peer.close_token(),
        }
    }
}

/// Serves a connection until its end or `stop`, then lets a request in progress finish.
async fn serve(stream: TcpStream, router: Router, remote: Remote, stop: &CancellationToken) {
    let (stream, head_tracker) = SlowClientGuard::new(stream);
    let routes = TowerToHyperService::new(router);
    let tracker = head_tracker.clone();
    let close = remote.close_token().clone();
    let is_peer = matches!(remote, Remote::Peer(_));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let (routes, remote) = (routes.clone(), remote.clone());
        let in_progress = InProgress {
            _request: head_tracker.head_complete(input_end(request.uri())),
            _connection: match &remote {
                Remote::Client(client) => Some(client.busy()),
                Remote::Peer(_) => None,
            },
        };
        async move {
            let response = match remote {
                Remote::Client(client) => {
                    request.extensions_mut().insert(client.client());
                    routes.call(request).await?
                }
                Remote::Peer(peer) => peer.answer(&routes, request).await,
            };
            Ok::<_, Infallible>(response.map(|body| TrackedBody {
                body,
                _in_progress: in_progress,
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = close.cancelled() => {
            if is_peer && !stop.is_cancelled() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            if stop.is_cancelled() {
                connection.await
            } else {
                match tokio::time::timeout(CLOSE_TIMEOUT, connection.as_mut()).await {
                    Ok(ended) => ended,
                    // A part of a head came, and no more.
                    Err(_) if tracker.awaits_head() => return,
                    Err(_) => connection.await,
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended during a request");
    }
}

/// Guards of a request until the last byte of its response is taken.
struct InProgress {
    _request: RequestInProgress,
    _connection: Option<BusyConnection>,
}

/// Response body that holds the guards of its request.
struct TrackedBody {
    body: Body,
    _in_progress: InProgress,
}

impl hyper::body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        hyper::body::Body::poll_frame(Pin::new(&mut self.body), context)
    }

    fn is_end_stream(&self) -> bool {
        hyper::body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than the test takes on any machine, and shorter than a client's timeout.
    const DEADLINE: Duration = Duration::from_secs(4);

    #[tokio::test]
    async fn a_silent_connection_is_closed_for_a_new_one() {
        let metrics = RequestMetrics::default();
        let all = Arc::new(Mutex::new(Unclassified::default()));
        let first = UnclassifiedEntry::add(&all);
        let second = UnclassifiedEntry::add(&all);
        let waited = tokio::time::timeout(DEADLINE, unclassified_room(&all, 2, &metrics)).await;
        assert!(waited.is_ok() && first.closed.is_cancelled() && !second.closed.is_cancelled());
        assert_eq!(metrics.clients.refused.get(), 1);
        drop(second);
        unclassified_room(&all, 1, &metrics).await;
        drop(first);
        assert!(all.lock().by_age.is_empty());
    }

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
            ConnectionBounds::within(CONNECTIONS, 1_024),
            ConnectionRegistry::new(CONNECTIONS, CONNECTIONS, CancellationToken::new()),
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
        let refusal = tokio::spawn(reject(stream, TooManyConnections::All(7)));
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
