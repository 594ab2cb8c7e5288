//! The write-ahead log on sled 0.34.
//!
//! ```text
//! log/            the directory given to SledLog::open
//!   sled/         sled's own files: db, conf, snap.*, blobs/
//!   mark          the high-water mark: the last durable entry and vote
//!   reserve       the emergency reserve: released when the disk is full, so that pending work can finish
//! ```
//!
//! sled is quick, and has three weaknesses:
//!
//! - Its `flush` is no fsync.
//! - It moves large values to files that it never syncs.
//! - After damage it comes back with less than it had, without an error.
//!
//! So this module syncs by itself, with group commit (`sync_thread`). It cuts entries into small chunks linked by a
//! checksum chain (`chunk`). It checks all of it against a high-water mark that sled cannot lose (`high_water_mark`,
//! `recovery`). Nothing is repaired here: a damaged log is refused, and healed by replacing the node.
//!
//! Not here: the meaning of the entries, and snapshots.

mod chunk;
mod emergency_reserve;
mod free_space;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hard_state;
mod high_water_mark;
mod log_view;
mod options;
mod preallocate;
mod recovery;
mod sled_db;
mod store;
mod sync_thread;
mod write_queue;

pub use self::free_space::{FreeSpace, FreeSpaceStatus, SpaceLevel};
pub use self::options::SledLogOptions;
pub use self::store::SledLog;
