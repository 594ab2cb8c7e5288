//! Registry of connections of other nodes: bounds those of strangers, and those of each member.
//!
//! Anyone can connect and request `/raft/…`. A connection is a stranger's until consensus has identified a member by a
//! message on it. At a bound, the oldest connection is closed. A member identifies itself with its first message, so
//! the oldest unidentified connection is hardly ever that of a member. The oldest of a member's connections is often
//! dead.
//!
//! Refusals of strangers are paced: beyond a rate, each is written with a delay. A program that repeats a refused message
//! at once, such as a master of another cluster, then takes little processor time from consensus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use triarch_raft::IdentifiedPeer;

use crate::server::http::browser_guard;
use crate::server::http::request_metrics::RequestMetrics;
use crate::server::http::slow_client::REFUSAL_DELAY;

/// Share of all connections that may be unidentified: 1 divided by this.
const UNIDENTIFIED_DIVISOR: usize = 4;
/// Share of all connections that one member may have: 1 divided by this.
const MEMBER_DIVISOR: usize = 16;

/// Number of refusals of strangers per second that are written at once, and the most at a time. Each refusal beyond is
/// written after [`REFUSAL_DELAY`].
const PROMPT_REFUSALS_PER_S: f64 = 20.0;

/// Registry of one node.
#[derive(Debug, Clone)]
pub struct PeerConnections(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    unidentified_max: usize,
    member_max: usize,
    metrics: Arc<RequestMetrics>,
    open: Mutex<Open>,
    refusal_pace: Mutex<RefusalPace>,
}

/// Token bucket of the refusals that are written at once.
#[derive(Debug)]
struct RefusalPace {
    tokens: f64,
    at: Instant,
}

impl RefusalPace {
    fn new(now: Instant) -> Self {
        Self {
            tokens: PROMPT_REFUSALS_PER_S,
            at: now,
        }
    }

    /// Returns the delay of a refusal at this time.
    fn delay(&mut self, now: Instant) -> Duration {
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * PROMPT_REFUSALS_PER_S;
        self.tokens = (self.tokens + refill).min(PROMPT_REFUSALS_PER_S);
        self.at = now;
        if self.tokens < 1.0 {
            return REFUSAL_DELAY;
        }
        self.tokens -= 1.0;
        Duration::ZERO
    }
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    /// By age, under [`STRANGER`] or the member that was identified.
    by_owner: BTreeMap<u64, BTreeMap<u64, CancellationToken>>,
}

/// Routes between nodes.
pub type PeerRoutes = TowerToHyperService<Router>;

/// Owner of unidentified connections. No node has this id.
const STRANGER: u64 = 0;

/// Entry of an open connection. Removed on drop.
#[derive(Debug)]
pub struct PeerConnection {
    registry: PeerConnections,
    id: u64,
    owner: Mutex<u64>,
    closed: CancellationToken,
}

impl PeerConnections {
    /// Creates a registry for about `max` connections.
    pub fn new(max: usize, metrics: Arc<RequestMetrics>) -> Self {
        Self(Arc::new(Registry {
            unidentified_max: (max / UNIDENTIFIED_DIVISOR).max(1),
            member_max: (max / MEMBER_DIVISOR).max(1),
            metrics,
            open: Mutex::default(),
            refusal_pace: Mutex::new(RefusalPace::new(Instant::now())),
        }))
    }

    /// Registers a new connection, which ends at `stop`. It may take the place of an older one.
    pub fn open(&self, stop: &CancellationToken) -> Arc<PeerConnection> {
        let closed = stop.child_token();
        let id = {
            let mut open = self.0.open.lock();
            open.next_id += 1;
            open.next_id
        };
        self.insert(STRANGER, id, closed.clone());
        Arc::new(PeerConnection {
            registry: self.clone(),
            id,
            owner: Mutex::new(STRANGER),
            closed,
        })
    }

    fn insert(&self, owner: u64, id: u64, closed: CancellationToken) {
        let max = match owner {
            STRANGER => self.0.unidentified_max,
            _ => self.0.member_max,
        };
        let mut open = self.0.open.lock();
        let connections = open.by_owner.entry(owner).or_default();
        connections.insert(id, closed);
        if connections.len() > max
            && let Some((_, oldest)) = connections.pop_first()
        {
            oldest.cancel();
            self.0.metrics.peers.refused.add(1);
        }
    }

    fn remove(&self, owner: u64, id: u64) {
        let mut open = self.0.open.lock();
        if let Some(connections) = open.by_owner.get_mut(&owner) {
            connections.remove(&id);
            if connections.is_empty() {
                open.by_owner.remove(&owner);
            }
        }
    }
}

impl PeerConnection {
    /// Returns the token that is cancelled when another connection has taken the place of this one.
    pub fn close_token(&self) -> &CancellationToken {
        &self.closed
    }

    /// Answers a message by the routes between nodes. A message of a member identifies the connection. One that a browser
    /// sent is refused, whatever its site.
    pub async fn answer(&self, routes: &PeerRoutes, message: Request<Incoming>) -> Response {
        let response = self.judge(routes, message).await;
        if response.status() != StatusCode::OK && *self.owner.lock() == STRANGER {
            let delay = self.registry.0.refusal_pace.lock().delay(Instant::now());
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
        }
        response
    }

    async fn judge(&self, routes: &PeerRoutes, message: Request<Incoming>) -> Response {
        if let Err(problem) = browser_guard::check_peer(message.headers()) {
            return hardened(problem.into_response());
        }
        let Ok(response) = routes.call(message).await;
        if let Some(IdentifiedPeer(member)) = response.extensions().get() {
            self.identify(*member);
        }
        match response.status() {
            StatusCode::OK => response,
            _ => hardened(response),
        }
    }

    fn identify(&self, member: u64) {
        let mut owner = self.owner.lock();
        if *owner == member {
            return;
        }
        self.registry.remove(*owner, self.id);
        *owner = member;
        self.registry.insert(member, self.id, self.closed.clone());
    }
}

fn hardened(mut response: Response) -> Response {
    browser_guard::harden(response.headers_mut());
    response
}

impl Drop for PeerConnection {
    fn drop(&mut self) {
        self.registry.remove(*self.owner.lock(), self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_beyond_the_rate_are_delayed_until_there_were_fewer() {
        let begun = Instant::now();
        let mut pace = RefusalPace::new(begun);
        let prompt = (0..100).filter(|_| pace.delay(begun).is_zero()).count();
        assert_eq!(prompt, PROMPT_REFUSALS_PER_S as usize);
        let later = begun + Duration::from_millis(120);
        let prompt = (0..100).filter(|_| pace.delay(later).is_zero()).count();
        assert_eq!(prompt, 2);
    }

    #[test]
    fn strangers_take_places_from_strangers_only_and_members_from_themselves() {
        let metrics = Arc::new(RequestMetrics::default());
        let registry = PeerConnections::new(32, Arc::clone(&metrics));
        let stop = CancellationToken::new();
        let member = registry.open(&stop);
        member.identify(2);
        let strangers: Vec<_> = (0..9).map(|_| registry.open(&stop)).collect();
        assert!(strangers[0].closed.is_cancelled());
        assert!(strangers[1..].iter().all(|one| !one.closed.is_cancelled()));
        assert!(!member.closed.is_cancelled());
        assert_eq!(metrics.peers.refused.get(), 1);
        let more: Vec<_> = (0..2)
            .map(|_| {
                let one = registry.open(&stop);
                one.identify(2);
                one
            })
            .collect();
        assert!(member.closed.is_cancelled() && !more[0].closed.is_cancelled());
        drop((member, strangers, more));
        assert!(registry.0.open.lock().by_owner.is_empty());
    }
}
