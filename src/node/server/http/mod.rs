//! HTTP transport: the listener, slow-client protection, the browser guard, checks of requests, admission control, body
//! intake, the client that forwards, and request metrics.
//!
//! # Invariants
//!
//! - Nothing here knows a route, the table or the leader: [`App`](super::App) does not occur.
//! - Every buffer and every queue of connections has a bound; excess is refused at once.

pub mod admission;
pub mod answer_budget;
pub mod body;
pub mod browser_guard;
pub mod client_address;
pub mod connection_bounds;
pub mod connection_registry;
pub mod forward_client;
pub mod listen_address;
pub mod listener;
pub mod peer_connections;
pub mod request_checks;
pub mod request_metrics;
pub mod shared_pool;
pub mod slow_client;
