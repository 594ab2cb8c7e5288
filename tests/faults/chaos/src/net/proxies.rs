//! Proxies between the masters. Each master is known to the others by the address of its proxy. Every connection
//! through a proxy belongs to a link, from the master that sends requests to the master that answers them.
//!
//! Messages that are held back are not lost: they arrive when the link is healed, as TCP delivers them after a
//! partition. Delayed messages keep their order. A connection that cannot be passed on is reset, as if no process
//! listened.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use triarch_harness::NodeAddress;
use triarch_harness::addresses::{PORT_BASE, own_address};

use super::connection_owner::{ConnectionOwner, ConnectionOwners};
use super::{Link, Severed};

/// Difference between the port of a proxy and the port of its master.
const PROXY_PORT_OFFSET: u64 = 100;
const PIECE_BYTES: usize = 64 << 10;
/// Payload of a packet on most networks, in bytes.
const PACKET_BYTES: usize = 1_400;
/// Maximum number of pieces that wait in one direction of one connection.
const PIECES_MAX: usize = 64;
/// Maximum time for the master behind a proxy to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Delay of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkDelay {
    /// Minimum delay.
    pub min: Duration,
    /// Maximum additional delay.
    pub jitter: Duration,
}

/// A network on which some things pass and others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partial {
    /// Requests larger than a packet do not arrive, nor does what follows them on their connection.
    LargeHeld,
    /// New connections are reset at once. Those that exist live on.
    NewRefused,
    /// New connections are taken, and nothing is passed on. Those that exist live on.
    NewHang,
    /// Connections from before this moment pass nothing, and neither side is notified. New ones work.
    OldHeld(Instant),
}

/// Rules for the links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Hold(Severed),
    Delay(LinkDelay),
    Partial(Partial),
}

/// Some bytes of a connection on their way.
#[derive(Debug, Clone, Copy)]
struct Passing {
    direction: Direction,
    bytes: usize,
    /// When the connection was opened.
    opened: Instant,
}

impl Rule {
    /// Returns whether these bytes pass now.
    fn lets_pass(self, piece: Passing) -> bool {
        match self {
            Rule::Delay(_) | Rule::Partial(Partial::NewRefused) => true,
            Rule::Hold(Severed::Everything) => false,
            Rule::Hold(Severed::Responses) => piece.direction == Direction::Request,
            Rule::Partial(Partial::LargeHeld) => {
                piece.direction == Direction::Response || piece.bytes <= PACKET_BYTES
            }
            // An opening has no bytes. The connections that exist are past it.
            Rule::Partial(Partial::NewHang) => piece.bytes > 0,
            Rule::Partial(Partial::OldHeld(since)) => piece.opened > since,
        }
    }
}

/// Rules by sender and receiver of requests. All other links are open.
type Rules = BTreeMap<(u64, u64), Rule>;

/// Direction of the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

#[derive(Debug)]
struct Switchboard {
    rules: watch::Sender<Rules>,
    held_back: AtomicU64,
    owners: ConnectionOwners,
}

/// The proxies of one cluster. Dropping this closes every connection through them.
pub struct Proxies {
    address: IpAddr,
    board: Arc<Switchboard>,
    listeners: Vec<JoinHandle<()>>,
}

impl Proxies {
    /// Starts a proxy for each of this many masters.
    pub async fn start(masters: u64) -> anyhow::Result<Self> {
        let mut proxies = Self {
            address: own_address(),
            board: Arc::new(Switchboard {
                rules: watch::channel(Rules::new()).0,
                held_back: AtomicU64::new(0),
                owners: ConnectionOwners::default(),
            }),
            listeners: Vec::new(),
        };
        for address in (1..=masters).zip(proxies.addresses_of(masters)) {
            let (node, address) = address;
            let listener = TcpListener::bind(address.advertised)
                .await
                .with_context(|| format!("no proxy can listen on {}", address.advertised))?;
            let board = Arc::clone(&proxies.board);
            proxies
                .listeners
                .push(tokio::spawn(accept(listener, node, address.listen, board)));
        }
        Ok(proxies)
    }

    /// Returns the addresses at which the masters run and are reached.
    pub fn addresses(&self) -> Vec<NodeAddress> {
        self.addresses_of(self.listeners.len() as u64)
    }

    fn addresses_of(&self, masters: u64) -> Vec<NodeAddress> {
        let at = |port: u64| SocketAddr::new(self.address, port as u16);
        (1..=masters)
            .map(|node| NodeAddress {
                listen: at(u64::from(PORT_BASE) + node),
                advertised: at(u64::from(PORT_BASE) + PROXY_PORT_OFFSET + node),
                namespace: None,
            })
            .collect()
    }

    fn set(&self, rules: Rules) {
        self.board.held_back.store(0, Ordering::Relaxed);
        self.board.rules.send_replace(rules);
    }

    /// Holds back these directions and opens all others.
    pub fn sever(&self, links: &[Link]) {
        let rule = |link: &Link| ((link.from, link.to), Rule::Hold(link.severed));
        self.set(links.iter().map(rule).collect());
    }

    /// Delays all messages between this master and the others, in both directions.
    pub fn delay(&self, master: u64, others: &[u64], late: LinkDelay) {
        let rules = others
            .iter()
            .flat_map(|other| [(master, *other), (*other, master)])
            .map(|link| (link, Rule::Delay(late)));
        self.set(rules.collect());
    }

    /// Lets only a part of the requests from these masters to the others pass.
    pub fn let_pass_in_part(&self, askers: &[u64], masters: &[u64], partial: Partial) {
        let links = askers.iter().flat_map(|from| {
            let others = masters.iter().filter(move |to| *to != from);
            others.map(move |to| (*from, *to))
        });
        self.set(links.map(|link| (link, Rule::Partial(partial))).collect());
    }

    /// Returns the number of pieces that were held back or delayed since the last change of rules.
    pub fn held_back(&self) -> u64 {
        self.board.held_back.load(Ordering::Relaxed)
    }

    /// Opens all links.
    pub fn heal(&self) {
        self.board.rules.send_replace(Rules::new());
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        for proxy in &self.listeners {
            proxy.abort();
        }
    }
}

/// Accepts the connections for one master and passes them on.
async fn accept(listener: TcpListener, node: u64, to: SocketAddr, board: Arc<Switchboard>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, peer)) = listener.accept().await else {
            // No descriptors are left, or the connection ended before it was accepted.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let own = stream.local_addr().unwrap_or(to);
        // At once, because the owner of a socket cannot be found after it has closed the socket.
        let owner = board.owners.find(peer, own).unwrap_or_else(|error| {
            panic!("it cannot be told who asks master {node}: {error:#}");
        });
        let from = match owner {
            ConnectionOwner::Master(from) => Some(from),
            ConnectionOwner::Outsider => None,
            // The connection is closed, and an answer on it cannot be delivered.
            ConnectionOwner::Gone => continue,
        };
        let board = Arc::clone(&board);
        connections
            .spawn(async move { pass(stream, from.map(|from| (from, node)), to, &board).await });
    }
}

/// Passes one connection on, in both directions, until either side ends it.
async fn pass(client: TcpStream, link: Option<(u64, u64)>, to: SocketAddr, board: &Switchboard) {
    let opened = Instant::now();
    if let Some(link) = link {
        // A cut network hides that the receiver does not listen, and a slow one reports it late.
        let opening = Passing {
            direction: Direction::Request,
            bytes: 0,
            opened,
        };
        wait_open(link, opening, board).await;
        let rule = board.rules.borrow().get(&link).copied();
        if rule == Some(Rule::Partial(Partial::NewRefused)) {
            board.held_back.fetch_add(1, Ordering::Relaxed);
            reset(&client);
            return;
        }
        if let Some(Rule::Delay(late)) = rule {
            board.held_back.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(late.min).await;
        }
    }
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await;
    let Ok(Ok(server)) = connected else {
        reset(&client);
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let direction = Direction::Request;
    let requests = forward(client_read, server_write, link, direction, opened, board);
    let direction = Direction::Response;
    let responses = forward(server_read, client_write, link, direction, opened, board);
    // After the end of the requests, the answer may still come. A broken connection ends both directions.
    tokio::pin!(requests, responses);
    tokio::select! {
        whole = &mut requests => if whole { responses.await; },
        whole = &mut responses => if whole { requests.await; },
    }
}

/// Makes the close of the connection a reset.
fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let length = std::mem::size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the pointer points to the option, and the length is that of the option.
    unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(stream),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        );
    }
}

/// Passes on one direction of one connection. Returns whether it reached its end without an error.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: Option<(u64, u64)>,
    direction: Direction,
    opened: Instant,
    board: &Switchboard,
) -> bool {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        let mut last = Instant::now();
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let Ok(bytes) = from.read(&mut piece).await else {
                return false;
            };
            piece.truncate(bytes);
            let rule = link.and_then(|link| board.rules.borrow().get(&link).copied());
            if let Some(Rule::Delay(late)) = rule {
                board.held_back.fetch_add(1, Ordering::Relaxed);
                let more = rand::rng().random_range(Duration::ZERO..=late.jitter);
                last = last.max(Instant::now() + late.min + more);
            }
            // An empty piece is the end of the stream. It is held back and delayed like any other.
            if sender.send((last, piece)).await.is_err() {
                return false;
            }
            if bytes == 0 {
                return true;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if let Some(link) = link {
                let piece = Passing {
                    direction,
                    bytes: piece.len().max(1),
                    opened,
                };
                wait_open(link, piece, board).await;
            }
            if piece.is_empty() {
                return to.shutdown().await.is_ok();
            }
            if to.write_all(&piece).await.is_err() {
                return false;
            }
        }
        false
    };
    let (whole, passed) = tokio::join!(read, write);
    whole && passed
}

/// Waits until these bytes are not held back on this link.
async fn wait_open(link: (u64, u64), piece: Passing, board: &Switchboard) {
    let mut rules = board.rules.subscribe();
    let mut counted = false;
    loop {
        let rule = rules.borrow_and_update().get(&link).copied();
        if rule.is_none_or(|rule| rule.lets_pass(piece)) {
            return;
        }
        if !counted {
            board.held_back.fetch_add(1, Ordering::Relaxed);
            counted = true;
        }
        if rules.changed().await.is_err() {
            return;
        }
    }
}
