//! One address, two kinds of visitors. Connections of other masters are served on the consensus runtime, everyone
//! else's on the runtime for requests, so that no flood of requests can make a heartbeat wait. A connection is told apart
//! by the path of its first request: masters only ever ask for `/raft/…`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
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

use super::paced::Paced;
use super::problem::{Code, PROBLEM_JSON, Problem};
use super::traffic::Traffic;

/// Connections that have not said yet who they are.
const NEW_CONNECTIONS_MAX: usize = 20_000;
/// File descriptors that are kept for other masters, the log, and this node's own requests.
const FILES_KEPT: u64 = 512;
/// Connections that are told at once why they are refused; others are only closed.
const REFUSALS_MAX: usize = 256;
/// How long it may take to tell one.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
/// Most connections of other masters at once.
const PEER_CONNECTIONS_MAX: usize = 1_000;
/// How long a connection may stay without a request: before its first, and between two.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Accepted connections on their way to the runtime for requests.
pub const HANDOVER_MAX: usize = 1_024;
/// Pause after the system refuses to accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Enough of a request line to see the beginning of its path.
const PEEKED_BYTES: usize = 16;
/// Pauses between two looks at a part of a request line grow from the first to the last; then it is no master's.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(512);

/// Accepts until told to stop. Runs on the consensus runtime; clients' connections go to `clients`.
pub async fn accept(
    listener: TcpListener,
    peers: Router,
    clients: mpsc::Sender<std::net::TcpStream>,
    traffic: Arc<Traffic>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(PEER_CONNECTIONS_MAX));
    let looking = Arc::new(Semaphore::new(NEW_CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(look) = Arc::clone(&looking).try_acquire_owned() else {
            traffic.clients.refused.add(1);
            tracing::warn!("too many new connections at once, closing one");
            continue;
        };
        let (peers, clients, traffic, places, stop) = (
            peers.clone(),
            clients.clone(),
            Arc::clone(&traffic),
            Arc::clone(&places),
            stop.clone(),
        );
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let peer = match tokio::time::timeout(IDLE_MAX, is_peer(&stream)).await {
                Ok(Ok(peer)) => peer,
                // Nothing came, or it is gone.
                Ok(Err(_)) | Err(_) => return,
            };
            drop(look);
            if peer {
                match places.try_acquire() {
                    Ok(_place) => {
                        let _open = traffic.peers.open();
                        serve(stream, peers, stop).await;
                    }
                    Err(_) => traffic.peers.refused.add(1),
                }
            } else if let Ok(stream) = stream.into_std() {
                // A full runtime for requests closes the connection rather than letting it wait unseen.
                if clients.try_send(stream).is_err() {
                    traffic.clients.refused.add(1);
                }
            }
        });
    }
}

/// Whether the first request on this connection is another master's. Reads nothing away.
async fn is_peer(stream: &TcpStream) -> std::io::Result<bool> {
    let mut seen = [0; PEEKED_BYTES];
    let mut pause = FIRST_PAUSE;
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
        if count == PEEKED_BYTES || pause > LAST_PAUSE {
            return Ok(false);
        }
        // Part of a request line: rare, and soon followed by the rest. Not always: who sent it may have hung up, and
        // peeking cannot tell that from silence, so it is not looked at for long.
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// Serves clients' connections until `stop`, then lets those in the middle of a request finish.
pub async fn serve_clients(
    mut streams: mpsc::Receiver<std::net::TcpStream>,
    clients: Router,
    traffic: Arc<Traffic>,
    connections_max: usize,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut refused_before = false;
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
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            traffic.clients.refused.add(1);
            // Once for each time that it happens, not for each of thousands.
            if !std::mem::replace(&mut refused_before, true) {
                tracing::warn!(
                    bound = connections_max,
                    "too many connections: refusing more"
                );
            }
            if let Ok(turn) = Arc::clone(&refusals).try_acquire_owned() {
                tokio::spawn(async move {
                    let refusal = refuse(stream, connections_max);
                    let _ = tokio::time::timeout(REFUSAL_MAX, refusal).await;
                    drop(turn);
                });
            }
            continue;
        };
        refused_before = false;
        let (clients, traffic, stop) = (clients.clone(), Arc::clone(&traffic), stop.clone());
        open.spawn(async move {
            let _open = traffic.clients.open();
            serve(stream, clients, stop).await;
            drop(place);
        });
    }
    open.close();
    open.wait().await;
}

/// Says why, and sees to it that it is heard: a connection that is closed on bytes that nobody has read takes what was
/// said along.
async fn refuse(mut stream: TcpStream, connections_max: usize) -> std::io::Result<()> {
    let problem = Problem::new(
        Code::Unavailable,
        format!(
            "{connections_max} connections are open on this node; ask another node, or retry later"
        ),
    );
    let body = problem.to_json().to_string();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut unread = [0; 1_024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// How many connections of clients there can be, given how many file descriptors the system lets this process have; asks
/// for as many as it may.
pub fn connections_possible(wanted: usize) -> usize {
    let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let needed = (wanted as u64).saturating_add(FILES_KEPT).min(most);
    let files = if now >= needed || setrlimit(Resource::RLIMIT_NOFILE, needed, most).is_err() {
        now
    } else {
        needed
    };
    let possible = files.saturating_sub(FILES_KEPT).max(files / 2);
    let possible = usize::try_from(possible).unwrap_or(usize::MAX);
    if possible < wanted {
        tracing::warn!(
            wanted,
            possible,
            "the system lets this process open {files} files (ulimit -n), so it takes fewer connections"
        );
    }
    wanted.min(possible)
}

async fn serve(stream: TcpStream, router: Router, stop: CancellationToken) {
    let (stream, heads) = Paced::new(stream);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, heads) = (router.clone(), heads.clone());
        async move {
            let _reading = heads.pause();
            router.call(request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
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
        tracing::debug!(%error, "a connection ended in the middle");
    }
}
