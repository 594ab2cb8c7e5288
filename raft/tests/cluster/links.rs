//! Links between nodes that a test can cut, for some senders and in one direction or both.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Fate of a sender's bytes. A cut link keeps its connections, so neither side notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Requests do not arrive.
    Requests,
    /// Requests arrive; answers do not come back.
    Answers,
    /// Log entries and their probes do not arrive. All other messages do, heartbeats too.
    Entries,
    /// Messages larger than a packet do not arrive, on any connection.
    Large,
    /// New connections are refused. Those that exist live on.
    NewConnections,
}

/// Payload of a packet on most networks, in bytes.
const PACKET_BYTES: usize = 1_400;
/// Beginning of a request with entries.
const APPEND_REQUEST: &[u8] = b"POST /raft/append ";
const READ_BYTES: usize = 64 << 10;

impl Cut {
    fn concerns(self, direction: Direction, lane: Lane, bytes: &[u8]) -> bool {
        match self {
            Cut::Large => direction == Direction::There && bytes.len() > PACKET_BYTES,
            Cut::NewConnections => false,
            Cut::Requests => direction == Direction::There,
            Cut::Answers => direction == Direction::Back,
            // A connection for entries may begin with an append that has none.
            Cut::Entries => {
                direction == Direction::There
                    && (lane == Lane::Entries || bytes.starts_with(APPEND_REQUEST))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    There,
    Back,
}

/// Purpose of a connection. Nodes have a separate one for log entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Entries,
    Other,
}

/// Identity of a connection, read from the first message on it.
#[derive(Clone, Copy)]
struct Connection {
    sender: u64,
    lane: Lane,
}

type Cuts = Arc<Mutex<HashMap<u64, Cut>>>;

/// Forwards from the address that others know to the one where the node really listens.
pub struct Link {
    pub behind: SocketAddr,
    cuts: Cuts,
    runtime: Option<Runtime>,
}

impl Link {
    pub fn listen(addr: SocketAddr, behind: SocketAddr) -> Link {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let cuts = Cuts::default();
        let rules = Arc::clone(&cuts);
        let listener = runtime.block_on(TcpListener::bind(addr)).unwrap();
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(forward(near, behind, Arc::clone(&rules)));
            }
        });
        Link {
            behind,
            cuts,
            runtime: Some(runtime),
        }
    }

    pub fn cut(&self, sender: u64, cut: Cut) {
        self.cuts.lock().insert(sender, cut);
    }

    pub fn heal(&self) {
        self.cuts.lock().clear();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn forward(mut near: TcpStream, behind: SocketAddr, cuts: Cuts) {
    let mut first = Vec::new();
    let connection = loop {
        if let Some(sender) = sender_of(&first) {
            let is_entries = first.starts_with(APPEND_REQUEST) || is_append_probe(&first);
            let lane = match is_entries {
                true => Lane::Entries,
                false => Lane::Other,
            };
            break Connection { sender, lane };
        }
        if near.read_buf(&mut first).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let cut = cuts.lock().get(&connection.sender).copied();
    if cut == Some(Cut::NewConnections) {
        return;
    }
    // If no process listens, the connection ends, as a refused one would.
    let Ok(far) = TcpStream::connect(behind).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let requests = pump(
        near_in,
        far_out,
        first,
        connection,
        Direction::There,
        Arc::clone(&cuts),
    );
    let answers = pump(
        far_in,
        near_out,
        Vec::new(),
        connection,
        Direction::Back,
        cuts,
    );
    // When one side closes, so does the other, unless the link is cut. Then neither side notices.
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}

/// Moves bytes. Bytes that meet a cut are lost for good, so the rest of the connection makes no sense.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    first: Vec<u8>,
    connection: Connection,
    direction: Direction,
    cuts: Cuts,
) {
    let mut bytes = first;
    let mut lost = false;
    loop {
        let cut = cuts.lock().get(&connection.sender).copied();
        lost |= !bytes.is_empty()
            && cut.is_some_and(|cut| cut.concerns(direction, connection.lane, &bytes));
        if !lost && to.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
        // As much as there is, so that a large message is seen to be one.
        bytes.reserve(READ_BYTES);
        if from.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            if lost {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            return;
        }
    }
}

/// Returns the sender, from the first message on a connection: version, cluster (a length and 16 bytes), then the
/// sender's id.
fn sender_of(request: &[u8]) -> Option<u64> {
    let head_end = request
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?
        + 4;
    let id = *request.get(head_end + 1 + 17)?;
    assert!((1..0x80).contains(&id), "not a node's id: {id}");
    Some(u64::from(id))
}

/// Returns whether a connection begins with a padded probe. The same question without padding goes over another one.
fn is_append_probe(request: &[u8]) -> bool {
    let head = String::from_utf8_lossy(request);
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.trim().parse::<usize>().ok());
    head.starts_with("POST /raft/append-probe ") && length > Some(PACKET_BYTES)
}
