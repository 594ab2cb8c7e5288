//! The client library for a Triarch cluster:
//!
//! - the types of its HTTP interface ([`wire`]);
//! - a [`Client`] that finds the leader and retries safely;
//! - the runtime on which a worker is built ([`worker`]).
//!
//! The server uses the same types, so the two cannot diverge. This crate knows nothing of consensus, of the log or of
//! the table; the log has types of its own.

#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod output_tail;
pub mod wire;
pub mod worker;

pub use client::{BackupDownload, Client, ClientOptions, EventStream, parse_masters};
pub use error::{Error, Tried};
pub use worker::{Executor, Outcome, Shutdown, StopReason, TaskContext, WorkerConfig, WorkerError};
