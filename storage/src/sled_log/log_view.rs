//! The in-memory view of the log that readers see: its bounds, its hard state, and the recent entries themselves.
//!
//! Every write changes the view at once and the disk later.
//!
//! # Invariants
//!
//! - The recent entries are a suffix of the log without holes.
//! - Every entry before them is in sled.
//! - An entry that is not in sled yet is never evicted. So the memory bound holds for stored entries, and the queue's
//!   own bound for the others.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::write_ops::{WriteOp, assert_appendable, assert_purgeable, assert_truncatable};
use crate::{LogPosition, LogRecord, LogState};

/// Memory of a recent entry in addition to its payload, in bytes: its record, its allocation and what the allocator rounds
/// up.
const RECORD_OVERHEAD_BYTES: usize = 160;

/// The log as its readers see it.
pub(super) struct LogView {
    purged: Option<LogPosition>,
    last: Option<LogPosition>,
    /// The index of the first entry that the log holds. Meaningless while the log is empty.
    first: u64,
    recent: VecDeque<LogRecord>,
    recent_bytes: usize,
    recent_bytes_max: usize,
    /// Entries before this index are in sled.
    stored: u64,
    /// Counts the changes that may remove entries while a reader reads sled.
    removals: u64,
    pub(super) vote: Option<Bytes>,
    committed: Option<LogPosition>,
}

/// Where to read the entries of a range.
pub(super) enum RecordSource {
    /// The entries, from memory.
    Memory(Vec<LogRecord>),
    /// In sled, at least up to the end of this range.
    Disk(std::ops::Range<u64>),
}

/// Returns the memory of a recent entry, in bytes.
fn memory_of(record: &LogRecord) -> usize {
    record.payload.len() + RECORD_OVERHEAD_BYTES
}

impl LogView {
    pub(super) fn new(purged: Option<LogPosition>, recent_bytes_max: usize) -> Self {
        LogView {
            purged,
            last: purged,
            first: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_bytes_max,
            stored: 0,
            removals: 0,
            vote: None,
            committed: None,
        }
    }

    pub(super) fn state(&self) -> LogState {
        LogState {
            purged: self.purged,
            last: self.last,
        }
    }

    pub(super) fn removals(&self) -> u64 {
        self.removals
    }

    /// Returns the committed position, at most the last entry.
    pub(super) fn committed(&self) -> Option<LogPosition> {
        let last = self.last?;
        self.committed.map(|committed| {
            if committed.index > last.index {
                last
            } else {
                committed
            }
        })
    }

    pub(super) fn set_committed(&mut self, committed: Option<LogPosition>) {
        self.committed = committed;
    }

    fn is_empty(&self) -> bool {
        self.last == self.purged
    }

    /// Returns the index after the last entry.
    fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// Returns the index of the first entry that is in memory, or the end.
    fn recent_start(&self) -> u64 {
        self.recent
            .front()
            .map_or(self.end(), |record| record.position.index)
    }

    fn recent_at(&self, index: u64) -> Option<LogPosition> {
        let offset = index.checked_sub(self.recent_start())?;
        let record = self.recent.get(usize::try_from(offset).ok()?)?;
        Some(record.position)
    }

    /// Applies a write to the view. Panics if Raft could never ask for it.
    pub(super) fn apply(&mut self, op: &WriteOp) {
        match op {
            WriteOp::Append(records) => self.append(records),
            WriteOp::TruncateAfter(after) => self.truncate_after(*after),
            WriteOp::Purge(upto) => self.purge(*upto),
            WriteOp::Vote(vote) => self.vote = Some(vote.clone()),
            WriteOp::Committed(committed) => self.committed = *committed,
        }
    }

    pub(super) fn append(&mut self, records: &[LogRecord]) {
        assert_appendable(self.last, records);
        for record in records {
            if self.is_empty() {
                self.first = record.position.index;
            }
            self.last = Some(record.position);
            self.recent_bytes += memory_of(record);
            self.recent.push_back(record.clone());
        }
    }

    fn truncate_after(&mut self, after: Option<LogPosition>) {
        if let Some(after) = after {
            let held = self.recent_at(after.index);
            assert_truncatable(self.purged, held, after);
            if after.index >= self.end() {
                return;
            }
        }
        let last = after.or(self.purged);
        if last == self.last {
            return;
        }
        let end = last.map_or(0, |last| last.index + 1);
        while self
            .recent
            .back()
            .is_some_and(|record| record.position.index >= end)
        {
            let removed = self.recent.pop_back().expect("there is a last one");
            self.recent_bytes -= memory_of(&removed);
        }
        self.last = if end <= self.first { self.purged } else { last };
        self.stored = self.stored.min(end);
        self.removals += 1;
    }

    fn purge(&mut self, upto: LogPosition) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        assert_purgeable(self.recent_at(upto.index), upto);
        while self
            .recent
            .front()
            .is_some_and(|record| record.position.index <= upto.index)
        {
            let removed = self.recent.pop_front().expect("there is a first one");
            self.recent_bytes -= memory_of(&removed);
        }
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
        self.purged = Some(upto);
        self.first = self.first.max(upto.index + 1);
        self.removals += 1;
    }

    /// Records that entries before `end` are in sled, unless entries were removed since `removals` had this value.
    pub(super) fn mark_stored(&mut self, end: u64, removals: u64) {
        if removals == self.removals {
            self.stored = end;
            self.evict();
        }
    }

    fn evict(&mut self) {
        while self.recent_bytes > self.recent_bytes_max
            && self
                .recent
                .front()
                .is_some_and(|record| record.position.index < self.stored)
        {
            let removed = self.recent.pop_front().expect("there is a first one");
            self.recent_bytes -= memory_of(&removed);
        }
    }

    /// Returns where to read the entries of a range, as far as the log holds them.
    pub(super) fn locate(&self, range: std::ops::Range<u64>, bytes_max: usize) -> RecordSource {
        if self.is_empty() {
            return RecordSource::Memory(Vec::new());
        }
        let start = range.start.max(self.first);
        let end = range.end.min(self.end());
        if start >= end {
            return RecordSource::Memory(Vec::new());
        }
        let recent_start = self.recent_start();
        if start < recent_start {
            return RecordSource::Disk(start..end.min(recent_start));
        }
        let offset = (start - recent_start) as usize;
        let mut records = Vec::new();
        let mut bytes = 0;
        for record in self.recent.range(offset..offset + (end - start) as usize) {
            bytes += record.payload.len();
            records.push(record.clone());
            if bytes >= bytes_max {
                break;
            }
        }
        RecordSource::Memory(records)
    }
}
