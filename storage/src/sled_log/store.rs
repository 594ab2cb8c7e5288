//! The log engine: a [`LogStore`] that changes its view at once and queues the disk work for the sync thread.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::Mutex;

use super::free_space::FreeSpace;
use super::log_view::RecordSource;
use super::options::SledLogOptions;
use super::recovery;
use super::sled_db::SledDb;
use super::sync_thread::SyncThread;
use super::write_queue::WriteQueue;
use crate::error::{StopCause, failure};
use crate::write_ops::WriteOp;
use crate::{Completion, LogPosition, LogRecord, LogState, LogStore, StorageError};

/// The Raft log of one node, in sled. Dropping it without [`LogStore::close`] may lose writes that are not durable yet,
/// as in a crash.
pub struct SledLog {
    queue: Arc<WriteQueue>,
    /// The database for readers. `None` once closed.
    db: Mutex<Option<Arc<SledDb>>>,
    space: FreeSpace,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SledLog {
    /// Opens the log in `directory`, or creates one, and checks every byte of it.
    pub fn open(directory: &Path, options: &SledLogOptions) -> Result<Self, StorageError> {
        let recovered = recovery::recover(directory, options)?;
        let queue = Arc::new(WriteQueue::new(recovered.view, options.queued_bytes_max));
        let db = Arc::new(recovered.db);
        let space = recovered.state.space.clone();
        let sync_thread = SyncThread::new(
            Arc::clone(&queue),
            Arc::clone(&db),
            recovered.state,
            Arc::clone(&options.metrics),
        );
        let thread = thread::Builder::new()
            .name("triarch-log".into())
            .spawn({
                let queue = Arc::clone(&queue);
                move || {
                    // If a completion panics, callers must not wait for a thread that is gone.
                    let _guard = StopOnPanic(queue);
                    sync_thread.run();
                }
            })
            .map_err(|error| StorageError::io("start a thread for", directory, &error))?;
        Ok(SledLog {
            queue,
            db: Mutex::new(Some(db)),
            space,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Returns the free space of its disk.
    pub fn space(&self) -> FreeSpace {
        self.space.clone()
    }

    fn write(&self, op: WriteOp, done: Option<Completion>) -> Result<(), StorageError> {
        let mut state = self.queue.lock_with_capacity()?;
        state.view.apply(&op);
        self.queue.enqueue(state, op, done);
        Ok(())
    }

    /// Reads `range` from sled. Returns `Ok(None)` if entries were removed during the read, and the caller must try
    /// again.
    fn read_disk(
        &self,
        range: Range<u64>,
        bytes_max: usize,
        removals: u64,
    ) -> Result<Option<Vec<LogRecord>>, StorageError> {
        let Some(db) = self.db.lock().clone() else {
            return Err(StopCause::Closed.error());
        };
        let outcome = db.entries(range.clone(), bytes_max).and_then(|entries| {
            let bytes: usize = entries.iter().map(|entry| entry.record.payload.len()).sum();
            let complete = entries
                .first()
                .is_some_and(|entry| entry.record.position.index == range.start)
                && (bytes >= bytes_max || entries.len() as u64 == range.end - range.start);
            if complete {
                Ok(entries)
            } else {
                Err(db.damaged(format!(
                    "entries of {}..{} have vanished",
                    range.start, range.end
                )))
            }
        });
        {
            let state = self.queue.lock();
            state.check_running()?;
            if state.view.removals() != removals {
                return Ok(None);
            }
        }
        match outcome {
            Ok(entries) => Ok(Some(
                entries.into_iter().map(|entry| entry.record).collect(),
            )),
            Err(error) => {
                self.queue.stop(StopCause::Failed(error.to_string()));
                Err(error)
            }
        }
    }

    /// Waits for the sync thread to end, unless the caller is that thread.
    fn join(&self) {
        let mut thread = self.thread.lock();
        if let Some(handle) = thread.take() {
            if handle.thread().id() == thread::current().id() {
                *thread = Some(handle);
                return;
            }
            if handle.join().is_err() {
                tracing::error!("the log's sync thread panicked");
            }
        }
        if let Some(db) = self.db.lock().take() {
            match self.queue.stopped() {
                // Dropping sled would sync its file once more: see `SyncThread::fail`.
                Some(StopCause::Failed(_)) => std::mem::forget(db),
                Some(StopCause::Closed | StopCause::Dropped) | None => db.release(),
            }
        }
    }
}

/// Stops the log when the sync thread unwinds.
struct StopOnPanic(Arc<WriteQueue>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            let cause = "the sync thread panicked".to_string();
            self.0.stop(StopCause::Failed(cause));
        }
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        self.queue.abandon();
        self.join();
    }
}

impl LogStore for SledLog {
    fn state(&self) -> LogState {
        self.queue.lock().view.state()
    }

    fn append(&self, records: Vec<LogRecord>, done: Completion) -> Result<(), StorageError> {
        self.write(WriteOp::Append(records), Some(done))
    }

    fn truncate_after(
        &self,
        last: Option<LogPosition>,
        done: Completion,
    ) -> Result<(), StorageError> {
        self.write(WriteOp::TruncateAfter(last), Some(done))
    }

    fn purge(&self, upto: LogPosition, done: Completion) -> Result<(), StorageError> {
        self.write(WriteOp::Purge(upto), Some(done))
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogRecord>, StorageError> {
        let mut records: Vec<LogRecord> = Vec::new();
        let mut removals = None;
        loop {
            let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
            let next = records
                .last()
                .map_or(range.start, |record| record.position.index + 1);
            if !records.is_empty() && (bytes >= bytes_max || next >= range.end) {
                return Ok(records);
            }
            let wanted = bytes_max.saturating_sub(bytes);
            let (source, removals_now) = {
                let state = self.queue.lock();
                state.check_running()?;
                (
                    state.view.locate(next..range.end, wanted),
                    state.view.removals(),
                )
            };
            if *removals.get_or_insert(removals_now) != removals_now {
                // The entries read so far may be from another history by now.
                records.clear();
                removals = None;
                continue;
            }
            match source {
                RecordSource::Memory(recent) => {
                    records.extend(recent);
                    return Ok(records);
                }
                RecordSource::Disk(part) => match self.read_disk(part, wanted, removals_now)? {
                    Some(stored) => records.extend(stored),
                    None => {
                        records.clear();
                        removals = None;
                    }
                },
            }
        }
    }

    fn save_vote(&self, vote: Bytes, done: Completion) -> Result<(), StorageError> {
        self.write(WriteOp::Vote(vote), Some(done))
    }

    fn vote(&self) -> Option<Bytes> {
        self.queue.lock().view.vote.clone()
    }

    fn save_committed(&self, committed: Option<LogPosition>) -> Result<(), StorageError> {
        self.write(WriteOp::Committed(committed), None)
    }

    fn committed(&self) -> Option<LogPosition> {
        self.queue.lock().view.committed()
    }

    fn failure(&self) -> Option<StorageError> {
        failure(self.queue.stopped().as_ref())
    }

    fn close(&self) -> Result<(), StorageError> {
        self.queue.begin_close();
        self.join();
        match self.queue.stopped() {
            Some(StopCause::Closed) | None => Ok(()),
            Some(stop @ (StopCause::Dropped | StopCause::Failed(_))) => Err(stop.error()),
        }
    }
}
