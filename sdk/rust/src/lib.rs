//! What programs need to talk to a Triarch cluster: the types of its HTTP interface ([`wire`]), a [`Client`] that finds
//! the leader and retries safely, and the runtime a worker is built on.
//!
//! The server uses the very same types, so the two cannot drift apart. What this crate deliberately does not do: it
//! knows nothing of consensus, of the log or of how the table is kept; types that live in the log are other types.

#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod output_tail;
pub mod wire;
pub mod worker;

pub use client::{BackupDownload, Client, ClientOptions, EventStream, parse_masters};
pub use error::{Error, Tried};
pub use worker::{Executor, Outcome, Shutdown, StopReason, TaskContext, WorkerConfig, WorkerError};
