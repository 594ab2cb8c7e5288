//! The contract of a log engine: a write-ahead log of Raft entries, with the hard state beside them.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::StorageError;

/// A log id: the term and node of the leader that made the entry, and its index.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogPosition {
    /// The term the entry was made in.
    pub term: u64,
    /// The node that led that term.
    pub leader: u64,
    /// Its place in the log, counted from 0.
    pub index: u64,
}

/// One entry. The payload is opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it stands.
    pub position: LogPosition,
    /// What it says, as the caller encoded it.
    pub payload: Bytes,
}

/// What the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogState {
    /// The last entry that was purged (inclusive); the log begins after it.
    pub purged: Option<LogPosition>,
    /// The last entry, or `purged` when there is none.
    pub last: Option<LogPosition>,
}

/// Called exactly once, from the sync thread, when what it stands for is on disk, or cannot be. Must not block.
pub type Completion = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// The log and the hard state (vote, purged and committed positions) of one node. All methods are quick and may be called from an async task:
/// they change what readers see at once and hand the disk work to one sync thread, in the order of the calls.
///
/// "Quick" has one exception: an engine bounds what waits for its disk, and a caller that would pass the bound waits for
/// the sync thread. That thread waits for no caller, so completions must not block.
///
/// What no Raft asks for is a bug and panics: an append that leaves a hole, a truncation that crosses what was purged, a
/// truncation or a purge that names another entry than the one held at its index. An empty log that was never purged
/// may begin at any index.
///
/// Order: writes (append, vote, truncate) become durable in the order they were called, and a completion implies
/// that everything before it is durable too. After the first error every later call and completion fails with
/// [`StorageError::Stopped`].
pub trait LogStore: Send + Sync + 'static {
    /// What the log holds, unsynced entries included.
    fn state(&self) -> LogState;
    /// Appends consecutive entries, readable when this returns, durable when `done` is called with `Ok`.
    fn append(&self, records: Vec<LogRecord>, done: Completion) -> Result<(), StorageError>;
    /// Removes every entry after `last` (exclusive; `None` removes all). Durable when `done` is called; ordered before
    /// any later append. Never crosses `purged`.
    fn truncate_after(
        &self,
        last: Option<LogPosition>,
        done: Completion,
    ) -> Result<(), StorageError>;
    /// Forgets entries up to `upto` (inclusive): the purged position first, durably, the deletion in the background.
    fn purge(&self, upto: LogPosition, done: Completion) -> Result<(), StorageError>;
    /// The entries of `range` that the log holds, in order and without holes, stopping early once `bytes_max` payload
    /// bytes are reached (but returning at least one entry if there is one). Recent entries come from memory.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogRecord>, StorageError>;
    /// Replaces the vote (opaque). Durable when `done` is called; same queue and order as appends.
    fn save_vote(&self, vote: Bytes, done: Completion) -> Result<(), StorageError>;
    /// The last vote given to [`LogStore::save_vote`], durable or not.
    fn vote(&self) -> Option<Bytes>;
    /// Notes how far the log is known to be committed. Unsynced: carried to disk by a later sync; may be lost.
    fn save_committed(&self, committed: Option<LogPosition>) -> Result<(), StorageError>;
    /// What [`LogStore::save_committed`] last noted, as far as it survived; never past the last entry.
    fn committed(&self) -> Option<LogPosition>;
    /// Waits until all is durable, hard state included, and stops the sync thread. Every later call but this one fails with
    /// [`StorageError::Stopped`]. Idempotent. Not from a completion, which would wait for itself: there it only begins.
    fn close(&self) -> Result<(), StorageError>;
}
