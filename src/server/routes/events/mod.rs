//! `/v1/events`: the history of the cluster as server-sent events, in log order.
//!
//! # Invariants
//!
//! - Every node serves its own applied history. It is the same everywhere, so nothing is asked of the leader, and a reader
//!   whose node has died continues at another one after the last event it got.
//! - Nothing is skipped silently: a reader whose position is no longer kept is told so.

mod filter;
mod handler;
mod present;
mod stream;

pub use handler::routes;
