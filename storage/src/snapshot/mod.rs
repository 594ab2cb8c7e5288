//! Snapshot files of the state machine, which replace the purged part of the log.
//!
//! A snapshot is written beside, synced, verified by reading it back, renamed, its directory synced, and only then
//! current; the ones before are deleted after that. So after a crash there is the old one or the new one, whole. Every
//! block has a checksum, and a snapshot is read through completely before it is believed.
//!
//! A damaged snapshot is put aside under another name and reported, now and at every later open, since the log it stands
//! for is gone: a node must not start without it as if it had never been there. It is never deleted.
//!
//! What is committed last is current: whoever writes and receives at the same time decides the order. Payload and meta
//! data are bytes to this module.

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
