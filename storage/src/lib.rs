//! Durable storage of one node: identity, write-ahead log with hard state, snapshots. The only crate that names sled.
//!
//! A node's data directory ([`DataDir`]) holds its identity, its Raft log with the vote ([`LogStore`]), and its
//! snapshots ([`SnapshotStore`]). The log is behind a trait with a conformance suite, so that another engine can
//! replace sled. This crate knows neither openraft nor tasks: entries, votes and snapshot contents are bytes to it.
//!
//! # Example
//!
//! ```
//! use std::sync::mpsc;
//!
//! use triarch_storage::{LogPosition, LogRecord, LogStore, SledLog, SledLogOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let position = LogPosition { term: 1, leader: 1, index: 1 };
//! let record = LogRecord { position, payload: "an entry".into() };
//!
//! let log = SledLog::open(&directory.path().join("log"), &SledLogOptions::default())?;
//! let (durable, wait) = mpsc::channel();
//! log.append(vec![record.clone()], Box::new(move |result| drop(durable.send(result))))?;
//! wait.recv()??; // On disk: the entry survives a power cut from here on.
//! log.close()?;
//!
//! let log = SledLog::open(&directory.path().join("log"), &SledLogOptions::default())?;
//! assert_eq!(log.read(1..2, usize::MAX)?, [record]);
//! # log.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! - When a [`Completion`] is called with `Ok`, the write it belongs to survives a power cut.
//! - Any error is final for the node: nothing is retried on a failed fsync.

#[macro_use]
mod mutated;

pub mod contained_panic;
pub mod data_dir;
mod durable;
pub mod error;
/// Entry points for the targets in `fuzz/` only.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod log;
pub mod low_priority;
pub mod metrics;
pub mod sled_log;
pub mod snapshot;
/// Test doubles and the conformance suite, for tests of this crate and, with the feature `testing`, of other crates.
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod write_ops;

pub use data_dir::{ClusterIdentity, DataDir, Identity};
pub use error::{StorageError, is_exhausted};
pub use log::{Completion, LogPosition, LogRecord, LogState, LogStore};
pub use metrics::{Histogram, HistogramSnapshot, LogMetrics};
pub use sled_log::{FreeSpace, FreeSpaceStatus, SledLog, SledLogOptions, SpaceLevel};
pub use snapshot::{SnapshotFile, SnapshotReader, SnapshotReceiver, SnapshotStore, SnapshotWriter};
