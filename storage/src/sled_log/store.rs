//! The log itself: a [`LogStore`] that changes its view at once and hands the disk work to the sync thread.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::Mutex;

use super::free_space::Space;
use super::log_view::Place;
use super::options::SledLogOptions;
use super::recovery;
use super::sled_db::Disk;
use super::sync_thread::Writer;
use super::write_queue::Shared;
use crate::error::Stop;
use crate::write_ops::Change;
use crate::{Completion, LogPosition, LogRecord, LogState, LogStore, StorageError};

/// The Raft log of one node, in sled. Drop it without [`LogStore::close`] and what was not durable yet may be lost, as in a crash.
pub struct SledLog {
    shared: Arc<Shared>,
    /// For readers; `None` once closed.
    disk: Mutex<Option<Arc<Disk>>>,
    space: Space,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SledLog {
    /// Opens the log in `directory`, or makes one, and checks every byte of it.
    pub fn open(directory: &Path, options: &SledLogOptions) -> Result<Self, StorageError> {
        let recovered = recovery::recover(directory, options)?;
        let shared = Arc::new(Shared::new(recovered.view, options.queued_bytes_max));
        let disk = Arc::new(recovered.disk);
        let space = recovered.standing.space.clone();
        let writer = Writer::new(
            Arc::clone(&shared),
            Arc::clone(&disk),
            recovered.standing,
            Arc::clone(&options.measures),
        );
        let thread = thread::Builder::new()
            .name("triarch-log".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    // A completion that panics must not leave callers waiting for a thread that is gone.
                    let _guard = StopOnPanic(shared);
                    writer.run();
                }
            })
            .map_err(|error| StorageError::io("start a thread for", directory, &error))?;
        Ok(SledLog {
            shared,
            disk: Mutex::new(Some(disk)),
            space,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// How much room its disk has.
    pub fn space(&self) -> Space {
        self.space.clone()
    }

    fn write(&self, change: Change, done: Option<Completion>) -> Result<(), StorageError> {
        let mut state = self.shared.lock_to_write()?;
        state.view.change(&change);
        self.shared.enqueue(state, change, done);
        Ok(())
    }

    /// Reads `range` from sled. `Ok(None)` if entries were removed meanwhile and it must be tried anew.
    fn read_disk(
        &self,
        range: Range<u64>,
        bytes_max: usize,
        removals: u64,
    ) -> Result<Option<Vec<LogRecord>>, StorageError> {
        let Some(disk) = self.disk.lock().clone() else {
            return Err(Stop::Closed.error());
        };
        let outcome = disk.entries(range.clone(), bytes_max).and_then(|entries| {
            let bytes: usize = entries.iter().map(|entry| entry.record.payload.len()).sum();
            let complete = entries
                .first()
                .is_some_and(|entry| entry.record.position.index == range.start)
                && (bytes >= bytes_max || entries.len() as u64 == range.end - range.start);
            if complete {
                Ok(entries)
            } else {
                Err(disk.damaged(format!(
                    "entries of {}..{} have vanished",
                    range.start, range.end
                )))
            }
        });
        {
            let state = self.shared.lock();
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
                self.shared.stop(Stop::Failed(error.to_string()));
                Err(error)
            }
        }
    }

    /// Waits for the sync thread to end, unless it is the one that asks.
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
        if let Some(disk) = self.disk.lock().take() {
            match self.shared.stopped() {
                // Dropping sled would sync its file once more: see the writer.
                Some(Stop::Failed(_)) => std::mem::forget(disk),
                Some(Stop::Closed | Stop::Dropped) | None => disk.release(),
            }
        }
    }
}

/// Stops the log when the sync thread unwinds.
struct StopOnPanic(Arc<Shared>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            let cause = "the sync thread panicked".to_string();
            self.0.stop(Stop::Failed(cause));
        }
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        self.shared.abandon();
        self.join();
    }
}

impl LogStore for SledLog {
    fn state(&self) -> LogState {
        self.shared.lock().view.state()
    }

    fn append(&self, records: Vec<LogRecord>, done: Completion) -> Result<(), StorageError> {
        self.write(Change::Append(records), Some(done))
    }

    fn truncate_after(
        &self,
        last: Option<LogPosition>,
        done: Completion,
    ) -> Result<(), StorageError> {
        self.write(Change::TruncateAfter(last), Some(done))
    }

    fn purge(&self, upto: LogPosition, done: Completion) -> Result<(), StorageError> {
        self.write(Change::Purge(upto), Some(done))
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
            let (place, removals_now) = {
                let state = self.shared.lock();
                state.check_running()?;
                (
                    state.view.find(next..range.end, wanted),
                    state.view.removals(),
                )
            };
            if *removals.get_or_insert(removals_now) != removals_now {
                // What was read so far may be from another history by now.
                records.clear();
                removals = None;
                continue;
            }
            match place {
                Place::Memory(recent) => {
                    records.extend(recent);
                    return Ok(records);
                }
                Place::Disk(part) => match self.read_disk(part, wanted, removals_now)? {
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
        self.write(Change::Vote(vote), Some(done))
    }

    fn vote(&self) -> Option<Bytes> {
        self.shared.lock().view.vote.clone()
    }

    fn save_committed(&self, committed: Option<LogPosition>) -> Result<(), StorageError> {
        self.write(Change::Committed(committed), None)
    }

    fn committed(&self) -> Option<LogPosition> {
        self.shared.lock().view.committed()
    }

    fn close(&self) -> Result<(), StorageError> {
        self.shared.begin_close();
        self.join();
        match self.shared.stopped() {
            Some(Stop::Closed) | None => Ok(()),
            Some(stop @ (Stop::Dropped | Stop::Failed(_))) => Err(stop.error()),
        }
    }
}
