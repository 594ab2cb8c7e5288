//! `/v1/events`: the history of the cluster as server-sent events, in log order.
//!
//! # Invariants
//!
//! - Every node serves its own applied history. It is the same everywhere, so the leader is not asked. A reader whose
//!   node has died continues at another one after the last event it received.
//! - Nothing is skipped silently. A reader whose position is no longer kept gets an error.

mod filter;
mod handler;
mod present;
mod stream;

pub use handler::routes;
