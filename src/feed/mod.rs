//! The latest part of the history: what the last applied entries made happen, for whoever follows it.
//!
//! Apply records here on every node, so every node can tell the same history, and who was cut off by one goes on at
//! another. It is memory only: it begins anew with the process or with the snapshot that was installed last, and it is
//! bounded, the oldest go first.
//!
//! Invariant: between [`Feed::floor`] and the entry recorded last there is no gap. Whoever asks for something older is
//! told that it is [`Gone`], never silently given what is left.

mod position;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

pub use crate::feed::record::{About, Happened, Leased, Outcome, told};
pub use position::Position;

/// Events that are handed out, and given up, together.
const CHUNK_MAX: usize = 256;
/// A page ends once it has so many; it may have up to a chunk more.
const PAGE_EVENTS: usize = 256;

/// See the module.
pub struct Feed {
    ring: RwLock<Ring>,
    /// The entry recorded last; who waits for more waits for this to change.
    grown: watch::Sender<u64>,
}

struct Ring {
    chunks: VecDeque<Arc<Chunk>>,
    events: usize,
    events_max: usize,
    /// Everything after this is here.
    floor: Position,
    /// The entry recorded last.
    last_index: u64,
}

/// Some consecutive events of one entry.
#[derive(Debug)]
pub struct Chunk {
    index: u64,
    first: u32,
    at_ms: u64,
    happened: Box<[Happened]>,
}

impl Chunk {
    /// The table's time when they happened, in Unix ms.
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// Them, in order.
    pub fn events(&self) -> impl Iterator<Item = (Position, &Happened)> {
        (self.first..)
            .zip(&self.happened)
            .map(|(within, happened)| (Position::of(self.index, within), happened))
    }

    fn last(&self) -> Position {
        let count = u32::try_from(self.happened.len()).unwrap_or(u32::MAX);
        Position::of(self.index, (self.first + count).saturating_sub(1))
    }
}

/// A part of the history.
#[derive(Debug)]
pub struct Page {
    /// May begin with events before the position that was asked for.
    pub chunks: Vec<Arc<Chunk>>,
    /// Where it ends, and the next one goes on.
    pub end: Position,
    /// There is nothing more just now.
    pub is_last: bool,
}

/// What was asked for is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// Everything after this is still here.
    pub oldest: Position,
}

impl Feed {
    /// The history from its beginning, of which at most so many events are kept.
    pub fn new(events_max: usize) -> Self {
        Self {
            ring: RwLock::new(Ring {
                chunks: VecDeque::new(),
                events: 0,
                events_max,
                floor: Position::whole(0),
                last_index: 0,
            }),
            grown: watch::Sender::new(0),
        }
    }

    /// The entry at `index` applied, and this came of it. Entries come in order; not every index has one.
    pub fn record(&self, index: u64, at_ms: u64, happened: Vec<Happened>) {
        let mut ring = self.ring.write();
        let chunk_max = CHUNK_MAX.min(ring.events_max).max(1);
        let (mut first, mut rest) = (0_u32, happened);
        while !rest.is_empty() {
            let more = rest.split_off(chunk_max.min(rest.len()));
            let chunk = Chunk {
                index,
                first,
                at_ms,
                happened: std::mem::replace(&mut rest, more).into_boxed_slice(),
            };
            first += u32::try_from(chunk.happened.len()).unwrap_or(u32::MAX);
            ring.push(chunk);
        }
        ring.last_index = index;
        drop(ring);
        self.grown.send_replace(index);
    }

    /// The table was replaced by one that had applied everything up to `index`; how it came there is not known here.
    pub fn restart(&self, index: u64) {
        let mut ring = self.ring.write();
        ring.chunks.clear();
        ring.events = 0;
        ring.floor = Position::whole(index);
        ring.last_index = index;
        drop(ring);
        self.grown.send_replace(index);
    }

    /// What came after this position; [`Page::is_last`] if that is all so far.
    pub fn read(&self, after: Position) -> Result<Page, Gone> {
        let ring = self.ring.read();
        if after < ring.floor {
            return Err(Gone { oldest: ring.floor });
        }
        let first = ring.chunks.partition_point(|chunk| chunk.last() <= after);
        let mut events = 0;
        let fits = |chunk: &&Arc<Chunk>| {
            let fits = events < PAGE_EVENTS;
            events += chunk.happened.len();
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
            Some(_) | None => after.max(Position::whole(ring.last_index)),
        };
        Ok(Page {
            chunks,
            end,
            is_last,
        })
    }

    /// The entry recorded last.
    pub fn last_index(&self) -> u64 {
        self.ring.read().last_index
    }

    /// Changes whenever there may be more.
    pub fn grown(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }
}

impl Ring {
    fn push(&mut self, chunk: Chunk) {
        self.events += chunk.happened.len();
        self.chunks.push_back(Arc::new(chunk));
        while self.events > self.events_max {
            let Some(oldest) = self.chunks.pop_front() else {
                return;
            };
            self.events -= oldest.happened.len();
            self.floor = oldest.last();
        }
    }
}

mod record;
#[cfg(test)]
mod tests;
