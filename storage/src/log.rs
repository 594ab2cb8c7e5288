//! The contract of a log engine: a write-ahead log of Raft entries, together with the hard state.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::StorageError;

/// A log id: the term and node of the leader that made the entry, and its index.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogPosition {
    /// The term in which the entry was made.
    pub term: u64,
    /// The leader of that term.
    pub leader: u64,
    /// The log index, counted from 0.
    pub index: u64,
}

/// One log entry. The payload is opaque to this crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The log id of the entry.
    pub position: LogPosition,
    /// The payload, as the caller encoded it.
    pub payload: Bytes,
}

/// The bounds of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogState {
    /// The last purged entry (inclusive). The log begins after it.
    pub purged: Option<LogPosition>,
    /// The last entry, or `purged` when there is none.
    pub last: Option<LogPosition>,
}

/// A callback for one write. Called exactly once, from the sync thread, when the write is on disk or cannot be. Must
/// not block.
pub type Completion = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// The log and the hard state (vote, purged and committed positions) of one node. All methods are quick and may be
/// called from an async task. They change what readers see at once, and queue the disk work for one sync thread in the
/// order of the calls.
///
/// There is one exception. An engine bounds the writes that wait for its disk, and a caller that would exceed the bound
/// waits for the sync thread. The sync thread waits for no caller, so completions must not block.
///
/// # Invariants
///
/// - Writes (append, vote, truncate) become durable in the order of the calls.
/// - A completion implies that everything before it is durable too.
/// - After the first error every later call and completion fails with [`StorageError::Stopped`].
/// - An empty log that was never purged may begin at any index.
///
/// # Panics
///
/// These calls panic, because Raft never makes them and they are bugs of the caller:
///
/// - an append that leaves a hole;
/// - a truncation that crosses the purged position;
/// - a truncation or a purge whose position differs from that of the entry at its index.
pub trait LogStore: Send + Sync + 'static {
    /// Returns the bounds of the log, unsynced entries included.
    fn state(&self) -> LogState;
    /// Appends consecutive entries. They are readable when this returns, and durable when `done` is called with `Ok`.
    fn append(&self, records: Vec<LogRecord>, done: Completion) -> Result<(), StorageError>;
    /// Removes every entry after `last` (exclusive; `None` removes all). Durable when `done` is called with `Ok`;
    /// ordered before any later append. Never crosses `purged`.
    fn truncate_after(
        &self,
        last: Option<LogPosition>,
        done: Completion,
    ) -> Result<(), StorageError>;
    /// Purges entries up to `upto` (inclusive). The purged position becomes durable first; the deletion runs in the
    /// background.
    fn purge(&self, upto: LogPosition, done: Completion) -> Result<(), StorageError>;
    /// Returns the entries of `range` that the log holds, in order and without holes. Stops early once `bytes_max`
    /// payload bytes are reached, but returns at least one entry if there is one. Recent entries come from memory.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogRecord>, StorageError>;
    /// Replaces the vote (opaque). Durable when `done` is called with `Ok`; same queue and order as appends.
    fn save_vote(&self, vote: Bytes, done: Completion) -> Result<(), StorageError>;
    /// Returns the last vote given to [`LogStore::save_vote`], durable or not.
    fn vote(&self) -> Option<Bytes>;
    /// Records the committed position without a sync. A later sync makes it durable; a crash before that may lose it.
    fn save_committed(&self, committed: Option<LogPosition>) -> Result<(), StorageError>;
    /// Returns the position last given to [`LogStore::save_committed`], if it survived. Never past the last entry.
    fn committed(&self) -> Option<LogPosition>;
    /// Returns why the log has stopped, if an error stopped it. An idle log may fail too, and no completion reports it
    /// then.
    fn failure(&self) -> Option<StorageError>;
    /// Waits until everything is durable, hard state included, and stops the sync thread. Every later call except this
    /// one fails with [`StorageError::Stopped`]. Idempotent. A call from a completion would wait for itself, so it only
    /// begins to close and returns at once.
    fn close(&self) -> Result<(), StorageError>;
}
