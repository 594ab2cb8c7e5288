//! Change feed buffer: the records of the last applied entries, for readers that follow them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::position::Position;
use super::record::EventRecord;

/// Maximum records in one chunk, which is read and dropped as a whole.
const CHUNK_RECORDS_MAX: usize = 256;
/// Number of records after which a page ends; it may have up to a chunk more.
const PAGE_RECORDS: usize = 256;

/// Latest part of the history. See the module [`feed`](super).
pub struct Feed {
    ring: RwLock<Ring>,
    /// Index of the entry appended last. Readers that wait for more records wait for a change of it.
    appended: watch::Sender<u64>,
}

struct Ring {
    chunks: VecDeque<Arc<Chunk>>,
    records: usize,
    records_max: usize,
    /// Position after which everything is kept.
    floor: Position,
    /// Index of the entry appended last.
    last_index: u64,
}

/// Consecutive records of one entry.
#[derive(Debug)]
pub struct Chunk {
    index: u64,
    first: u32,
    at_ms: u64,
    records: Box<[EventRecord]>,
}

impl Chunk {
    /// Returns the table's time at the entry, in Unix ms.
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// Returns the records in order, with their positions.
    pub fn records(&self) -> impl Iterator<Item = (Position, &EventRecord)> {
        (self.first..)
            .zip(&self.records)
            .map(|(offset, record)| (Position::record(self.index, offset), record))
    }

    fn last(&self) -> Position {
        let count = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        Position::record(self.index, (self.first + count).saturating_sub(1))
    }
}

/// One page of the history.
#[derive(Debug)]
pub struct Page {
    /// Chunks of the page. The first may begin with records before the requested position.
    pub chunks: Vec<Arc<Chunk>>,
    /// End of the page, where the next one continues.
    pub end: Position,
    /// Whether nothing more has been appended yet.
    pub is_last: bool,
}

/// Error: the requested position is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionGone {
    /// Oldest position after which everything is still kept.
    pub oldest: Position,
}

impl Feed {
    /// Creates a history from its beginning, which keeps the last `records_max` records.
    pub fn new(records_max: usize) -> Self {
        Self {
            ring: RwLock::new(Ring {
                chunks: VecDeque::new(),
                records: 0,
                records_max,
                floor: Position::entry_end(0),
                last_index: 0,
            }),
            appended: watch::Sender::new(0),
        }
    }

    /// Appends the records of the entry at `index`. Entries come in order; some indexes have none.
    pub fn append(&self, index: u64, at_ms: u64, records: Vec<EventRecord>) {
        let mut ring = self.ring.write();
        let chunk_max = CHUNK_RECORDS_MAX.min(ring.records_max).max(1);
        let (mut first, mut rest) = (0_u32, records);
        while !rest.is_empty() {
            let more = rest.split_off(chunk_max.min(rest.len()));
            let chunk = Chunk {
                index,
                first,
                at_ms,
                records: std::mem::replace(&mut rest, more).into_boxed_slice(),
            };
            first += u32::try_from(chunk.records.len()).unwrap_or(u32::MAX);
            ring.push(chunk);
        }
        ring.last_index = index;
        drop(ring);
        self.appended.send_replace(index);
    }

    /// Restarts the history, because the table was replaced by one that had applied unknown events up to `index`.
    pub fn restart(&self, index: u64) {
        let mut ring = self.ring.write();
        ring.chunks.clear();
        ring.records = 0;
        ring.floor = Position::entry_end(index);
        ring.last_index = index;
        drop(ring);
        self.appended.send_replace(index);
    }

    /// Reads the page after this position. [`Page::is_last`] is set if there is nothing more yet.
    pub fn read(&self, after: Position) -> Result<Page, PositionGone> {
        let ring = self.ring.read();
        if after < ring.floor {
            return Err(PositionGone { oldest: ring.floor });
        }
        let first = ring.chunks.partition_point(|chunk| chunk.last() <= after);
        let mut records = 0;
        let fits = |chunk: &&Arc<Chunk>| {
            let fits = records < PAGE_RECORDS;
            records += chunk.records.len();
            fits
        };
        let chunks: Vec<Arc<Chunk>> = ring
            .chunks
            .range(first..)
            .take_while(fits)
            .cloned()
            .collect();
        let is_last = first + chunks.len() == ring.chunks.len();
        let end = match chunks.last() {
            Some(chunk) if !is_last => chunk.last(),
            Some(_) | None => after.max(Position::entry_end(ring.last_index)),
        };
        Ok(Page {
            chunks,
            end,
            is_last,
        })
    }

    /// Returns the index of the entry appended last.
    pub fn last_index(&self) -> u64 {
        self.ring.read().last_index
    }

    /// Returns a receiver that changes whenever there may be more records.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }
}

impl Ring {
    fn push(&mut self, chunk: Chunk) {
        self.records += chunk.records.len();
        self.chunks.push_back(Arc::new(chunk));
        while self.records > self.records_max {
            let Some(oldest) = self.chunks.pop_front() else {
                return;
            };
            self.records -= oldest.records.len();
            self.floor = oldest.last();
        }
    }
}

#[cfg(test)]
mod tests;
