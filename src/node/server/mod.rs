//! Server process of one node: the replicated log, the table it drives, and the HTTP interface over them.
//!
//! # Layers
//!
//! - `run` starts and stops the process; `router` joins routes and middleware.
//! - `leader_proxy` is the reverse proxy to the leader; `routes` hold the handlers.
//! - `app` is the state they share.
//! - `memory_limit` derives bounds from the memory of the process.
//! - `http` (transport) and `protocol` (formats) know neither routes nor application state.
//!
//! Imports point downwards only.

mod app;
mod http;
mod leader_proxy;
pub mod memory_limit;
mod options;
pub(crate) mod protocol;
mod router;
mod routes;
mod run;

pub use memory_limit::MemoryBounds;
pub use options::{ServerLimits, ServerOptions, Timing};
pub use run::run;
