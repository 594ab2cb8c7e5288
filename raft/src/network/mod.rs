//! Outgoing messages: one HTTP transport with a lane per kind of traffic, and openraft's network on top of it.

pub(crate) mod append_pipeline;
pub(crate) mod peer_client;
pub(crate) mod snapshot_transfer;
pub(crate) mod transport;
