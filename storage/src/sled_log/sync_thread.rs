//! The sync thread: takes what is queued, writes it, makes it durable, tells those who wait.
//!
//! One thread, so the order of the calls is the order on disk, and one fdatasync serves all that was queued while the
//! one before was under way. Invariants:
//!
//! - A completion is called with `Ok` only after an fdatasync of sled's file that began after its write was flushed.
//! - Nothing is removed from the log before the reason is durable: a lower mark for a truncation, the purged marker
//!   for a purge.
//! - Nothing is written before there is room for it on disk. A group that finds none waits, and everything after it.
//! - After the first error the thread writes nothing more, not even to close sled, whose closing would sync again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chunk::{Link, encode};
use super::free_space::{LAST_BYTES, SpaceLevel, WRITE_FACTOR};
use super::hard_state::{
    COMMITTED_KEY, PURGED_KEY, StoredVote, VOTE_KEY, encode_committed, encode_purged, encode_vote,
};
use super::high_water_mark::Claim;
use super::preallocate::is_full;
use super::recovery::Standing;
use super::sled_db::Disk;
use super::write_queue::{Shared, Turn, Write};
use crate::error::Stop;
use crate::write_ops::Change;
use crate::{LogMeasures, LogPosition, LogRecord, StorageError};

/// Purged chunks removed at a time. What is to be written meanwhile waits for that, so it is little; but between two groups
/// of writes it is at least twice what the group has written, so that removing never falls behind.
const PURGE_STEP_CHUNKS_MIN: usize = 32;
const PURGE_STEP_CHUNKS_MAX: usize = 512;
/// What removing so many may write.
const PURGE_STEP_BYTES: u64 = 2 << 20;
/// How often the disk's space is looked at when nothing is written.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often, while a write waits for space.
const WAIT_INTERVAL: Duration = Duration::from_millis(50);

pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Arc<Disk>,
    standing: Standing,
    /// Purged entries may still be in sled.
    removing: bool,
    measures: Arc<LogMeasures>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        disk: Arc<Disk>,
        standing: Standing,
        measures: Arc<LogMeasures>,
    ) -> Self {
        Writer {
            shared,
            disk,
            removing: standing.purged.is_some(),
            standing,
            measures,
        }
    }

    /// Works until the log is closed, dropped or failed.
    pub(super) fn run(mut self) {
        loop {
            let busy = self.removing && self.standing.space.seen().level != SpaceLevel::Full;
            let outcome = match self.shared.next_turn(busy, LOOK_INTERVAL) {
                Turn::Group(group) => self.write_group(group),
                Turn::Idle => self.remove_purged(PURGE_STEP_CHUNKS_MIN),
                Turn::Quiet => {
                    self.standing.space.look();
                    Ok(())
                }
                Turn::Close => {
                    let outcome = self.finish();
                    if outcome.is_ok() {
                        self.shared.stop(Stop::Closed);
                        return self.release();
                    }
                    outcome
                }
                Turn::Abandon => {
                    self.shared.stop(Stop::Dropped);
                    return self.release();
                }
            };
            if let Err(error) = outcome {
                return self.fail(&error);
            }
        }
    }

    fn write_group(&mut self, group: Vec<Write>) -> Result<(), StorageError> {
        match self.persist(&group) {
            Ok(()) => {
                if let Some(last) = group.last() {
                    let end = self.standing.tail.map_or(0, |tail| tail.position.index + 1);
                    self.shared.note_stored(end, last.removals);
                }
                self.measure(&group);
                let chunks: usize = group.iter().map(Write::chunks).sum();
                complete(group, &Ok(()));
                if mutated!(FsyncAfterAnswer) {
                    self.sync()?;
                }
                self.standing.mark.begin_carry()?;
                // A purge is never starved by writes, nor they by it.
                if self.removing {
                    let step = chunks.saturating_mul(2);
                    self.remove_purged(step.clamp(PURGE_STEP_CHUNKS_MIN, PURGE_STEP_CHUNKS_MAX))?;
                }
                Ok(())
            }
            Err(error) => {
                self.shared.stop(Stop::Failed(error.to_string()));
                if is_disk_full(&error) {
                    self.standing.space.give_up_reserve();
                }
                complete(group, &Err(error.clone()));
                Err(error)
            }
        }
    }

    fn measure(&self, group: &[Write]) {
        for write in group {
            match &write.change {
                Change::Append(_) => self.measures.append.observe_time(write.since.elapsed()),
                Change::TruncateAfter(_)
                | Change::Purge(_)
                | Change::Vote(_)
                | Change::Committed(_) => {}
            }
        }
    }

    fn persist(&mut self, group: &[Write]) -> Result<(), StorageError> {
        let payload_bytes: usize = group.iter().map(|write| write.bytes).sum();
        let bytes = u64::try_from(payload_bytes).unwrap_or(u64::MAX);
        self.wait_for_room(
            bytes
                .saturating_mul(WRITE_FACTOR)
                .saturating_add(LAST_BYTES),
        )?;
        let committed = |write: &Write| matches!(write.change, Change::Committed(_));
        let last_committed = group.iter().rposition(committed);
        for (position, write) in group.iter().enumerate() {
            // Of several markers of how far the log is committed, the last one says all.
            if !committed(write) || Some(position) == last_committed {
                self.write(&write.change)?;
            }
        }
        if group.iter().any(|write| write.done.is_some()) && !mutated!(FsyncAfterAnswer) {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits until the file has blocks for so much, giving up the reserve for it if it must.
    fn wait_for_room(&mut self, bytes: u64) -> Result<(), StorageError> {
        let mut told = false;
        loop {
            let made = self.make_room(bytes);
            let waits = made.as_ref().is_err_and(is_full);
            if waits != told {
                self.standing.space.note_waiting(waits);
                self.standing.space.look();
            }
            match made {
                Ok(()) => return Ok(()),
                Err(error) if !is_full(&error) => {
                    return Err(StorageError::io(
                        "allocate space for",
                        self.disk.file_path(),
                        &error,
                    ));
                }
                Err(error) => {
                    if !told {
                        tracing::warn!(path = %self.disk.file_path().display(), "there is no space for what is to be written: it waits until there is");
                        told = true;
                    }
                    if self.shared.pause(WAIT_INTERVAL) {
                        return Err(StorageError::io("write", self.disk.file_path(), &error));
                    }
                }
            }
        }
    }

    fn make_room(&mut self, bytes: u64) -> std::io::Result<()> {
        let mut made = self.standing.headroom.ensure(bytes);
        if made.as_ref().is_err_and(is_full) && self.standing.space.give_up_reserve() {
            tracing::warn!(path = %self.disk.file_path().display(), "the reserved space is given up to finish what was begun");
            made = self.standing.headroom.ensure(bytes);
        }
        let space = &self.standing.space;
        space.note_headroom(self.standing.headroom.bytes());
        let seen = space.look();
        if made.is_ok() && !self.standing.headroom.can_allocate() && seen.level == SpaceLevel::Full
        {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        made
    }

    fn write(&mut self, change: &Change) -> Result<(), StorageError> {
        match change {
            Change::Append(records) => self.append(records),
            Change::TruncateAfter(after) => self.truncate_after(*after),
            Change::Purge(upto) => self.purge(*upto),
            Change::Vote(_) if mutated!(VoteNotPersisted) => Ok(()),
            Change::Vote(vote) => {
                self.standing.vote_sequence += 1;
                let stored = StoredVote {
                    sequence: self.standing.vote_sequence,
                    vote: vote.clone(),
                };
                self.disk.insert_marker(VOTE_KEY, encode_vote(&stored))
            }
            Change::Committed(Some(committed)) => self
                .disk
                .insert_marker(COMMITTED_KEY, encode_committed(*committed)),
            Change::Committed(None) => self.disk.remove_marker(COMMITTED_KEY),
        }
    }

    fn append(&mut self, records: &[LogRecord]) -> Result<(), StorageError> {
        for record in records {
            let (chunks, link) = encode(record, self.standing.tail);
            self.disk.insert(chunks)?;
            self.standing.tail = Some(link);
        }
        Ok(())
    }

    fn truncate_after(&mut self, after: Option<LogPosition>) -> Result<(), StorageError> {
        let purged_end = self
            .standing
            .purged
            .map_or(0, |purged| purged.position.index + 1);
        let end = after.map_or(0, |after| after.index + 1).max(purged_end);
        if self
            .standing
            .tail
            .is_none_or(|tail| tail.position.index < end)
        {
            return Ok(());
        }
        let kept = if end > purged_end {
            self.held(end - 1)?
        } else {
            self.standing.purged
        };
        let mut claim = self.standing.mark.claim();
        if claim.last.is_some_and(|last| last.position.index >= end) {
            claim.last = kept;
            self.standing.mark.store_durably(claim)?;
        }
        if !mutated!(TruncationNotPersisted) {
            self.disk.remove_from(end)?;
        }
        self.standing.tail = kept;
        Ok(())
    }

    fn purge(&mut self, upto: LogPosition) -> Result<(), StorageError> {
        if self
            .standing
            .purged
            .is_some_and(|purged| purged.position.index >= upto.index)
        {
            return Ok(());
        }
        let tail_index = self.standing.tail.map(|tail| tail.position.index);
        let held = if tail_index >= Some(upto.index) {
            self.held(upto.index)?
        } else {
            None
        };
        let purged = held.unwrap_or(Link {
            position: upto,
            checksum: 0,
        });
        self.disk.insert_marker(PURGED_KEY, encode_purged(purged))?;
        self.standing.purged = Some(purged);
        if self
            .standing
            .tail
            .is_none_or(|tail| tail.position.index <= upto.index)
        {
            self.standing.tail = Some(purged);
        }
        self.removing = true;
        Ok(())
    }

    /// The link of the entry at `index`, which is not past the last one. A log that was never purged may have begun
    /// after it.
    fn held(&self, index: u64) -> Result<Option<Link>, StorageError> {
        match (self.disk.link(index)?, self.standing.purged) {
            (Some(link), _) => Ok(Some(link)),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(self.disk.damaged(format!("entry {index} has vanished"))),
        }
    }

    /// Makes everything written so far durable, and notes how far that is.
    fn sync(&mut self) -> Result<(), StorageError> {
        self.disk.flush()?;
        self.standing.mark.carry()?;
        let begun = Instant::now();
        if mutated!(FailedFsyncRetried) {
            let _ = self.disk.sync_data();
        }
        if !mutated!(NoFsync) {
            self.disk.sync_data()?;
        }
        self.measures.sync.observe_time(begun.elapsed());
        let claim = self.claim();
        if claim != self.standing.mark.claim() {
            self.standing.mark.store(claim)?;
        }
        Ok(())
    }

    fn claim(&self) -> Claim {
        Claim {
            last: self.standing.tail,
            vote_sequence: self.standing.vote_sequence,
        }
    }

    /// Removes up to `chunks` of what was purged. The purged marker is durable: it is synced before its completion is called,
    /// and this runs after.
    fn remove_purged(&mut self, chunks: usize) -> Result<(), StorageError> {
        if let Some(purged) = self.standing.purged {
            let end = purged.position.index + 1;
            match self.make_room(PURGE_STEP_BYTES) {
                Ok(()) => {}
                // Nobody waits for it.
                Err(error) if is_full(&error) => {
                    self.shared.pause(LOOK_INTERVAL);
                    return Ok(());
                }
                Err(error) => {
                    return Err(StorageError::io(
                        "allocate space for",
                        self.disk.file_path(),
                        &error,
                    ));
                }
            }
            self.removing = self.disk.remove_before(end, chunks)?;
        }
        Ok(())
    }

    /// The last sync, markers that nobody waited for included.
    fn finish(&mut self) -> Result<(), StorageError> {
        self.disk.flush()?;
        self.disk.sync_data()?;
        self.standing.mark.store_durably(self.claim())
    }

    fn fail(self, error: &StorageError) {
        tracing::error!(%error, "the log has stopped");
        if is_disk_full(error) {
            self.standing.space.give_up_reserve();
        }
        self.shared.stop(Stop::Failed(error.to_string()));
        // Dropping sled would sync its file once more, and this time perhaps succeed: leave it.
        std::mem::forget(self.disk);
    }

    fn release(self) {
        self.disk.release();
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

fn complete(group: Vec<Write>, result: &Result<(), StorageError>) {
    for done in group.into_iter().filter_map(|write| write.done) {
        done(result.clone());
    }
}
