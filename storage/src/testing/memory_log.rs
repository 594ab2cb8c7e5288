//! An in-memory [`LogStore`] that fails on request: for tests of the layers above the log, and for simulations.
//!
//! It keeps two copies of the log: the one that readers see, and the one that a restart would find. Writes move from
//! the first to the second when they are *synced*: at once by default, or on request of the test
//! ([`MemoryLog::hold_syncs`]). A [`crash`](MemoryLog::crash) returns the second copy. A sync can be made to fail,
//! which stops the store for good.
//!
//! It has no thread and no clock. Completions are called in order, on the thread whose call makes them due, and never
//! under a lock. So a deterministic simulation stays deterministic.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{StopCause, failure};
use crate::testing::seeded_random::SeededRandom;
use crate::write_ops::{WriteOp, assert_appendable, assert_purgeable, assert_truncatable};
use crate::{Completion, LogPosition, LogRecord, LogState, LogStore, StorageError};

/// An in-memory log; see the [module](self). Clones are handles on the same log.
#[derive(Clone, Default)]
pub struct MemoryLog {
    shared: Arc<Mutex<Shared>>,
}

/// The unsynced writes that a crash leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// None: the disk had not begun.
    Dropped,
    /// A prefix chosen by this seed, possibly all, possibly ending inside the entries of one append.
    Prefix {
        /// The same seed on the same log leaves the same prefix.
        seed: u64,
    },
}

#[derive(Default)]
struct Shared {
    visible: Image,
    durable: Image,
    /// Visible, not yet durable, in the order of the calls.
    unsynced: VecDeque<PendingWrite>,
    /// Completions that are due, in order. The call that set `delivering` drains them.
    due: VecDeque<(Completion, Result<(), StorageError>)>,
    delivering: bool,
    holding: bool,
    syncs: u64,
    /// The number of the sync that is to fail.
    failing_sync: Option<u64>,
    stopped: Option<StopCause>,
}

struct PendingWrite {
    op: WriteOp,
    /// `None` for the committed position, because no caller waits for it.
    done: Option<Completion>,
}

#[derive(Clone, Default)]
struct Image {
    purged: Option<LogPosition>,
    entries: BTreeMap<u64, LogRecord>,
    vote: Option<Bytes>,
    committed: Option<LogPosition>,
}

impl Image {
    fn last(&self) -> Option<LogPosition> {
        self.entries
            .last_key_value()
            .map(|(_, record)| record.position)
            .or(self.purged)
    }

    fn held(&self, index: u64) -> Option<LogPosition> {
        self.entries.get(&index).map(|record| record.position)
    }

    fn apply(&mut self, op: &WriteOp) {
        match op {
            WriteOp::Append(records) => {
                for record in records {
                    self.entries.insert(record.position.index, record.clone());
                }
            }
            WriteOp::TruncateAfter(None) => self.entries.clear(),
            WriteOp::TruncateAfter(Some(last)) => {
                self.entries.split_off(&(last.index + 1));
            }
            WriteOp::Purge(upto) => {
                if self.purged.is_none_or(|purged| purged.index < upto.index) {
                    self.entries = self.entries.split_off(&(upto.index + 1));
                    self.purged = Some(*upto);
                }
            }
            WriteOp::Vote(vote) => self.vote = Some(vote.clone()),
            WriteOp::Committed(committed) => self.committed = *committed,
        }
    }
}

impl Shared {
    fn check_running(&self) -> Result<(), StorageError> {
        match &self.stopped {
            None => Ok(()),
            Some(stop) => Err(stop.error()),
        }
    }

    /// Makes unsynced writes durable as one sync, up to the `writes`-th that has a completion. Returns how many
    /// completions became due.
    fn sync(&mut self, writes: usize) -> usize {
        let mut taken = Vec::new();
        let mut waited = 0;
        while waited < writes {
            let Some(write) = self.unsynced.pop_front() else {
                break;
            };
            waited += usize::from(write.done.is_some());
            taken.push(write);
        }
        if waited == 0 {
            // No caller asked for a sync, so the committed position waits for the next one.
            for write in taken.into_iter().rev() {
                self.unsynced.push_front(write);
            }
            return 0;
        }
        self.syncs += 1;
        if self.failing_sync == Some(self.syncs) {
            self.fail(taken);
            return waited;
        }
        for write in taken {
            self.durable.apply(&write.op);
            if let Some(done) = write.done {
                self.due.push_back((done, Ok(())));
            }
        }
        waited
    }

    /// Fails a sync: the writes in it get its error, and every later one gets that the store has stopped.
    fn fail(&mut self, taken: Vec<PendingWrite>) {
        let error = StorageError::Io {
            action: "sync",
            path: PathBuf::from("(memory)"),
            cause: format!("sync {} fails by the plan of the test", self.syncs),
            disk_full: false,
            exhausted: false,
        };
        self.stopped = Some(StopCause::Failed(error.to_string()));
        for done in taken.into_iter().filter_map(|write| write.done) {
            self.due.push_back((done, Err(error.clone())));
        }
        self.refuse_unsynced();
    }

    fn refuse_unsynced(&mut self) {
        let stopped = self.check_running();
        for done in self.unsynced.drain(..).filter_map(|write| write.done) {
            self.due.push_back((done, stopped.clone()));
        }
    }
}

impl MemoryLog {
    /// Creates an empty log. Every write is durable when the call that makes it returns.
    pub fn new() -> Self {
        Self::default()
    }

    fn on(durable: Image) -> Self {
        let shared = Shared {
            visible: durable.clone(),
            durable,
            ..Shared::default()
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Holds back syncs or not. With `true`, writes stay unsynced until [`MemoryLog::sync`]. With `false`, all are
    /// synced now and as they come.
    pub fn hold_syncs(&self, hold: bool) {
        self.shared.lock().holding = hold;
        if !hold {
            self.sync(usize::MAX);
        }
    }

    /// Syncs the next `writes` waiting writes together and calls their completions. Returns how many there were.
    pub fn sync(&self, writes: usize) -> usize {
        let waited = self.shared.lock().sync(writes);
        self.deliver();
        waited
    }

    /// Returns how many writes wait for a sync.
    pub fn unsynced(&self) -> usize {
        let shared = self.shared.lock();
        shared
            .unsynced
            .iter()
            .filter(|write| write.done.is_some())
            .count()
    }

    /// Returns how many syncs there were, the failed one included.
    pub fn syncs(&self) -> u64 {
        self.shared.lock().syncs
    }

    /// Makes the `nth` sync from now fail (1 is the next one), which stops the store.
    pub fn fail_sync(&self, nth: u64) {
        assert!(nth > 0, "syncs are counted from 1");
        let mut shared = self.shared.lock();
        shared.failing_sync = Some(shared.syncs + nth);
    }

    /// Ends this log as a power cut would, and returns the log that a restart finds. Pending completions are never
    /// called, because their process is gone. Every other handle returns [`StorageError::Stopped`] from now on.
    pub fn crash(&self, unsynced: Unsynced) -> MemoryLog {
        let mut shared = self.shared.lock();
        shared.stopped = Some(StopCause::Failed("this log crashed".into()));
        let lost: Vec<PendingWrite> = shared.unsynced.drain(..).collect();
        let due = std::mem::take(&mut shared.due);
        let mut survivor = shared.durable.clone();
        drop(shared);
        if let Unsynced::Prefix { seed } = unsynced {
            keep_prefix(&mut survivor, &lost, seed);
        }
        drop((lost, due));
        Self::on(survivor)
    }

    /// Restarts after an orderly end: returns the durable content of this log as a new log.
    pub fn reopen(&self) -> MemoryLog {
        self.crash(Unsynced::Dropped)
    }

    fn write(&self, op: WriteOp, done: Option<Completion>) -> Result<(), StorageError> {
        {
            let mut shared = self.shared.lock();
            shared.check_running()?;
            assert_sound(&shared.visible, &op);
            shared.visible.apply(&op);
            shared.unsynced.push_back(PendingWrite { op, done });
            if !shared.holding {
                shared.sync(usize::MAX);
            }
        }
        self.deliver();
        Ok(())
    }

    /// Calls the due completions in order, without the lock. Only one caller does so at a time: a completion that
    /// writes to this log again only adds to them.
    fn deliver(&self) {
        let mut shared = self.shared.lock();
        if shared.delivering {
            return;
        }
        shared.delivering = true;
        while let Some((done, result)) = shared.due.pop_front() {
            drop(shared);
            done(result);
            shared = self.shared.lock();
        }
        shared.delivering = false;
    }
}

fn assert_sound(visible: &Image, op: &WriteOp) {
    match op {
        WriteOp::Append(records) => assert_appendable(visible.last(), records),
        WriteOp::TruncateAfter(Some(last)) => {
            assert_truncatable(visible.purged, visible.held(last.index), *last);
        }
        WriteOp::Purge(upto) => assert_purgeable(visible.held(upto.index), *upto),
        WriteOp::TruncateAfter(None) | WriteOp::Vote(_) | WriteOp::Committed(_) => {}
    }
}

/// Applies a seeded prefix of `lost`, whose last append may be cut inside.
fn keep_prefix(survivor: &mut Image, lost: &[PendingWrite], seed: u64) {
    let mut random = SeededRandom::new(seed);
    let whole = random.below(lost.len() as u64 + 1) as usize;
    for write in &lost[..whole] {
        survivor.apply(&write.op);
    }
    if let Some(PendingWrite {
        op: WriteOp::Append(records),
        ..
    }) = lost.get(whole)
    {
        let kept = random.below(records.len() as u64 + 1) as usize;
        survivor.apply(&WriteOp::Append(records[..kept].to_vec()));
    }
}

impl LogStore for MemoryLog {
    fn state(&self) -> LogState {
        let shared = self.shared.lock();
        LogState {
            purged: shared.visible.purged,
            last: shared.visible.last(),
        }
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
        let shared = self.shared.lock();
        shared.check_running()?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        for record in shared
            .visible
            .entries
            .range(range)
            .map(|(_, record)| record)
        {
            records.push(record.clone());
            bytes += record.payload.len();
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(records)
    }

    fn save_vote(&self, vote: Bytes, done: Completion) -> Result<(), StorageError> {
        self.write(WriteOp::Vote(vote), Some(done))
    }

    fn vote(&self) -> Option<Bytes> {
        self.shared.lock().visible.vote.clone()
    }

    fn save_committed(&self, committed: Option<LogPosition>) -> Result<(), StorageError> {
        self.write(WriteOp::Committed(committed), None)
    }

    fn committed(&self) -> Option<LogPosition> {
        let shared = self.shared.lock();
        shared.visible.committed.min(shared.visible.last())
    }

    fn failure(&self) -> Option<StorageError> {
        failure(self.shared.lock().stopped.as_ref())
    }

    fn close(&self) -> Result<(), StorageError> {
        let outcome = {
            let mut shared = self.shared.lock();
            match &shared.stopped {
                None => {
                    shared.sync(usize::MAX);
                }
                Some(StopCause::Closed) => return Ok(()),
                Some(stop @ (StopCause::Dropped | StopCause::Failed(_))) => {
                    return Err(stop.error());
                }
            }
            let outcome = shared.check_running();
            if outcome.is_ok() {
                // An orderly end also keeps the writes without a completion.
                for write in std::mem::take(&mut shared.unsynced) {
                    shared.durable.apply(&write.op);
                }
                shared.stopped = Some(StopCause::Closed);
            }
            outcome
        };
        self.deliver();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(term: u64, index: u64) -> LogRecord {
        LogRecord {
            position: LogPosition {
                term,
                leader: 1,
                index,
            },
            payload: Bytes::from(vec![index as u8; 10]),
        }
    }

    type Outcomes = Arc<Mutex<Vec<(u64, Result<(), StorageError>)>>>;

    fn note(outcomes: &Outcomes, name: u64) -> Completion {
        let outcomes = outcomes.clone();
        Box::new(move |result| outcomes.lock().push((name, result)))
    }

    #[test]
    fn a_crash_drops_what_was_not_synced_and_keeps_what_was() {
        let log = MemoryLog::new();
        let outcomes = Outcomes::default();
        log.append(vec![record(1, 0)], note(&outcomes, 0)).unwrap();
        log.hold_syncs(true);
        log.append(vec![record(1, 1)], note(&outcomes, 1)).unwrap();
        log.append(vec![record(1, 2)], note(&outcomes, 2)).unwrap();
        assert_eq!(log.sync(1), 1);
        assert_eq!(outcomes.lock().len(), 2);
        assert_eq!(log.state().last, Some(record(1, 2).position));

        let after = log.crash(Unsynced::Dropped);
        assert_eq!(after.state().last, Some(record(1, 1).position));
        assert_eq!(outcomes.lock().len(), 2, "its process is gone");
        assert!(matches!(log.read(0..9, 1), Err(StorageError::Stopped(_))));
    }

    #[test]
    fn a_seeded_crash_keeps_a_prefix_and_every_length_occurs() {
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let log = MemoryLog::new();
            log.hold_syncs(true);
            log.append(vec![record(1, 0), record(1, 1)], Box::new(|_| ()))
                .unwrap();
            log.append(vec![record(1, 2)], Box::new(|_| ())).unwrap();
            let after = log.crash(Unsynced::Prefix { seed });
            let kept = after.read(0..9, usize::MAX).unwrap();
            assert_eq!(
                kept,
                [record(1, 0), record(1, 1), record(1, 2)][..kept.len()]
            );
            lengths.insert(kept.len());
        }
        assert_eq!(lengths, [0, 1, 2, 3].into());
    }

    #[test]
    fn a_failed_sync_stops_the_log_for_good() {
        let log = MemoryLog::new();
        let outcomes = Outcomes::default();
        log.fail_sync(2);
        log.append(vec![record(1, 0)], note(&outcomes, 0)).unwrap();
        log.hold_syncs(true);
        log.append(vec![record(1, 1)], note(&outcomes, 1)).unwrap();
        log.append(vec![record(1, 2)], note(&outcomes, 2)).unwrap();
        log.sync(1);

        let outcomes = outcomes.lock();
        assert!(matches!(outcomes[0], (0, Ok(()))));
        assert!(matches!(outcomes[1], (1, Err(StorageError::Io { .. }))));
        assert!(matches!(outcomes[2], (2, Err(StorageError::Stopped(_)))));
        let refused = log.save_vote(Bytes::new(), Box::new(|_| ()));
        assert!(matches!(refused, Err(StorageError::Stopped(_))));
        assert!(matches!(log.close(), Err(StorageError::Stopped(_))));
        assert_eq!(
            log.crash(Unsynced::Dropped).state().last,
            Some(record(1, 0).position)
        );
    }

    #[test]
    fn the_committed_position_becomes_durable_with_the_next_sync() {
        let log = MemoryLog::new();
        log.append(vec![record(1, 0), record(1, 1)], Box::new(|_| ()))
            .unwrap();
        log.save_committed(Some(record(1, 0).position)).unwrap();
        assert_eq!(log.committed(), Some(record(1, 0).position));
        let lost = log.crash(Unsynced::Dropped);
        assert_eq!(lost.committed(), None);

        lost.save_committed(Some(record(1, 1).position)).unwrap();
        lost.save_vote(Bytes::from_static(b"v"), Box::new(|_| ()))
            .unwrap();
        let kept = lost.crash(Unsynced::Dropped);
        assert_eq!(kept.committed(), Some(record(1, 1).position));
    }

    #[test]
    fn a_completion_may_write_again() {
        let log = MemoryLog::new();
        let again = log.clone();
        log.append(
            vec![record(1, 0)],
            Box::new(move |_| {
                again
                    .append(vec![record(1, 1)], Box::new(|_| ()))
                    .expect("running");
            }),
        )
        .unwrap();
        assert_eq!(
            log.crash(Unsynced::Dropped).state().last,
            Some(record(1, 1).position)
        );
    }
}
