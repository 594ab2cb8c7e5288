//! What the table remembers of requests, so that one repeated after an unknown outcome is not done twice.
//!
//! Two memories: answers by request id, and the idempotency keys of jobs that are forgotten (while a job is there it
//! holds its own key). Both are bounded in number, the oldest going first, and in time, by `AdvanceTime`. Refusals are
//! not remembered: they changed nothing, and a repeated request may well be accepted.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::records::job::{Idempotency, Roll};
use crate::records::paged::{Paged, Record};
use crate::types::ids::{TaskId, WorkerId};

/// Something remembered by a key for a bounded time.
pub(crate) trait Remembered: Record<Key = u64> {
    /// What it is asked for by. The same is never remembered twice at a time.
    fn by(&self) -> &Arc<str>;
    /// When it was remembered.
    fn at_ms(&self) -> u64;
}

/// Remembered things in the order in which they came, numbered without end.
#[derive(Debug)]
pub(crate) struct Memory<R: Remembered> {
    records: Paged<R>,
    /// Derived from the records.
    numbers: BTreeMap<Arc<str>, u64>,
}

impl<R: Remembered> Default for Memory<R> {
    fn default() -> Self {
        Self {
            records: Paged::default(),
            numbers: BTreeMap::new(),
        }
    }
}

impl<R: Remembered> Memory<R> {
    pub fn records(&self) -> &Paged<R> {
        &self.records
    }

    pub fn get(&self, by: &str) -> Option<&R> {
        self.records.get(*self.numbers.get(by)?)
    }

    /// The number for the next record.
    pub fn next_number(&self) -> u64 {
        self.records.last().map_or(0, |last| last.key() + 1)
    }

    /// Remembers one more, and forgets the oldest ones beyond `max`.
    pub fn push(&mut self, record: R, max: u64) {
        let by = record.by().clone();
        assert!(
            self.try_push(record),
            "{by} is remembered already, or out of order"
        );
        while self.records.len() as u64 > max {
            self.forget_oldest();
        }
    }

    /// Remembers one more, if it is neither remembered already nor out of order.
    pub fn try_push(&mut self, record: R) -> bool {
        let (by, number) = (record.by().clone(), record.key());
        if self.numbers.contains_key(&by) || !self.records.try_push(record) {
            return false;
        }
        self.numbers.insert(by, number);
        true
    }

    /// Forgets the oldest.
    pub fn forget_oldest(&mut self) {
        let Some(oldest) = self.records.first().map(Record::key) else {
            return;
        };
        if let Some(record) = self.records.remove(oldest) {
            self.numbers.remove(record.by());
        }
    }

    /// When the oldest was remembered.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.records.first().map(Remembered::at_ms)
    }

    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        if let Some(fault) = self.records.fault() {
            return Some(fault);
        }
        let known = self
            .records
            .iter()
            .all(|record| self.numbers.get(record.by()) == Some(&record.key()));
        let counted = self.numbers.len() == self.records.len();
        (!known || !counted).then(|| {
            format!(
                "{} records, {} keys",
                self.records.len(),
                self.numbers.len()
            )
        })
    }
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub number: u64,
    pub request: Arc<str>,
    pub at_ms: u64,
    pub answer: Answer,
}

/// What was asked and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Submitted {
        body_digest: [u8; 32],
        roll: Roll,
        duplicate: bool,
    },
    Retried {
        task: TaskId,
    },
    Registered {
        name: Arc<str>,
        worker: WorkerId,
    },
}

/// The idempotency key of a job that is forgotten, or of a submission that made none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OldKey {
    pub number: u64,
    pub idempotency: Arc<Idempotency>,
    pub at_ms: u64,
    pub roll: Roll,
}

impl Record for Answered {
    type Key = u64;
    fn key(&self) -> u64 {
        self.number
    }
}

impl Remembered for Answered {
    fn by(&self) -> &Arc<str> {
        &self.request
    }
    fn at_ms(&self) -> u64 {
        self.at_ms
    }
}

impl Record for OldKey {
    type Key = u64;
    fn key(&self) -> u64 {
        self.number
    }
}

impl Remembered for OldKey {
    fn by(&self) -> &Arc<str> {
        &self.idempotency.key
    }
    fn at_ms(&self) -> u64 {
        self.at_ms
    }
}
