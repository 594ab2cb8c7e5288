//! Proxies between the masters: each master is known to the others by the address of one, and every connection through it
//! belongs to a link, from the master that asks to the one that is asked.
//!
//! What is held back is not lost: it arrives when the link is healed, as TCP delivers it after a partition. What is late
//! keeps its order. A connection that cannot be passed on is reset, as if nobody listened.

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

/// Proxies listen so much above the masters behind them.
const PROXY_PORT_OFFSET: u64 = 100;
const PIECE_BYTES: usize = 64 << 10;
/// Pieces of one direction of one connection that wait for their delivery.
const PIECES_MAX: usize = 64;
/// For the master behind a proxy to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How late something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkDelay {
    /// Always.
    pub min: Duration,
    /// At most so much more.
    pub jitter: Duration,
}

/// What happens on one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Hold(Severed),
    Delay(LinkDelay),
}

/// By who asks and who is asked; all others pass.
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

/// See the module. Dropping it cuts every connection through it.
pub struct Proxies {
    address: IpAddr,
    board: Arc<Switchboard>,
    listeners: Vec<JoinHandle<()>>,
}

impl Proxies {
    /// Starts a proxy for each of so many masters.
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

    /// Where the masters run and are reached.
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

    /// Holds these back, and nothing else.
    pub fn sever(&self, links: &[Link]) {
        let rule = |link: &Link| ((link.from, link.to), Rule::Hold(link.severed));
        self.set(links.iter().map(rule).collect());
    }

    /// Makes everything between this master and the others late, both ways.
    pub fn delay(&self, master: u64, others: &[u64], late: LinkDelay) {
        let rules = others
            .iter()
            .flat_map(|other| [(master, *other), (*other, master)])
            .map(|link| (link, Rule::Delay(late)));
        self.set(rules.collect());
    }

    /// Pieces that were held back or made late since the last rules.
    pub fn held_back(&self) -> u64 {
        self.board.held_back.load(Ordering::Relaxed)
    }

    /// Everything passes.
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

/// Passes on what comes for one master.
async fn accept(listener: TcpListener, node: u64, to: SocketAddr, board: Arc<Switchboard>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, or a connection that ended before it was taken.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let own = stream.local_addr().unwrap_or(to);
        // Right away: whoever hangs up soon is not found later.
        let owner = board.owners.find(peer, own).unwrap_or_else(|error| {
            panic!("it cannot be told who asks master {node}: {error:#}");
        });
        let from = match owner {
            ConnectionOwner::Master(from) => Some(from),
            ConnectionOwner::Outsider => None,
            // Nobody waits for an answer, and nobody knows whether it may arrive.
            ConnectionOwner::Gone => continue,
        };
        let board = Arc::clone(&board);
        connections
            .spawn(async move { pass(stream, from.map(|from| (from, node)), to, &board).await });
    }
}

/// Passes one connection on, both ways, until either side ends it.
async fn pass(client: TcpStream, link: Option<(u64, u64)>, to: SocketAddr, board: &Switchboard) {
    if let Some(link) = link {
        // A cut network does not tell that nobody is at its other end, and a slow one tells it late.
        wait_open(link, Direction::Request, board).await;
        let rule = board.rules.borrow().get(&link).copied();
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
    let requests = forward(client_read, server_write, link, Direction::Request, board);
    let responses = forward(server_read, client_write, link, Direction::Response, board);
    // An end of the requests leaves the answer to come; a broken connection ends both.
    tokio::pin!(requests, responses);
    tokio::select! {
        whole = &mut requests => if whole { responses.await; },
        whole = &mut responses => if whole { requests.await; },
    }
}

/// Closing it then resets it.
fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let length = std::mem::size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the option is what the pointer points to, and as long as is said.
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

/// One direction of one connection. Whether it came to its end, and did not break.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: Option<(u64, u64)>,
    direction: Direction,
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
            // An empty piece is the end, and is held back and late like any other.
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
                wait_open(link, direction, board).await;
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

/// Waits until bytes of this direction of this link are not held back.
async fn wait_open(link: (u64, u64), direction: Direction, board: &Switchboard) {
    let mut rules = board.rules.subscribe();
    let mut counted = false;
    loop {
        let open = match rules.borrow_and_update().get(&link) {
            None | Some(Rule::Delay(_)) => true,
            Some(Rule::Hold(Severed::Everything)) => false,
            Some(Rule::Hold(Severed::Responses)) => direction == Direction::Request,
        };
        if open {
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
