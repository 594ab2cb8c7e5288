//! The node: its handle, its assembly at start, the server for its peers, and its status.
//!
//! This is the top folder: it uses every other one, and only the crate's root uses it.

mod contradiction_check;
pub(crate) mod handle;
pub(crate) mod peer_admission;
mod peer_budget;
mod peer_questions;
pub(crate) mod peer_server;
mod shared;
mod signals;
mod snapshot_receiver;
mod start;
mod status_report;
