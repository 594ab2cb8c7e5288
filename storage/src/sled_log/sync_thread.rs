//! Group commit: the sync thread writes the queued writes, makes them durable, and calls their completions.
//!
//! There is one thread, so the order of the calls is the order on disk. One fdatasync serves all writes that were
//! queued during the one before.
//!
//! # Invariants
//!
//! - A completion is called with `Ok` only after an fdatasync of sled's file that began after its write was flushed, and
//!   only if the file is still at its path.
//! - Nothing is removed from the log before the reason is durable: a lower high-water mark for a truncation, the purged
//!   position for a purge.
//! - Nothing is written before its blocks are preallocated. A group that finds no space waits, and so does everything
//!   after it.
//! - After the first error the thread writes nothing more. It does not even close sled, whose closing would sync again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chunk::{ChainLink, encode};
use super::free_space::{HARD_STATE_WRITE_BYTES, SpaceLevel, WRITE_AMPLIFICATION};
use super::hard_state::{
    COMMITTED_KEY, PURGED_KEY, StoredVote, VOTE_KEY, encode_committed, encode_purged, encode_vote,
};
use super::high_water_mark::HighWaterMark;
use super::preallocate::is_full;
use super::recovery::DurableState;
use super::sled_db::SledDb;
use super::write_queue::{QueuedWrite, SyncThreadWork, WriteQueue};
use crate::error::StopCause;
use crate::write_ops::WriteOp;
use crate::{LogMetrics, LogPosition, LogRecord, StorageError};

/// Minimum number of purged chunks removed in one step. Writes queued in that time wait for the step, so it is small.
/// Between two groups of writes it is at least twice the chunks of the group (up to the maximum), so that the removal
/// never falls behind.
const PURGE_STEP_CHUNKS_MIN: usize = 32;
const PURGE_STEP_CHUNKS_MAX: usize = 512;
/// Bytes that one such step may write.
const PURGE_STEP_BYTES: u64 = 2 << 20;
/// Interval between checks of the free space when nothing is written.
const FREE_SPACE_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Interval between attempts while a write waits for space.
const SPACE_RETRY_INTERVAL: Duration = Duration::from_millis(50);

pub(super) struct SyncThread {
    queue: Arc<WriteQueue>,
    db: Arc<SledDb>,
    state: DurableState,
    /// Whether purged entries may still be in sled.
    removing: bool,
    metrics: Arc<LogMetrics>,
}

impl SyncThread {
    pub(super) fn new(
        queue: Arc<WriteQueue>,
        db: Arc<SledDb>,
        state: DurableState,
        metrics: Arc<LogMetrics>,
    ) -> Self {
        SyncThread {
            queue,
            db,
            removing: state.purged.is_some(),
            state,
            metrics,
        }
    }

    /// Runs until the log is closed, dropped or failed.
    pub(super) fn run(mut self) {
        loop {
            let has_background_work =
                self.removing && self.state.space.status().level != SpaceLevel::Full;
            let outcome = match self
                .queue
                .next_work(has_background_work, FREE_SPACE_POLL_INTERVAL)
            {
                SyncThreadWork::Group(group) => self.write_group(group),
                SyncThreadWork::Background => self.remove_purged(PURGE_STEP_CHUNKS_MIN),
                SyncThreadWork::IdleTimeout => {
                    self.state.space.refresh();
                    self.db.check_present()
                }
                SyncThreadWork::Close => {
                    let outcome = self.finish();
                    if outcome.is_ok() {
                        self.queue.stop(StopCause::Closed);
                        return self.release();
                    }
                    outcome
                }
                SyncThreadWork::Abandon => {
                    self.queue.stop(StopCause::Dropped);
                    return self.release();
                }
            };
            if let Err(error) = outcome {
                return self.fail(&error);
            }
        }
    }

    fn write_group(&mut self, group: Vec<QueuedWrite>) -> Result<(), StorageError> {
        let persisted = self.persist(&group);
        self.metrics.sync_ends();
        match persisted {
            Ok(()) => {
                if let Some(last) = group.last() {
                    let end = self.state.tail.map_or(0, |tail| tail.position.index + 1);
                    self.queue.mark_stored(end, last.removals);
                }
                self.record_append_latency(&group);
                let chunks: usize = group.iter().map(QueuedWrite::chunks).sum();
                complete(group, &Ok(()));
                if mutated!(FsyncAfterAnswer) {
                    self.sync()?;
                }
                self.state.mark_file.start_writeback()?;
                // Neither a purge nor the writes starve the other.
                if self.removing {
                    let step = chunks.saturating_mul(2);
                    self.remove_purged(step.clamp(PURGE_STEP_CHUNKS_MIN, PURGE_STEP_CHUNKS_MAX))?;
                }
                Ok(())
            }
            Err(error) => {
                self.queue.stop(StopCause::Failed(error.to_string()));
                if is_disk_full(&error) {
                    self.state.space.release_reserve();
                }
                complete(group, &Err(error.clone()));
                Err(error)
            }
        }
    }

    fn record_append_latency(&self, group: &[QueuedWrite]) {
        for write in group {
            match &write.op {
                WriteOp::Append(_) => self.metrics.append.observe_time(write.queued_at.elapsed()),
                WriteOp::TruncateAfter(_)
                | WriteOp::Purge(_)
                | WriteOp::Vote(_)
                | WriteOp::Committed(_) => {}
            }
        }
    }

    fn persist(&mut self, group: &[QueuedWrite]) -> Result<(), StorageError> {
        let payload_bytes: usize = group.iter().map(|write| write.bytes).sum();
        let bytes = u64::try_from(payload_bytes).unwrap_or(u64::MAX);
        self.wait_for_space(
            bytes
                .saturating_mul(WRITE_AMPLIFICATION)
                .saturating_add(HARD_STATE_WRITE_BYTES),
        )?;
        // A wait for space is no sign of a disk that hangs.
        self.metrics.sync_begins();
        let committed = |write: &QueuedWrite| matches!(write.op, WriteOp::Committed(_));
        let last_committed = group.iter().rposition(committed);
        for (position, write) in group.iter().enumerate() {
            // Only the last of several committed positions matters.
            if !committed(write) || Some(position) == last_committed {
                self.write(&write.op)?;
            }
        }
        if group.iter().any(|write| write.done.is_some()) && !mutated!(FsyncAfterAnswer) {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits until the file has blocks for `bytes`. Releases the emergency reserve if it must.
    fn wait_for_space(&mut self, bytes: u64) -> Result<(), StorageError> {
        let mut warned = false;
        loop {
            let made = self.ensure_space(bytes);
            let waits = made.as_ref().is_err_and(is_full);
            if waits != warned {
                self.state.space.set_write_waiting(waits);
                self.state.space.refresh();
            }
            match made {
                Ok(()) => return Ok(()),
                Err(error) if !is_full(&error) => {
                    return Err(StorageError::io(
                        "allocate space for",
                        self.db.file_path(),
                        &error,
                    ));
                }
                Err(error) => {
                    if !warned {
                        tracing::warn!(path = %self.db.file_path().display(), "there is no disk space for pending writes: they wait until there is");
                        warned = true;
                    }
                    if self.queue.wait_unless_ending(SPACE_RETRY_INTERVAL) {
                        return Err(StorageError::io("write", self.db.file_path(), &error));
                    }
                }
            }
        }
    }

    fn ensure_space(&mut self, bytes: u64) -> std::io::Result<()> {
        let mut made = self.state.preallocator.ensure(bytes);
        if made.as_ref().is_err_and(is_full) && self.state.space.release_reserve() {
            tracing::warn!(path = %self.db.file_path().display(), "the emergency reserve is released to finish pending writes");
            made = self.state.preallocator.ensure(bytes);
        }
        let space = &self.state.space;
        space.set_preallocated_bytes(self.state.preallocator.preallocated_bytes());
        let status = space.refresh();
        if made.is_ok()
            && !self.state.preallocator.can_allocate()
            && status.level == SpaceLevel::Full
        {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        made
    }

    fn write(&mut self, op: &WriteOp) -> Result<(), StorageError> {
        match op {
            WriteOp::Append(records) => self.append(records),
            WriteOp::TruncateAfter(after) => self.truncate_after(*after),
            WriteOp::Purge(upto) => self.purge(*upto),
            WriteOp::Vote(_) if mutated!(VoteNotPersisted) => Ok(()),
            WriteOp::Vote(vote) => {
                self.state.vote_sequence += 1;
                let stored = StoredVote {
                    sequence: self.state.vote_sequence,
                    vote: vote.clone(),
                };
                self.db.insert_meta(VOTE_KEY, encode_vote(&stored))
            }
            WriteOp::Committed(Some(committed)) => self
                .db
                .insert_meta(COMMITTED_KEY, encode_committed(*committed)),
            WriteOp::Committed(None) => self.db.remove_meta(COMMITTED_KEY),
        }
    }

    fn append(&mut self, records: &[LogRecord]) -> Result<(), StorageError> {
        for record in records {
            let (chunks, link) = encode(record, self.state.tail);
            self.db.insert(chunks)?;
            self.state.tail = Some(link);
        }
        Ok(())
    }

    fn truncate_after(&mut self, after: Option<LogPosition>) -> Result<(), StorageError> {
        let purged_end = self
            .state
            .purged
            .map_or(0, |purged| purged.position.index + 1);
        let end = after.map_or(0, |after| after.index + 1).max(purged_end);
        if self.state.tail.is_none_or(|tail| tail.position.index < end) {
            return Ok(());
        }
        let kept = if end > purged_end {
            self.link_at(end - 1)?
        } else {
            self.state.purged
        };
        let mut mark = self.state.mark_file.value();
        if mark.last.is_some_and(|last| last.position.index >= end) {
            mark.last = kept;
            self.state.mark_file.store_durably(mark)?;
        }
        if !mutated!(TruncationNotPersisted) {
            self.db.remove_from(end)?;
        }
        self.state.tail = kept;
        Ok(())
    }

    fn purge(&mut self, upto: LogPosition) -> Result<(), StorageError> {
        if self
            .state
            .purged
            .is_some_and(|purged| purged.position.index >= upto.index)
        {
            return Ok(());
        }
        let tail_index = self.state.tail.map(|tail| tail.position.index);
        let held = if tail_index >= Some(upto.index) {
            self.link_at(upto.index)?
        } else {
            None
        };
        let purged = held.unwrap_or(ChainLink {
            position: upto,
            checksum: 0,
        });
        self.db.insert_meta(PURGED_KEY, encode_purged(purged))?;
        self.state.purged = Some(purged);
        if self
            .state
            .tail
            .is_none_or(|tail| tail.position.index <= upto.index)
        {
            self.state.tail = Some(purged);
        }
        self.removing = true;
        Ok(())
    }

    /// Returns the link of the entry at `index`, which is not past the last one. A log that was never purged may have
    /// begun after it.
    fn link_at(&self, index: u64) -> Result<Option<ChainLink>, StorageError> {
        match (self.db.link(index)?, self.state.purged) {
            (Some(link), _) => Ok(Some(link)),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(self.db.damaged(format!("entry {index} has vanished"))),
        }
    }

    /// Makes everything written so far durable, and stores the new high-water mark.
    fn sync(&mut self) -> Result<(), StorageError> {
        self.db.flush()?;
        self.state.mark_file.wait_for_writeback()?;
        let begun = Instant::now();
        if mutated!(FailedFsyncRetried) {
            let _ = self.db.sync_data();
        }
        if !mutated!(NoFsync) {
            self.db.sync_data()?;
        }
        self.metrics.sync.observe_time(begun.elapsed());
        // A sync of a deleted file succeeds.
        self.db.check_present()?;
        let mark = self.high_water_mark();
        if mark != self.state.mark_file.value() {
            self.state.mark_file.store(mark)?;
        }
        Ok(())
    }

    fn high_water_mark(&self) -> HighWaterMark {
        HighWaterMark {
            last: self.state.tail,
            vote_sequence: self.state.vote_sequence,
        }
    }

    /// Removes up to `chunks` purged chunks. The purged position is durable: it is synced before its completion is
    /// called, and this runs after that.
    fn remove_purged(&mut self, chunks: usize) -> Result<(), StorageError> {
        if let Some(purged) = self.state.purged {
            let end = purged.position.index + 1;
            match self.ensure_space(PURGE_STEP_BYTES) {
                Ok(()) => {}
                // No caller waits for the removal.
                Err(error) if is_full(&error) => {
                    self.queue.wait_unless_ending(FREE_SPACE_POLL_INTERVAL);
                    return Ok(());
                }
                Err(error) => {
                    return Err(StorageError::io(
                        "allocate space for",
                        self.db.file_path(),
                        &error,
                    ));
                }
            }
            self.removing = self.db.remove_before(end, chunks)?;
        }
        Ok(())
    }

    /// Makes the last sync, which includes hard state without a completion.
    fn finish(&mut self) -> Result<(), StorageError> {
        self.db.flush()?;
        self.db.sync_data()?;
        self.state.mark_file.store_durably(self.high_water_mark())
    }

    fn fail(self, error: &StorageError) {
        tracing::error!(%error, "the log has stopped");
        if is_disk_full(error) {
            self.state.space.release_reserve();
        }
        self.queue.stop(StopCause::Failed(error.to_string()));
        // Dropping sled would sync its file once more, and might succeed this time. So it is never dropped.
        std::mem::forget(self.db);
    }

    fn release(self) {
        self.db.release();
    }
}

fn is_disk_full(error: &StorageError) -> bool {
    matches!(
        error,
        StorageError::Io {
            disk_full: true,
            ..
        }
    )
}

fn complete(group: Vec<QueuedWrite>, result: &Result<(), StorageError>) {
    for done in group.into_iter().filter_map(|write| write.done) {
        done(result.clone());
    }
}
