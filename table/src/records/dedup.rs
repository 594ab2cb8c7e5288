//! Request deduplication: stores of request ids and of idempotency keys, so that a repeated request is not done twice.
//!
//! One store holds replies by request id. The other holds the idempotency keys of jobs that are forgotten; a job in the
//! table holds its own key. Both are bounded in number, the oldest being evicted first, and in time, by `AdvanceTime`.
//! Refusals are not stored, because they changed nothing and a repeated request may well be accepted.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::records::job::{Idempotency, SubmissionReceipt};
use crate::records::paged::{Paged, Record};
use crate::types::ids::{TaskId, WorkerId};

/// A record that is stored under a key for a bounded time.
pub(crate) trait DedupRecord: Record<Key = u64> {
    /// Returns its key; unique within a store.
    fn dedup_key(&self) -> &Arc<str>;
    /// Returns when it was stored, in Unix ms.
    fn at_ms(&self) -> u64;
    /// Returns the time at which it was stored, for a change.
    fn at_ms_mut(&mut self) -> &mut u64;
}

/// Bounded store of records in insertion order, numbered without end.
#[derive(Debug)]
pub(crate) struct DedupStore<R: DedupRecord> {
    records: Paged<R>,
    /// Numbers by key; derived from the records.
    numbers: BTreeMap<Arc<str>, u64>,
}

impl<R: DedupRecord> Default for DedupStore<R> {
    fn default() -> Self {
        Self {
            records: Paged::default(),
            numbers: BTreeMap::new(),
        }
    }
}

impl<R: DedupRecord> DedupStore<R> {
    pub fn records(&self) -> &Paged<R> {
        &self.records
    }

    pub fn get(&self, dedup_key: &str) -> Option<&R> {
        self.records.get(*self.numbers.get(dedup_key)?)
    }

    /// Returns the number for the next record.
    pub fn next_number(&self) -> u64 {
        self.records.last().map_or(0, |last| last.key() + 1)
    }

    /// Stores a record, and evicts the oldest ones beyond `max`.
    pub fn push(&mut self, record: R, max: u64) {
        let dedup_key = record.dedup_key().clone();
        assert!(
            self.try_push(record),
            "{dedup_key} is remembered already, or out of order"
        );
        while self.records.len() as u64 > max {
            self.evict_oldest();
        }
    }

    /// Stores a record, unless its key is stored already or its number is out of order; returns whether it did.
    pub fn try_push(&mut self, record: R) -> bool {
        let (dedup_key, number) = (record.dedup_key().clone(), record.key());
        if self.numbers.contains_key(&dedup_key) || !self.records.try_push(record) {
            return false;
        }
        self.numbers.insert(dedup_key, number);
        true
    }

    /// Evicts the oldest record.
    pub fn evict_oldest(&mut self) {
        let Some(oldest) = self.records.first().map(Record::key) else {
            return;
        };
        if let Some(record) = self.records.remove(oldest) {
            self.numbers.remove(record.dedup_key());
        }
    }

    /// Returns when the oldest record was stored, in Unix ms.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.records.first().map(DedupRecord::at_ms)
    }

    /// Changes the time at which each record was stored.
    pub fn change_times(&mut self, change: impl Fn(&mut u64)) {
        self.records.change_all(|record| change(record.at_ms_mut()));
    }

    /// Returns the first violation of the store's invariants, if any.
    pub fn fault(&self) -> Option<String> {
        if let Some(fault) = self.records.fault() {
            return Some(fault);
        }
        let known = self
            .records
            .iter()
            .all(|record| self.numbers.get(record.dedup_key()) == Some(&record.key()));
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

/// A request id with its reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AnsweredRequest {
    pub number: u64,
    pub request: Arc<str>,
    pub at_ms: u64,
    pub reply: RecordedReply,
}

/// The kind of request, with its reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum RecordedReply {
    Submitted {
        body_digest: [u8; 32],
        receipt: SubmissionReceipt,
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
pub(crate) struct RetiredKey {
    pub number: u64,
    pub idempotency: Arc<Idempotency>,
    pub at_ms: u64,
    pub receipt: SubmissionReceipt,
}

impl Record for AnsweredRequest {
    type Key = u64;
    fn key(&self) -> u64 {
        self.number
    }
}

impl DedupRecord for AnsweredRequest {
    fn dedup_key(&self) -> &Arc<str> {
        &self.request
    }
    fn at_ms(&self) -> u64 {
        self.at_ms
    }
    fn at_ms_mut(&mut self) -> &mut u64 {
        &mut self.at_ms
    }
}

impl Record for RetiredKey {
    type Key = u64;
    fn key(&self) -> u64 {
        self.number
    }
}

impl DedupRecord for RetiredKey {
    fn dedup_key(&self) -> &Arc<str> {
        &self.idempotency.key
    }
    fn at_ms(&self) -> u64 {
        self.at_ms
    }
    fn at_ms_mut(&mut self) -> &mut u64 {
        &mut self.at_ms
    }
}
