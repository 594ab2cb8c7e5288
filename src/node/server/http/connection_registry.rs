//! Registry of open client connections: bounds their number, in all and per client, and closes idle ones for new ones.
//!
//! A connection without a request in progress can be closed at no cost to its client. At a bound, the connections that
//! have been idle for the longest are closed, and the new one is accepted. Only if none is idle, the new one is
//! refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::client_address::ClientAddress;

/// Minimum idle time of a connection that may be closed for a new one.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// Share of the open connections that is closed at once at a bound: 1 divided by this, and at least one connection.
const EVICTION_DIVISOR: usize = 64;
/// Connections that may still be closing in addition to the bound, as a share of it: 1 divided by this.
const CLOSING_DIVISOR: usize = 16;

/// Registry of one node.
#[derive(Debug, Clone)]
pub struct ConnectionRegistry(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    max: usize,
    client_max: usize,
    stop: CancellationToken,
    started: Instant,
    open: Mutex<Open>,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    connections: HashMap<u64, Connection>,
    by_client: HashMap<ClientAddress, usize>,
    /// Connections that were asked to close, and have not ended.
    closing: usize,
}

#[derive(Debug)]
struct Connection {
    client: ClientAddress,
    activity: Arc<Activity>,
    close: CancellationToken,
}

/// Requests in progress of one connection.
#[derive(Debug, Default)]
struct Activity {
    in_progress: AtomicUsize,
    /// Time since the start of the registry at which the connection became idle, in ms.
    idle_since_ms: AtomicU64,
}

/// Bound that a new connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooManyConnections {
    /// Bound of the node.
    All(usize),
    /// Bound of the client.
    Client(usize),
}

/// Entry of an open connection. Removed on drop.
#[derive(Debug)]
pub struct OpenClientConnection {
    registry: ConnectionRegistry,
    id: u64,
    client: ClientAddress,
    activity: Arc<Activity>,
    close: CancellationToken,
}

/// Guard of a request in progress on a connection.
#[derive(Debug)]
pub struct BusyConnection {
    registry: ConnectionRegistry,
    activity: Arc<Activity>,
}

impl ConnectionRegistry {
    /// Creates an empty registry with these bounds. All connections are to close at `stop`.
    pub fn new(max: usize, client_max: usize, stop: CancellationToken) -> Self {
        Self(Arc::new(Registry {
            max,
            client_max: client_max.min(max),
            stop,
            started: Instant::now(),
            open: Mutex::default(),
            evicted: AtomicU64::new(0),
        }))
    }

    /// Admits a connection, at the cost of idle ones if need be.
    ///
    /// # Errors
    ///
    /// Fails at a bound if no connection is idle.
    pub fn admit(&self, client: ClientAddress) -> Result<OpenClientConnection, TooManyConnections> {
        let mut open = self.0.open.lock();
        let of_client = open.by_client.get(&client).copied().unwrap_or(0);
        if of_client >= self.0.client_max && self.evict(&mut open, Some(client)) == 0 {
            return Err(TooManyConnections::Client(self.0.client_max));
        }
        let full = open.connections.len() >= self.0.max;
        let closing_max = (self.0.max / CLOSING_DIVISOR).max(1);
        if full && (open.closing > closing_max || self.evict(&mut open, None) == 0) {
            return Err(TooManyConnections::All(self.0.max));
        }
        let id = open.next_id;
        open.next_id += 1;
        let (activity, close) = (Arc::new(Activity::default()), self.0.stop.child_token());
        activity
            .idle_since_ms
            .store(self.now_ms(), Ordering::Relaxed);
        *open.by_client.entry(client).or_default() += 1;
        open.connections.insert(
            id,
            Connection {
                client,
                activity: Arc::clone(&activity),
                close: close.clone(),
            },
        );
        drop(open);
        Ok(OpenClientConnection {
            registry: self.clone(),
            id,
            client,
            activity,
            close,
        })
    }

    /// Closes connections that have been idle for the longest, to make room for descriptors. Returns their number.
    pub fn close_idle(&self) -> usize {
        self.evict(&mut self.0.open.lock(), None)
    }

    fn evict(&self, open: &mut Open, client: Option<ClientAddress>) -> usize {
        let latest_ms = self.now_ms().checked_sub(IDLE_MIN.as_millis() as u64);
        let Some(latest_ms) = latest_ms else { return 0 };
        let mut idle: Vec<(u64, u64)> = open
            .connections
            .iter()
            .filter(|(_, connection)| client.is_none_or(|client| connection.client == client))
            .filter(|(_, connection)| connection.activity.in_progress.load(Ordering::Relaxed) == 0)
            .map(|(id, connection)| {
                let since_ms = connection.activity.idle_since_ms.load(Ordering::Relaxed);
                (since_ms, *id)
            })
            .filter(|(since_ms, _)| *since_ms <= latest_ms)
            .collect();
        idle.sort_unstable();
        idle.truncate((open.connections.len() / EVICTION_DIVISOR).max(1));
        for (_, id) in &idle {
            if let Some(connection) = open.remove(*id) {
                open.closing += 1;
                connection.close.cancel();
            }
        }
        self.0
            .evicted
            .fetch_add(idle.len() as u64, Ordering::Relaxed);
        idle.len()
    }

    /// Returns the number of idle connections that were closed for others.
    pub fn evicted(&self) -> u64 {
        self.0.evicted.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Open {
    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        if let Some(count) = self.by_client.get_mut(&connection.client) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&connection.client);
            }
        }
        Some(connection)
    }
}

impl OpenClientConnection {
    /// Returns the client at the other end.
    pub fn client(&self) -> ClientAddress {
        self.client
    }

    /// Returns the token that is cancelled when the connection must close as soon as it is idle, at `stop` at the latest.
    pub fn close_token(&self) -> &CancellationToken {
        &self.close
    }

    /// Marks a request as in progress until the guard is dropped.
    pub fn busy(&self) -> BusyConnection {
        self.activity.in_progress.fetch_add(1, Ordering::Relaxed);
        BusyConnection {
            registry: self.registry.clone(),
            activity: Arc::clone(&self.activity),
        }
    }
}

impl Drop for OpenClientConnection {
    fn drop(&mut self) {
        let mut open = self.registry.0.open.lock();
        if open.remove(self.id).is_none() {
            open.closing -= 1;
        }
    }
}

impl Drop for BusyConnection {
    fn drop(&mut self) {
        let now_ms = self.registry.now_ms();
        self.activity.idle_since_ms.store(now_ms, Ordering::Relaxed);
        self.activity.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> ClientAddress {
        ClientAddress::of_peer(([10, 0, 0, last], 1).into())
    }

    /// Returns a registry that is old enough for its first connections to count as idle.
    fn registry(max: usize, client_max: usize) -> ConnectionRegistry {
        let mut registry = ConnectionRegistry::new(max, client_max, CancellationToken::new());
        let inner = Arc::get_mut(&mut registry.0).expect("one handle");
        inner.started = Instant::now() - IDLE_MIN * 3;
        registry
    }

    fn make_old(connection: &OpenClientConnection, age: u64) {
        let since_ms = 1_000 - age;
        connection
            .activity
            .idle_since_ms
            .store(since_ms, Ordering::Relaxed);
    }

    #[test]
    fn at_the_bound_the_longest_idle_connection_is_closed_for_a_new_one() {
        let registry = registry(3, 3);
        let open: Vec<_> = (1..=3)
            .map(|last| registry.admit(client(last)).expect("below the bound"))
            .collect();
        // All are new.
        let refused = registry.admit(client(4)).err();
        assert_eq!(refused, Some(TooManyConnections::All(3)));
        for (age, connection) in open.iter().enumerate() {
            make_old(connection, age as u64);
        }
        let busy = open[2].busy();
        let fourth = registry.admit(client(4)).expect("one is idle");
        assert!(open[1].close_token().is_cancelled());
        assert!(!open[0].close_token().is_cancelled());
        assert_eq!(registry.evicted(), 1);
        let fifth = registry.admit(client(5)).expect("one is idle");
        assert!(open[0].close_token().is_cancelled());
        let refused = registry.admit(client(6)).err();
        assert_eq!(refused, Some(TooManyConnections::All(3)));
        drop((busy, open, fourth, fifth));
        let open = registry.0.open.lock();
        assert!(open.connections.is_empty() && open.by_client.is_empty() && open.closing == 0);
    }

    #[test]
    fn a_client_at_its_bound_loses_its_own_idle_connections_only() {
        let registry = registry(10, 2);
        let other = registry.admit(client(1)).expect("below the bound");
        let own = registry.admit(client(2)).expect("below the bound");
        let busy = registry.admit(client(2)).expect("below the bound");
        make_old(&other, 5);
        make_old(&own, 1);
        let guard = busy.busy();
        let next = registry.admit(client(2)).expect("its own idle one goes");
        assert!(own.close_token().is_cancelled() && !other.close_token().is_cancelled());
        let refused = registry.admit(client(2)).err();
        assert_eq!(refused, Some(TooManyConnections::Client(2)));
        drop((guard, next));
    }
}
