//! The node: its handle, its assembly at start, the server for its peers, and its status.
//!
//! The top folder: it uses every other one, and nothing but the crate's face uses it.

pub(crate) mod handle;
pub(crate) mod peer_server;
mod start;
mod status_report;
