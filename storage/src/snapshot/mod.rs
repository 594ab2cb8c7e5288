//! Snapshot files of the state machine, which replace the purged part of the log.
//!
//! A snapshot is written under a temporary name, synced, and verified by reading it back. It is then renamed, and its
//! directory synced. Only then is it current, and the snapshots before it are deleted. So a crash leaves the old one or
//! the new one, whole. Every block has a checksum, and a snapshot is read completely before it is used.
//!
//! A damaged snapshot is renamed and reported, now and at every later open, and never deleted. The log it replaced is
//! gone, so a node must not start as if the snapshot had never existed.
//!
//! The snapshot committed last is current. A caller that writes and receives at the same time decides the order.
//! Payload and meta data are bytes to this module.

mod file;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod store;
mod unfinished;
mod writer;

pub use self::file::{SnapshotFile, SnapshotReader};
pub use self::store::SnapshotStore;
pub use self::writer::{SnapshotReceiver, SnapshotWriter};
