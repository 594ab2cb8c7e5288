//! The bounded queue of writes between callers and the sync thread. One lock guards the queue and the log's view.
//!
//! The queue is bounded in bytes. A caller that finds it full waits for the sync thread, which waits for no caller.
//! This is the back-pressure of a disk slower than the network.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::chunk::CHUNK_BYTES_MAX;
use super::log_view::LogView;
use crate::error::StopCause;
use crate::write_ops::WriteOp;
use crate::{Completion, StorageError};

/// Maximum bytes written between two fdatasyncs, so that no group delays its first write for long.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Bytes that a write costs the queue in addition to its payload.
const WRITE_OVERHEAD_BYTES: usize = 64;

/// A queued write.
pub(super) struct QueuedWrite {
    pub(super) op: WriteOp,
    /// `None` for the committed position, because no caller waits for it.
    pub(super) done: Option<Completion>,
    /// Value of [`LogView::removals`] right after this write.
    pub(super) removals: u64,
    /// Time at which it was queued.
    pub(super) queued_at: Instant,
    pub(super) bytes: usize,
}

impl QueuedWrite {
    /// Returns the approximate number of its chunks in sled.
    pub(super) fn chunks(&self) -> usize {
        match &self.op {
            WriteOp::Append(records) => records.len() + self.bytes / CHUNK_BYTES_MAX,
            WriteOp::TruncateAfter(_)
            | WriteOp::Purge(_)
            | WriteOp::Vote(_)
            | WriteOp::Committed(_) => 0,
        }
    }
}

/// The next step of the sync thread.
pub(super) enum SyncThreadWork {
    /// Write these as one group commit.
    Group(Vec<QueuedWrite>),
    /// Nothing is queued; do background work.
    Background,
    /// Nothing was queued during the idle timeout.
    IdleTimeout,
    /// Everything is written; close the log.
    Close,
    /// The log was dropped without being closed.
    Abandon,
}

/// Queued writes, and the view that already shows them.
pub(super) struct WriteQueue {
    state: Mutex<QueueState>,
    /// The sync thread waits here for work.
    not_empty: Condvar,
    /// Callers wait here for capacity.
    not_full: Condvar,
    queued_bytes_max: usize,
}

pub(super) struct QueueState {
    pub(super) view: LogView,
    queue: VecDeque<QueuedWrite>,
    queued_bytes: usize,
    closing: bool,
    abandoned: bool,
    stopped: Option<StopCause>,
}

impl QueueState {
    pub(super) fn check_running(&self) -> Result<(), StorageError> {
        match &self.stopped {
            None if self.closing => Err(StopCause::Closed.error()),
            None => Ok(()),
            Some(cause) => Err(cause.error()),
        }
    }

    fn is_ending(&self) -> bool {
        self.closing || self.abandoned
    }

    fn take_group(&mut self) -> Vec<QueuedWrite> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX
            && let Some(write) = self.queue.pop_front()
        {
            bytes += write.bytes;
            group.push(write);
        }
        self.queued_bytes -= bytes;
        group
    }
}

impl WriteQueue {
    pub(super) fn new(view: LogView, queued_bytes_max: usize) -> Self {
        WriteQueue {
            state: Mutex::new(QueueState {
                view,
                queue: VecDeque::new(),
                queued_bytes: 0,
                closing: false,
                abandoned: false,
                stopped: None,
            }),
            not_empty: Condvar::new(),
            not_full: Condvar::new(),
            queued_bytes_max,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }

    /// Returns the state of a running log with capacity in the queue.
    pub(super) fn lock_with_capacity(&self) -> Result<MutexGuard<'_, QueueState>, StorageError> {
        let mut state = self.state.lock();
        loop {
            state.check_running()?;
            if state.queued_bytes < self.queued_bytes_max {
                return Ok(state);
            }
            self.not_full.wait(&mut state);
        }
    }

    /// Queues a write that the view already shows.
    pub(super) fn enqueue(
        &self,
        mut state: MutexGuard<'_, QueueState>,
        op: WriteOp,
        done: Option<Completion>,
    ) {
        let payload_bytes = match &op {
            WriteOp::Append(records) => records
                .iter()
                .map(|record| record.payload.len() + WRITE_OVERHEAD_BYTES)
                .sum(),
            WriteOp::Vote(vote) => vote.len(),
            WriteOp::TruncateAfter(_) | WriteOp::Purge(_) | WriteOp::Committed(_) => 0,
        };
        let bytes = payload_bytes + WRITE_OVERHEAD_BYTES;
        // A write that no caller waits for is taken with the next group, or at the next idle check.
        let awaited = done.is_some();
        let removals = state.view.removals();
        state.queued_bytes += bytes;
        state.queue.push_back(QueuedWrite {
            op,
            done,
            removals,
            queued_at: Instant::now(),
            bytes,
        });
        drop(state);
        if awaited {
            self.not_empty.notify_one();
        }
    }

    /// Waits for work, at most `idle_timeout`, which also bounds how long a write without a completion stays queued.
    /// `has_background_work`: whether there is work in addition to the queue.
    pub(super) fn next_work(
        &self,
        has_background_work: bool,
        idle_timeout: Duration,
    ) -> SyncThreadWork {
        let mut state = self.state.lock();
        loop {
            if state.abandoned {
                return SyncThreadWork::Abandon;
            }
            if !state.queue.is_empty() {
                let group = state.take_group();
                drop(state);
                self.not_full.notify_all();
                return SyncThreadWork::Group(group);
            }
            if state.closing {
                return SyncThreadWork::Close;
            }
            if has_background_work {
                return SyncThreadWork::Background;
            }
            if self
                .not_empty
                .wait_for(&mut state, idle_timeout)
                .timed_out()
                && state.queue.is_empty()
            {
                return SyncThreadWork::IdleTimeout;
            }
        }
    }

    /// Waits at most `timeout`, or until the log is to end. Returns whether the log is to end.
    pub(super) fn wait_unless_ending(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.is_ending() {
            // A new write ends the wait early. The caller checks again.
            let _ = self.not_empty.wait_for(&mut state, timeout);
        }
        state.is_ending()
    }

    /// Records that entries before `end` are in sled. See [`LogView::mark_stored`].
    pub(super) fn mark_stored(&self, end: u64, removals: u64) {
        self.state.lock().view.mark_stored(end, removals);
    }

    /// Asks the sync thread to write the queue and end.
    pub(super) fn begin_close(&self) {
        self.state.lock().closing = true;
        self.not_empty.notify_one();
        self.not_full.notify_all();
    }

    /// Asks the sync thread to end at once.
    pub(super) fn abandon(&self) {
        self.state.lock().abandoned = true;
        self.not_empty.notify_one();
        self.not_full.notify_all();
    }

    /// Refuses everything from now on, including queued writes. Only the first cause counts.
    pub(super) fn stop(&self, cause: StopCause) {
        let mut state = self.state.lock();
        let cause = state.stopped.get_or_insert(cause).clone();
        let queued = std::mem::take(&mut state.queue);
        state.queued_bytes = 0;
        drop(state);
        self.not_full.notify_all();
        self.not_empty.notify_one();
        for done in queued.into_iter().filter_map(|write| write.done) {
            done(Err(cause.error()));
        }
    }

    /// Returns why the log stopped, once it has.
    pub(super) fn stopped(&self) -> Option<StopCause> {
        self.state.lock().stopped.clone()
    }
}
