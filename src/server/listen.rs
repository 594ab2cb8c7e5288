//! One address, two kinds of visitors. Connections of other masters are served on the consensus runtime, everyone
//! else's on the runtime for requests, so that no flood of requests can make a heartbeat wait. A connection is told apart
//! by the path of its first request: masters only ever ask for `/raft/…`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::traffic::Traffic;

/// Most connections of clients and workers at once; one more is closed at once.
const CLIENT_CONNECTIONS_MAX: usize = 20_000;
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
    let looking = Arc::new(Semaphore::new(CLIENT_CONNECTIONS_MAX));
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
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CLIENT_CONNECTIONS_MAX));
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
            tracing::warn!(
                bound = CLIENT_CONNECTIONS_MAX,
                "too many connections, closing one"
            );
            continue;
        };
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

async fn serve(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
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
