//! HTTP transport: the listener, slow-client protection, the browser guard, admission control, body intake and request
//! metrics.
//!
//! # Invariants
//!
//! - Nothing here knows a route, the table or the leader: [`App`](super::App) does not occur.
//! - Every buffer and every queue of connections has a bound; excess is refused at once.

pub mod admission;
pub mod body;
pub mod browser_guard;
pub mod listen_address;
pub mod listener;
pub mod request_metrics;
pub mod slow_client;
