//! What callers and the sync thread share: the view, and the queue of writes that are not on disk yet.
//!
//! The queue is bounded in bytes. A caller that finds it full waits for the sync thread, which waits for no caller: that
//! is the back-pressure of a disk slower than the network.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::chunk::CHUNK_BYTES_MAX;
use super::log_view::View;
use crate::error::Stop;
use crate::write_ops::Change;
use crate::{Completion, StorageError};

/// At most this much is written between two fdatasyncs, so that no group keeps the first of it waiting for long.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// What a write costs the queue besides its payload.
const WRITE_OVERHEAD_BYTES: usize = 64;

/// A queued write.
pub(super) struct Write {
    pub(super) change: Change,
    /// `None` for what nobody waits for: the committed marker.
    pub(super) done: Option<Completion>,
    /// [`View::removals`] right after this write.
    pub(super) removals: u64,
    /// When it was queued.
    pub(super) since: Instant,
    pub(super) bytes: usize,
}

impl Write {
    /// About as many chunks as it takes in sled.
    pub(super) fn chunks(&self) -> usize {
        match &self.change {
            Change::Append(records) => records.len() + self.bytes / CHUNK_BYTES_MAX,
            Change::TruncateAfter(_)
            | Change::Purge(_)
            | Change::Vote(_)
            | Change::Committed(_) => 0,
        }
    }
}

/// What the sync thread does next.
pub(super) enum Turn {
    /// Write these.
    Group(Vec<Write>),
    /// Nothing is queued, and there is other work.
    Idle,
    /// Nothing is queued, and for a while nothing was.
    Quiet,
    /// All is written: close in good order.
    Close,
    /// The log was dropped without being closed.
    Abandon,
}

/// See the [module](self).
pub(super) struct Shared {
    state: Mutex<State>,
    /// The sync thread waits here for work.
    work: Condvar,
    /// Callers wait here for room in the queue.
    room: Condvar,
    queued_bytes_max: usize,
}

pub(super) struct State {
    pub(super) view: View,
    queue: VecDeque<Write>,
    queued_bytes: usize,
    closing: bool,
    abandoned: bool,
    stopped: Option<Stop>,
}

impl State {
    pub(super) fn check_running(&self) -> Result<(), StorageError> {
        match &self.stopped {
            None if self.closing => Err(Stop::Closed.error()),
            None => Ok(()),
            Some(stop) => Err(stop.error()),
        }
    }

    fn is_ending(&self) -> bool {
        self.closing || self.abandoned
    }

    fn take_group(&mut self) -> Vec<Write> {
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

impl Shared {
    pub(super) fn new(view: View, queued_bytes_max: usize) -> Self {
        Shared {
            state: Mutex::new(State {
                view,
                queue: VecDeque::new(),
                queued_bytes: 0,
                closing: false,
                abandoned: false,
                stopped: None,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            queued_bytes_max,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The state of a running log with room in the queue.
    pub(super) fn lock_to_write(&self) -> Result<MutexGuard<'_, State>, StorageError> {
        let mut state = self.state.lock();
        loop {
            state.check_running()?;
            if state.queued_bytes < self.queued_bytes_max {
                return Ok(state);
            }
            self.room.wait(&mut state);
        }
    }

    /// Queues a write whose change the view has taken already.
    pub(super) fn enqueue(
        &self,
        mut state: MutexGuard<'_, State>,
        change: Change,
        done: Option<Completion>,
    ) {
        let payload_bytes = match &change {
            Change::Append(records) => records
                .iter()
                .map(|record| record.payload.len() + WRITE_OVERHEAD_BYTES)
                .sum(),
            Change::Vote(vote) => vote.len(),
            Change::TruncateAfter(_) | Change::Purge(_) | Change::Committed(_) => 0,
        };
        let bytes = payload_bytes + WRITE_OVERHEAD_BYTES;
        // What nobody waits for goes along with what comes next, or when the thread looks around.
        let awaited = done.is_some();
        let removals = state.view.removals();
        state.queued_bytes += bytes;
        state.queue.push_back(Write {
            change,
            done,
            removals,
            since: Instant::now(),
            bytes,
        });
        drop(state);
        if awaited {
            self.work.notify_one();
        }
    }

    /// Waits for something to do, but not for longer than `quiet`, which is also how long what nobody waits for may wait. `busy` says that there is work besides the queue.
    pub(super) fn next_turn(&self, busy: bool, quiet: Duration) -> Turn {
        let mut state = self.state.lock();
        loop {
            if state.abandoned {
                return Turn::Abandon;
            }
            if !state.queue.is_empty() {
                let group = state.take_group();
                drop(state);
                self.room.notify_all();
                return Turn::Group(group);
            }
            if state.closing {
                return Turn::Close;
            }
            if busy {
                return Turn::Idle;
            }
            if self.work.wait_for(&mut state, quiet).timed_out() && state.queue.is_empty() {
                return Turn::Quiet;
            }
        }
    }

    /// Waits for `pause`, or until the log is to end. Whether it is.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.is_ending() {
            // Woken early by a new write, it pauses for less: whoever pauses looks again.
            let _ = self.work.wait_for(&mut state, pause);
        }
        state.is_ending()
    }

    /// Entries before `end` are in sled. See [`View::note_stored`].
    pub(super) fn note_stored(&self, end: u64, removals: u64) {
        self.state.lock().view.note_stored(end, removals);
    }

    /// Asks the sync thread to write what is queued and end.
    pub(super) fn begin_close(&self) {
        self.state.lock().closing = true;
        self.work.notify_one();
        self.room.notify_all();
    }

    /// Asks the sync thread to end at once.
    pub(super) fn abandon(&self) {
        self.state.lock().abandoned = true;
        self.work.notify_one();
        self.room.notify_all();
    }

    /// Refuses everything from now on, what is queued included. Only the first call counts.
    pub(super) fn stop(&self, stop: Stop) {
        let mut state = self.state.lock();
        let stop = state.stopped.get_or_insert(stop).clone();
        let queued = std::mem::take(&mut state.queue);
        state.queued_bytes = 0;
        drop(state);
        self.room.notify_all();
        self.work.notify_one();
        for done in queued.into_iter().filter_map(|write| write.done) {
            done(Err(stop.error()));
        }
    }

    /// Why the log stopped, once it has.
    pub(super) fn stopped(&self) -> Option<Stop> {
        self.state.lock().stopped.clone()
    }
}
