//! openraft's log storage over a [`LogStore`]: entries, and the vote as hard state.
//!
//! # Invariants
//!
//! - An append returns when readable and reports when durable.
//! - A vote is awaited, because openraft answers a candidate right after.
//! - Truncation and purging are not awaited. The store keeps the order of calls, so any later durable call implies
//!   them.
//! - Any error, sooner or later, fails the node.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;
use triarch_storage::{Completion, LogPosition, LogRecord, LogStore, StorageError};

use crate::fatal::FatalErrorSignal;
use crate::metrics::ConsensusMetrics;
use crate::protocol::entry_format;
use crate::protocol::history::History;
use crate::types::{Config, Entry, LogId, Vote, log_id};

/// Maximum bytes that one read may bring into memory while entries are applied or read in full.
const READ_CHUNK_BYTES: usize = 8 << 20;

/// Log and vote of this node. Clones share the store.
#[derive(Clone)]
pub(crate) struct RaftLog {
    log: Arc<dyn LogStore>,
    fatal_error: FatalErrorSignal,
    /// Maximum payload bytes of one append message to a follower. One entry always goes.
    append_bytes_max: usize,
    node_id: u64,
    metrics: Arc<ConsensusMetrics>,
    history: Arc<History>,
}

impl RaftLog {
    pub(crate) fn new(
        log: Arc<dyn LogStore>,
        fatal_error: FatalErrorSignal,
        append_bytes_max: usize,
        node_id: u64,
        metrics: Arc<ConsensusMetrics>,
        history: Arc<History>,
    ) -> Self {
        RaftLog {
            log,
            fatal_error,
            append_bytes_max,
            node_id,
            metrics,
            history,
        }
    }

    fn fail(&self, e: StorageError) -> io::Error {
        self.fatal_error.set(e.to_string());
        io::Error::other(e)
    }

    fn completion(&self) -> Completion {
        let fatal_error = self.fatal_error.clone();
        Box::new(move |result| {
            if let Err(e) = result {
                fatal_error.set(e.to_string());
            }
        })
    }

    fn range(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(&i) => i,
            Bound::Excluded(&i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&i) => i.saturating_add(1),
            Bound::Excluded(&i) => i,
            Bound::Unbounded => self.log.state().last.map_or(0, |last| last.index + 1),
        };
        start..end
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let records = self.log.read(range, bytes_max).map_err(|e| self.fail(e))?;
        records
            .into_iter()
            .map(|record| self.entry(record))
            .collect()
    }

    fn entry(&self, record: LogRecord) -> io::Result<Entry> {
        let payload = entry_format::decode_payload(record.payload).map_err(|e| {
            self.fatal_error
                .set(format!("log entry {}: {e}", record.position.index));
            io::Error::from(e)
        })?;
        Ok(Entry {
            log_id: from_position(record.position),
            payload,
        })
    }

    /// Returns all entries in `range` that the log holds, read chunk by chunk.
    fn read_all(&self, mut range: Range<u64>) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        loop {
            let chunk = self.read(range.clone(), READ_CHUNK_BYTES)?;
            let Some(last) = chunk.last() else {
                return Ok(entries);
            };
            range.start = last.log_id.index + 1;
            entries.extend(chunk);
        }
    }
}

pub(crate) fn position(id: &LogId) -> LogPosition {
    // A term has one leader, so the term alone identifies the leader.
    LogPosition {
        term: id.leader_id.term,
        leader: 0,
        index: id.index,
    }
}

pub(crate) fn from_position(p: LogPosition) -> LogId {
    log_id(p.term, p.index)
}

impl RaftLogReader<Config> for RaftLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read_all(self.range(&range))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, self.append_bytes_max)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // A node that catches up applies a long stretch of log. It reads one chunk at a time, not all of it into
        // memory.
        struct Cursor {
            log: RaftLog,
            range: Range<u64>,
            chunk: std::vec::IntoIter<Entry>,
        }
        let range = self.range(&range);
        let cursor = Cursor {
            log: self.clone(),
            range,
            chunk: Vec::new().into_iter(),
        };
        let entries = stream::unfold(Some(cursor), |cursor| async move {
            let mut cursor = cursor?;
            if let Some(entry) = cursor.chunk.next() {
                return Some((Ok(entry), Some(cursor)));
            }
            let chunk = match cursor.log.read(cursor.range.clone(), READ_CHUNK_BYTES) {
                Ok(chunk) => chunk,
                Err(e) => return Some((Err(e), None)),
            };
            cursor.range.start = chunk.last()?.log_id.index + 1;
            cursor.chunk = chunk.into_iter();
            let entry = cursor.chunk.next()?;
            Some((Ok(entry), Some(cursor)))
        });
        Box::pin(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        match self.log.vote() {
            None => Ok(None),
            Some(bytes) => entry_format::decode_vote(bytes).map(Some).map_err(|e| {
                self.fatal_error.set(e.to_string());
                io::Error::from(e)
            }),
        }
    }
}

impl RaftLogStorage<Config> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Config>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(from_position),
            last_log_id: state.last.map(from_position),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        // Every campaign begins with a vote of the candidate for itself that no majority has granted yet. Nothing else
        // does.
        if vote.leader_id.voted_for == self.node_id && !vote.committed {
            self.metrics.campaigned();
        }
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |result| {
            // The receiver waits right below. It is gone only when the node is being torn down.
            let _ = tx.send(result);
        });
        self.log
            .save_vote(entry_format::encode_vote(vote), done)
            .map_err(|e| self.fail(e))?;
        match rx.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(self.fail(e)),
            Err(_) => Err(self.fail(StorageError::Stopped(
                "the log stopped before the vote was on disk".into(),
            ))),
        }
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log
            .save_committed(committed.as_ref().map(position))
            .map_err(|e| self.fail(e))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.committed().map(from_position))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Result<Vec<LogRecord>, entry_format::DecodeError> = entries
            .into_iter()
            .map(|e| {
                Ok(LogRecord {
                    position: position(&e.log_id),
                    payload: entry_format::encode_payload(&e.payload)?,
                })
            })
            .collect();
        let fatal_error = self.fatal_error.clone();
        let done: Completion = Box::new(move |result| {
            callback.io_completed(result.map_err(|e| {
                fatal_error.set(e.to_string());
                io::Error::other(e)
            }));
        });
        let records = records?;
        for record in &records {
            self.history
                .append(from_position(record.position), &record.payload);
        }
        self.log.append(records, done).map_err(|e| self.fail(e))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.history
            .truncate_from(last.map_or(0, |last| last.index + 1));
        self.log
            .truncate_after(last.as_ref().map(position), self.completion())
            .map_err(|e| self.fail(e))
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.history.purge(upto);
        self.log
            .purge(position(&upto), self.completion())
            .map_err(|e| self.fail(e))
    }
}
