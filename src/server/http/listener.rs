//! One address, two kinds of visitors. Connections of other masters are served on the consensus runtime, everyone
//! else's on the runtime for requests, so that no flood of requests can make a heartbeat wait. A connection is told apart
//! by the path of its first request: masters only ever ask for `/raft/…`.

use std::net::SocketAddr;
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
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::http::request_metrics::Traffic;
use crate::server::http::slow_client::Paced;
use crate::server::protocol::problem::{Code, PROBLEM_JSON, Problem};

/// Connections that have not said yet who they are, or wait to be handed over.
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
/// Connections that the system has made and that wait to be accepted: thousands of workers come at once when a leader is
/// gone, and one that finds no room here tries again only after a second or more.
const BACKLOG: u32 = 16_384;
/// Accepted connections on their way to the runtime for requests.
pub const HANDOVER_MAX: usize = 1_024;
/// How long one may wait for a place among them before it is closed.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(5);
/// Pause after the system refuses to accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Enough of a request line to see the beginning of its path.
const PEEKED_BYTES: usize = 16;
/// Pauses between two looks at a part of a request line grow from the first to the last; then it is no master's.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(512);

/// Listens on the first of the addresses behind `HOST:PORT` that can be had.
pub async fn bind(listen: &str) -> std::io::Result<TcpListener> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "no address has that name");
    for address in tokio::net::lookup_host(listen).await? {
        match bind_to(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_to(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A master that starts again need not wait for connections of the one before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

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
            if peer {
                drop(look);
                match places.try_acquire() {
                    Ok(_place) => {
                        let _open = traffic.peers.open();
                        serve(stream, peers, stop).await;
                    }
                    Err(_) => traffic.peers.refused.add(1),
                }
            } else if let Ok(stream) = stream.into_std() {
                // Many who come at once are taken in one after the other; a runtime for requests that stays full closes
                // the connection rather than letting it wait unseen.
                let handed = tokio::time::timeout(HANDOVER_PATIENCE, clients.send(stream));
                if !matches!(handed.await, Ok(Ok(()))) {
                    traffic.clients.refused.add(1);
                }
                drop(look);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than it takes, whatever else the machine does; and shorter than anybody's patience.
    const DEADLINE: Duration = Duration::from_secs(4);

    #[tokio::test]
    async fn many_who_come_at_once_are_handed_over_one_after_the_other() {
        const COMERS: usize = 50;
        let listener = bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (hand_over, mut streams) = mpsc::channel(1);
        let traffic = Arc::new(Traffic::default());
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(accept(
            listener,
            Router::new(),
            hand_over,
            Arc::clone(&traffic),
            stop.clone(),
        ));
        let mut comers = Vec::new();
        for _ in 0..COMERS {
            let mut comer = TcpStream::connect(address).await.expect("it listens");
            comer
                .write_all(b"GET /healthz HTTP/1.1\r\n")
                .await
                .expect("it is open");
            comers.push(comer);
        }
        for number in 0..COMERS {
            let handed = tokio::time::timeout(DEADLINE, streams.recv()).await;
            assert!(
                matches!(handed, Ok(Some(_))),
                "{number} of {COMERS} were handed over"
            );
        }
        assert_eq!(traffic.clients.refused.get(), 0);
        stop.cancel();
        accepting.await.expect("it ends");
    }
}
