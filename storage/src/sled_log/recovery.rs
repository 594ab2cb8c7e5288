//! Recovery: the whole log is read and verified before any of it is used.
//!
//! - The checksums detect changes.
//! - The checksum chain detects missing chunks and entries in the middle.
//! - The high-water mark detects missing entries at the end.
//!
//! Recovery cuts away at most a torn tail: one entry past the mark whose last chunks were never written. A crash leaves
//! such a tail, since chunks are written in order, and the entry was never acknowledged. Anything else is damage, and
//! refused: a node that came back with less than it acknowledged could help to elect a leader without it.

use std::path::Path;

use super::chunk::{Assembler, ChainLink, Entry, key};
use super::emergency_reserve::EmergencyReserve;
use super::free_space::FreeSpace;
use super::hard_state::{
    COMMITTED_KEY, PURGED_KEY, StoredVote, VOTE_KEY, decode_committed, decode_purged, decode_vote,
};
use super::high_water_mark::{HighWaterMark, HighWaterMarkFile};
use super::log_view::LogView;
use super::options::SledLogOptions;
use super::preallocate::Preallocator;
use super::sled_db::{DbError, SledDb, check_chain};
use crate::durable;
use crate::{LogPosition, StorageError};

/// A log that was found intact.
pub(super) struct Recovered {
    pub(super) db: SledDb,
    pub(super) view: LogView,
    pub(super) state: DurableState,
}

/// The durable state of a log, from which the sync thread continues.
pub(super) struct DurableState {
    pub(super) mark_file: HighWaterMarkFile,
    pub(super) space: FreeSpace,
    pub(super) preallocator: Preallocator,
    pub(super) purged: Option<ChainLink>,
    /// The last entry, or `purged` when there is none.
    pub(super) tail: Option<ChainLink>,
    pub(super) vote_sequence: u64,
}

struct HardState {
    vote: Option<StoredVote>,
    purged: Option<ChainLink>,
    committed: Option<LogPosition>,
}

struct ScanResult {
    tail: Option<ChainLink>,
    /// The index of the last entry, if its end is missing.
    torn_entry: Option<u64>,
}

pub(super) fn recover(
    directory: &Path,
    options: &SledLogOptions,
) -> Result<Recovered, StorageError> {
    let node_id = options.node_id;
    durable::create_directory(directory)?;
    durable::remove_unfinished(directory)?;
    let reserve = EmergencyReserve::acquire(&directory.join("reserve"), options.reserve_bytes)?;

    let mark_path = directory.join("mark");
    let sled_path = directory.join("sled");
    let mark_file = HighWaterMarkFile::open(&mark_path, node_id)?;
    if mark_file.is_none() && options.expect_existing {
        let what = "is missing, although this node had a log before";
        return Err(StorageError::damaged(&mark_path, what, node_id));
    }
    let db_path = sled_path.join("db");
    if mark_file.is_some() && !db_path.exists() {
        return Err(StorageError::damaged(&db_path, "is missing", node_id));
    }

    if mark_file.is_none() && !sled_path.exists() {
        SledDb::create(&sled_path, node_id)?;
    }
    let db = SledDb::open(&sled_path, options.cache_bytes, node_id)?;
    let mut mark_file = match mark_file {
        Some(mark_file) => mark_file,
        None => {
            if !db.is_empty()? {
                let what = "is missing, although the log has entries that it covers";
                return Err(StorageError::damaged(&mark_path, what, node_id));
            }
            // The mark is written last: where it exists, the log is complete.
            db.flush()?;
            db.sync_data()?;
            HighWaterMarkFile::create(&mark_path)?
        }
    };

    let mark = mark_file.value();
    let hard_state = read_hard_state(&db)?;
    check_vote(&db, hard_state.vote.as_ref(), mark)?;
    let mut view = LogView::new(
        hard_state.purged.map(|purged| purged.position),
        options.recent_bytes_max,
    );
    let scan = scan(&db, hard_state.purged, mark.last, &mut view)?;
    check_tail(&db, &scan, mark.last)?;
    if let Some(torn) = scan.torn_entry {
        tracing::warn!(
            index = torn,
            "the last entry was being written when the node stopped; it was never acknowledged and is removed"
        );
        db.remove_from(torn)?;
    }

    // The log may be only in the page cache so far, and the mark must not run ahead of the disk.
    db.flush()?;
    db.sync_data()?;
    let vote_sequence = hard_state.vote.as_ref().map_or(0, |vote| vote.sequence);
    mark_file.store_durably(HighWaterMark {
        last: scan.tail,
        vote_sequence,
    })?;

    let space = FreeSpace::new(directory, options.low_bytes, reserve)?;
    let preallocator = Preallocator::new(db.file_handle()?);
    view.vote = hard_state.vote.map(|stored| stored.vote);
    view.set_committed(hard_state.committed);
    Ok(Recovered {
        db,
        view,
        state: DurableState {
            mark_file,
            space,
            preallocator,
            purged: hard_state.purged,
            tail: scan.tail,
            vote_sequence,
        },
    })
}

fn read_hard_state(db: &SledDb) -> Result<HardState, StorageError> {
    db.run("read", || {
        let vote = db.meta.get(VOTE_KEY)?;
        let purged = db.meta.get(PURGED_KEY)?;
        let committed = db.meta.get(COMMITTED_KEY)?;
        Ok(HardState {
            vote: vote.map(|value| decode_vote(&value)).transpose()?,
            purged: purged.map(|value| decode_purged(&value)).transpose()?,
            committed: committed
                .map(|value| decode_committed(&value))
                .transpose()?,
        })
    })
}

fn check_vote(
    db: &SledDb,
    vote: Option<&StoredVote>,
    mark: HighWaterMark,
) -> Result<(), StorageError> {
    let found = vote.map_or(0, |vote| vote.sequence);
    if found < mark.vote_sequence {
        return Err(db.damaged(format!(
            "the vote in it is number {found}, but number {} was once durable",
            mark.vote_sequence
        )));
    }
    Ok(())
}

/// Reads every entry after `purged` into the view and checks everything except the end.
fn scan(
    db: &SledDb,
    purged: Option<ChainLink>,
    marked: Option<ChainLink>,
    view: &mut LogView,
) -> Result<ScanResult, StorageError> {
    db.run("read", || {
        let start = purged.map_or(0, |purged| purged.position.index + 1);
        // Chunks that a purge has left are removed once the node runs, and damage to them would stop the node then.
        for chunk in db.log.range(..key(start, 0)) {
            chunk?;
        }
        let mut tail = purged;
        let mut assembler = Assembler::default();
        for chunk in db.log.range(key(start, 0)..) {
            let (key, value) = chunk?;
            let Some(entry) = assembler.push(&key, &value)? else {
                continue;
            };
            check_entry(purged, tail, &entry)?;
            check_against_mark(marked, &entry)?;
            tail = Some(entry.link());
            let end = entry.record.position.index + 1;
            view.append(&[entry.record]);
            view.mark_stored(end, view.removals());
        }
        Ok(ScanResult {
            tail,
            torn_entry: assembler.incomplete_entry(),
        })
    })
}

/// Checks that an entry continues the one before, or is the first after the purged position.
pub(super) fn check_entry(
    purged: Option<ChainLink>,
    tail: Option<ChainLink>,
    entry: &Entry,
) -> Result<(), DbError> {
    if tail == purged {
        return check_first(purged, entry);
    }
    Ok(check_chain(tail, entry)?)
}

/// Checks that the first entry continues the purged position, or begins the log.
fn check_first(purged: Option<ChainLink>, entry: &Entry) -> Result<(), DbError> {
    let begins_here = entry.previous.is_none()
        && purged.is_none_or(|purged| {
            purged.position.index.checked_add(1) == Some(entry.record.position.index)
        });
    if begins_here {
        return Ok(());
    }
    Ok(check_chain(purged, entry)?)
}

fn check_against_mark(marked: Option<ChainLink>, entry: &Entry) -> Result<(), DbError> {
    match marked {
        Some(marked)
            if marked.position.index == entry.record.position.index && marked != entry.link() =>
        {
            Err(DbError::Damaged(format!(
                "entry {} is not the one that was once durable there",
                marked.position.index
            )))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_tail(
    db: &SledDb,
    scan: &ScanResult,
    marked: Option<ChainLink>,
) -> Result<(), StorageError> {
    let Some(marked) = marked.filter(|_| !mutated!(MarkIgnored)) else {
        return Ok(());
    };
    match scan.tail {
        Some(tail) if tail.position.index >= marked.position.index => Ok(()),
        Some(tail) => Err(db.damaged(format!(
            "it ends with entry {}, but entry {} was once durable",
            tail.position.index, marked.position.index
        ))),
        None => Err(db.damaged(format!(
            "it is empty, but entry {} was once durable",
            marked.position.index
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::super::chunk::encode;
    use super::*;
    use crate::{LogRecord, LogStore, SledLog};

    fn record(index: u64, payload_bytes: usize) -> LogRecord {
        LogRecord {
            position: LogPosition {
                term: 1,
                leader: 1,
                index,
            },
            payload: vec![index as u8; payload_bytes].into(),
        }
    }

    fn options() -> SledLogOptions {
        SledLogOptions {
            reserve_bytes: 0,
            ..SledLogOptions::default()
        }
    }

    fn append(log: &SledLog, records: Vec<LogRecord>) {
        let (sender, receiver) = channel();
        let done = Box::new(move |result| sender.send(result).expect("the test listens"));
        log.append(records, done).unwrap();
        receiver.recv().unwrap().unwrap();
    }

    /// Appends three acknowledged entries of three chunks each. Returns the link of the last.
    fn three_entries(directory: &Path) -> ChainLink {
        let log = SledLog::open(directory, &options()).unwrap();
        append(&log, (0..3).map(|index| record(index, 10_000)).collect());
        log.close().unwrap();
        drop(log);
        on_disk(directory, |db| db.link(2).unwrap().unwrap())
    }

    fn on_disk<T>(directory: &Path, work: impl FnOnce(&SledDb) -> T) -> T {
        let db = Arc::new(SledDb::open(&directory.join("sled"), 1 << 20, 1).unwrap());
        let done = work(&db);
        db.release();
        done
    }

    fn refusal(directory: &Path) -> String {
        match SledLog::open(directory, &options()) {
            Err(StorageError::Damaged { what, .. }) => what,
            Ok(log) => panic!("it opened with {:?}", log.state()),
            Err(error) => panic!("it was reported as {error:?}"),
        }
    }

    #[test]
    fn a_torn_tail_is_cut() {
        let root = tempfile::tempdir().unwrap();
        let last = three_entries(root.path());
        for kept in 0..3 {
            let (mut chunks, _) = encode(&record(3, 10_000), Some(last));
            assert_eq!(chunks.len(), 3);
            chunks.truncate(kept);
            on_disk(root.path(), |db| db.insert(chunks).unwrap());
            let log = SledLog::open(root.path(), &options()).unwrap();
            assert_eq!(log.state().last, Some(last.position));
        }
        // Nothing of it is left in the way of its successor.
        let log = SledLog::open(root.path(), &options()).unwrap();
        append(&log, vec![record(3, 5_000)]);
        drop(log);
        let log = SledLog::open(root.path(), &options()).unwrap();
        assert_eq!(log.state().last, Some(record(3, 0).position));
    }

    #[test]
    fn a_whole_entry_past_the_mark_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let last = three_entries(root.path());
        let (chunks, _) = encode(&record(3, 10_000), Some(last));
        on_disk(root.path(), |db| db.insert(chunks).unwrap());
        let log = SledLog::open(root.path(), &options()).unwrap();
        assert_eq!(log.state().last, Some(record(3, 0).position));
        drop(log);
        // The entry may have been acknowledged since.
        on_disk(root.path(), |db| db.remove_from(3).unwrap());
        assert!(refusal(root.path()).contains("entry 3 was once durable"));
    }

    #[test]
    fn an_acknowledged_entry_is_never_cut() {
        let root = tempfile::tempdir().unwrap();
        three_entries(root.path());
        on_disk(root.path(), |db| {
            db.log.remove(key(2, 2)).unwrap();
        });
        assert!(refusal(root.path()).contains("entry 2 was once durable"));
        assert!(refusal(root.path()).contains("entry 2 was once durable"));
    }

    #[test]
    fn damage_past_the_mark_that_no_crash_leaves_is_refused() {
        type Spoil = fn(&SledDb, ChainLink);
        let spoils: [(&str, Spoil); 4] = [
            ("is missing", |db, last| {
                let (mut chunks, _) = encode(&record(3, 10_000), Some(last));
                chunks.remove(1);
                db.insert(chunks).unwrap();
            }),
            ("checksum", |db, last| {
                let (mut chunks, _) = encode(&record(3, 10_000), Some(last));
                chunks[2].1[100] ^= 1;
                db.insert(chunks).unwrap();
            }),
            ("stands where entry 3 should", |db, last| {
                let (chunks, _) = encode(&record(4, 10), Some(last));
                db.insert(chunks).unwrap();
            }),
            ("does not continue", |db, mut last| {
                last.checksum ^= 1;
                let (chunks, _) = encode(&record(3, 10), Some(last));
                db.insert(chunks).unwrap();
            }),
        ];
        for (expected, spoil) in spoils {
            let root = tempfile::tempdir().unwrap();
            let last = three_entries(root.path());
            on_disk(root.path(), |db| spoil(db, last));
            let what = refusal(root.path());
            assert!(what.contains(expected), "{what}");
        }
    }

    #[test]
    fn a_hole_at_the_beginning_is_refused() {
        let root = tempfile::tempdir().unwrap();
        three_entries(root.path());
        on_disk(root.path(), |db| db.remove_before(1, 100).unwrap());
        assert!(refusal(root.path()).contains("does not continue"));
    }

    #[test]
    fn a_crash_between_lowering_the_mark_and_truncating_is_harmless() {
        let root = tempfile::tempdir().unwrap();
        three_entries(root.path());
        let first = on_disk(root.path(), |db| db.link(0).unwrap());
        let mut mark_file = HighWaterMarkFile::open(&root.path().join("mark"), 1)
            .unwrap()
            .unwrap();
        let mut mark = mark_file.value();
        mark.last = first;
        mark_file.store_durably(mark).unwrap();
        // Not begun, then half done: chunks are removed from the end backwards.
        for removed in [None, Some((2, 2)), Some((2, 1)), Some((2, 0)), Some((1, 2))] {
            if let Some((index, chunk)) = removed {
                on_disk(root.path(), |db| db.log.remove(key(index, chunk)).unwrap());
                mark_file.store_durably(mark).unwrap();
            }
            let recovered = recover(root.path(), &options()).unwrap();
            assert!(recovered.state.tail.unwrap().position.index <= 2);
            Arc::new(recovered.db).release();
            mark_file = HighWaterMarkFile::open(&root.path().join("mark"), 1)
                .unwrap()
                .unwrap();
        }
    }

    /// sled would take it for its newest snapshot, and fail on it.
    #[test]
    fn an_unfinished_snapshot_of_sled_is_removed() {
        let root = tempfile::tempdir().unwrap();
        three_entries(root.path());
        let half = root.path().join("sled/snap.FFFFFFFFFFFFFFFF.generating");
        std::fs::write(&half, "half").unwrap();
        let log = SledLog::open(root.path(), &options()).unwrap();
        assert_eq!(log.state().last, Some(record(2, 0).position));
        assert!(!half.exists());
        // An interrupted creation: the leftovers are removed.
        drop(log);
        std::fs::remove_file(root.path().join("mark")).unwrap();
        std::fs::rename(
            root.path().join("sled"),
            root.path().join("sled.unfinished"),
        )
        .unwrap();
        let log = SledLog::open(root.path(), &options()).unwrap();
        assert_eq!(log.state().last, None);
    }

    #[test]
    fn a_log_whose_creation_was_interrupted_is_created_again() {
        let root = tempfile::tempdir().unwrap();
        drop(SledLog::open(root.path(), &options()).unwrap());
        std::fs::remove_file(root.path().join("mark")).unwrap();
        drop(SledLog::open(root.path(), &options()).unwrap());
        std::fs::remove_file(root.path().join("mark")).unwrap();
        let had_one = SledLogOptions {
            expect_existing: true,
            ..options()
        };
        assert!(matches!(
            SledLog::open(root.path(), &had_one),
            Err(StorageError::Damaged { .. })
        ));
    }
}
