//! Opening a log: everything is read and checked before anything is believed.
//!
//! The checksums find what was changed, the chain finds what is missing inside, the mark finds what is missing at the
//! end. What is cut away is at most one entry past the mark whose last chunks were never written: a crash leaves that,
//! since chunks are written in order, and nobody was told that it was there. Anything else is damage, and refused: a
//! node that came back with less than it acknowledged could help to elect a leader without it.

use std::path::Path;

use super::chunk::{Assembler, Entry, Link};
use super::emergency_reserve::Reserve;
use super::free_space::Space;
use super::hard_state::{
    COMMITTED_KEY, PURGED_KEY, StoredVote, VOTE_KEY, decode_committed, decode_purged, decode_vote,
};
use super::high_water_mark::{Claim, Mark};
use super::log_view::View;
use super::options::SledLogOptions;
use super::preallocate::Headroom;
use super::sled_db::{Disk, Fault, check_chain};
use crate::durable;
use crate::{LogPosition, StorageError};

/// A log that was found intact.
pub(super) struct Recovered {
    pub(super) disk: Disk,
    pub(super) view: View,
    pub(super) standing: Standing,
}

/// Where a log stands on disk: what the sync thread goes on from.
pub(super) struct Standing {
    pub(super) mark: Mark,
    pub(super) space: Space,
    pub(super) headroom: Headroom,
    pub(super) purged: Option<Link>,
    /// The last entry, or `purged` when there is none.
    pub(super) tail: Option<Link>,
    pub(super) vote_sequence: u64,
}

struct Markers {
    vote: Option<StoredVote>,
    purged: Option<Link>,
    committed: Option<LogPosition>,
}

struct Scan {
    tail: Option<Link>,
    /// The last entry's index, if its end is missing.
    torn: Option<u64>,
}

pub(super) fn recover(
    directory: &Path,
    options: &SledLogOptions,
) -> Result<Recovered, StorageError> {
    let node_id = options.node_id;
    durable::create_directory(directory)?;
    durable::remove_unfinished(directory)?;
    let reserve = Reserve::take(&directory.join("reserve"), options.reserve_bytes)?;

    let mark_path = directory.join("mark");
    let sled_path = directory.join("sled");
    let mark = Mark::open(&mark_path, node_id)?;
    if mark.is_none() && options.expect_existing {
        let what = "is missing, and this node had a log before";
        return Err(StorageError::damaged(&mark_path, what, node_id));
    }
    let db_path = sled_path.join("db");
    if mark.is_some() && !db_path.exists() {
        return Err(StorageError::damaged(&db_path, "is missing", node_id));
    }

    if mark.is_none() && !sled_path.exists() {
        Disk::create(&sled_path, node_id)?;
    }
    let disk = Disk::open(&sled_path, options.cache_bytes, node_id)?;
    let mut mark = match mark {
        Some(mark) => mark,
        None => {
            if !disk.is_empty()? {
                let what = "is missing, and there are entries it should speak for";
                return Err(StorageError::damaged(&mark_path, what, node_id));
            }
            // The mark comes last: where it is, there is a whole log.
            disk.flush()?;
            disk.sync_data()?;
            Mark::create(&mark_path)?
        }
    };

    let claim = mark.claim();
    let markers = read_markers(&disk)?;
    check_vote(&disk, markers.vote.as_ref(), claim)?;
    let mut view = View::new(
        markers.purged.map(|purged| purged.position),
        options.recent_bytes_max,
    );
    let scan = scan(&disk, markers.purged, claim.last, &mut view)?;
    check_end(&disk, &scan, claim.last)?;
    if let Some(torn) = scan.torn {
        tracing::warn!(
            index = torn,
            "the last entry was being written when the node stopped; it was never acknowledged and is removed"
        );
        disk.remove_from(torn)?;
    }

    // What is here may be only in the page cache yet, and the mark must not run ahead of the disk.
    disk.flush()?;
    disk.sync_data()?;
    let vote_sequence = markers.vote.as_ref().map_or(0, |vote| vote.sequence);
    mark.store_durably(Claim {
        last: scan.tail,
        vote_sequence,
    })?;

    let space = Space::new(directory, options.low_bytes, reserve)?;
    let headroom = Headroom::new(disk.file_handle()?);
    view.vote = markers.vote.map(|stored| stored.vote);
    view.set_committed(markers.committed);
    Ok(Recovered {
        disk,
        view,
        standing: Standing {
            mark,
            space,
            headroom,
            purged: markers.purged,
            tail: scan.tail,
            vote_sequence,
        },
    })
}

fn read_markers(disk: &Disk) -> Result<Markers, StorageError> {
    disk.call("read", || {
        let vote = disk.meta.get(VOTE_KEY)?;
        let purged = disk.meta.get(PURGED_KEY)?;
        let committed = disk.meta.get(COMMITTED_KEY)?;
        Ok(Markers {
            vote: vote.map(|value| decode_vote(&value)).transpose()?,
            purged: purged.map(|value| decode_purged(&value)).transpose()?,
            committed: committed
                .map(|value| decode_committed(&value))
                .transpose()?,
        })
    })
}

fn check_vote(disk: &Disk, vote: Option<&StoredVote>, claim: Claim) -> Result<(), StorageError> {
    let found = vote.map_or(0, |vote| vote.sequence);
    if found < claim.vote_sequence {
        return Err(disk.damaged(format!(
            "the vote in it is number {found}, and number {} was once durable",
            claim.vote_sequence
        )));
    }
    Ok(())
}

/// Reads every entry after `purged` into the view and checks all there is to check but the end.
fn scan(
    disk: &Disk,
    purged: Option<Link>,
    claimed: Option<Link>,
    view: &mut View,
) -> Result<Scan, StorageError> {
    disk.call("read", || {
        let start = purged.map_or(0, |purged| purged.position.index + 1);
        // What a purge has left is removed once the node runs, and damage to it would stop the node then.
        for chunk in disk.log.range(..super::chunk::key(start, 0)) {
            chunk?;
        }
        let mut tail = purged;
        let mut assembler = Assembler::default();
        for chunk in disk.log.range(super::chunk::key(start, 0)..) {
            let (key, value) = chunk?;
            let Some(entry) = assembler.push(&key, &value)? else {
                continue;
            };
            check_entry(purged, tail, &entry)?;
            check_claimed(claimed, &entry)?;
            tail = Some(entry.link());
            let end = entry.record.position.index + 1;
            view.append(&[entry.record]);
            view.note_stored(end, view.removals());
        }
        Ok(Scan {
            tail,
            torn: assembler.unfinished(),
        })
    })
}

/// An entry continues the one before, or is the first after what was purged.
pub(super) fn check_entry(
    purged: Option<Link>,
    tail: Option<Link>,
    entry: &Entry,
) -> Result<(), Fault> {
    if tail == purged {
        return check_first(purged, entry);
    }
    Ok(check_chain(tail, entry)?)
}

/// The first entry continues what was purged, or begins the log.
fn check_first(purged: Option<Link>, entry: &Entry) -> Result<(), Fault> {
    let begins_here = entry.previous.is_none()
        && purged.is_none_or(|purged| {
            purged.position.index.checked_add(1) == Some(entry.record.position.index)
        });
    if begins_here {
        return Ok(());
    }
    Ok(check_chain(purged, entry)?)
}

fn check_claimed(claimed: Option<Link>, entry: &Entry) -> Result<(), Fault> {
    match claimed {
        Some(claimed)
            if claimed.position.index == entry.record.position.index && claimed != entry.link() =>
        {
            Err(Fault::Damage(format!(
                "entry {} is not the one that was once durable there",
                claimed.position.index
            )))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_end(disk: &Disk, scan: &Scan, claimed: Option<Link>) -> Result<(), StorageError> {
    let Some(claimed) = claimed.filter(|_| !mutated!(MarkIgnored)) else {
        return Ok(());
    };
    match scan.tail {
        Some(tail) if tail.position.index >= claimed.position.index => Ok(()),
        Some(tail) => Err(disk.damaged(format!(
            "it ends with entry {}, and entry {} was once durable",
            tail.position.index, claimed.position.index
        ))),
        None => Err(disk.damaged(format!(
            "it is empty, and entry {} was once durable",
            claimed.position.index
        ))),
    }
}

/// Makes the files that sled has just made, and their names, durable.
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

    /// Three acknowledged entries of three chunks each, and the link of the last.
    fn three_entries(directory: &Path) -> Link {
        let log = SledLog::open(directory, &options()).unwrap();
        append(&log, (0..3).map(|index| record(index, 10_000)).collect());
        log.close().unwrap();
        drop(log);
        on_disk(directory, |disk| disk.link(2).unwrap().unwrap())
    }

    fn on_disk<T>(directory: &Path, work: impl FnOnce(&Disk) -> T) -> T {
        let disk = Arc::new(Disk::open(&directory.join("sled"), 1 << 20, 1).unwrap());
        let done = work(&disk);
        disk.release();
        done
    }

    fn refusal(directory: &Path) -> String {
        match SledLog::open(directory, &options()) {
            Err(StorageError::Damaged { what, .. }) => what,
            Ok(log) => panic!("it opened with {:?}", log.state()),
            Err(error) => panic!("it was told as {error:?}"),
        }
    }

    #[test]
    fn an_entry_that_was_being_written_is_cut() {
        let root = tempfile::tempdir().unwrap();
        let last = three_entries(root.path());
        for kept in 0..3 {
            let (mut chunks, _) = encode(&record(3, 10_000), Some(last));
            assert_eq!(chunks.len(), 3);
            chunks.truncate(kept);
            on_disk(root.path(), |disk| disk.insert(chunks).unwrap());
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
        on_disk(root.path(), |disk| disk.insert(chunks).unwrap());
        let log = SledLog::open(root.path(), &options()).unwrap();
        assert_eq!(log.state().last, Some(record(3, 0).position));
        drop(log);
        // It may have been acknowledged to somebody now.
        on_disk(root.path(), |disk| disk.remove_from(3).unwrap());
        assert!(refusal(root.path()).contains("entry 3 was once durable"));
    }

    #[test]
    fn an_acknowledged_entry_is_never_cut() {
        let root = tempfile::tempdir().unwrap();
        three_entries(root.path());
        on_disk(root.path(), |disk| {
            disk.log.remove(super::super::chunk::key(2, 2)).unwrap();
        });
        assert!(refusal(root.path()).contains("entry 2 was once durable"));
        assert!(refusal(root.path()).contains("entry 2 was once durable"));
    }

    #[test]
    fn what_no_crash_leaves_is_refused_past_the_mark_too() {
        type Spoil = fn(&Disk, Link);
        let spoils: [(&str, Spoil); 4] = [
            ("is missing", |disk, last| {
                let (mut chunks, _) = encode(&record(3, 10_000), Some(last));
                chunks.remove(1);
                disk.insert(chunks).unwrap();
            }),
            ("checksum", |disk, last| {
                let (mut chunks, _) = encode(&record(3, 10_000), Some(last));
                chunks[2].1[100] ^= 1;
                disk.insert(chunks).unwrap();
            }),
            ("stands where entry 3 should", |disk, last| {
                let (chunks, _) = encode(&record(4, 10), Some(last));
                disk.insert(chunks).unwrap();
            }),
            ("does not continue", |disk, mut last| {
                last.checksum ^= 1;
                let (chunks, _) = encode(&record(3, 10), Some(last));
                disk.insert(chunks).unwrap();
            }),
        ];
        for (expected, spoil) in spoils {
            let root = tempfile::tempdir().unwrap();
            let last = three_entries(root.path());
            on_disk(root.path(), |disk| spoil(disk, last));
            let what = refusal(root.path());
            assert!(what.contains(expected), "{what}");
        }
    }

    #[test]
    fn a_hole_at_the_beginning_is_refused() {
        let root = tempfile::tempdir().unwrap();
        three_entries(root.path());
        on_disk(root.path(), |disk| disk.remove_before(1, 100).unwrap());
        assert!(refusal(root.path()).contains("does not continue"));
    }

    #[test]
    fn a_crash_between_lowering_the_mark_and_truncating_is_harmless() {
        let root = tempfile::tempdir().unwrap();
        three_entries(root.path());
        let first = on_disk(root.path(), |disk| disk.link(0).unwrap());
        let mut mark = Mark::open(&root.path().join("mark"), 1).unwrap().unwrap();
        let mut claim = mark.claim();
        claim.last = first;
        mark.store_durably(claim).unwrap();
        // Not begun, half done: chunks go from the end backwards.
        for removed in [None, Some((2, 2)), Some((2, 1)), Some((2, 0)), Some((1, 2))] {
            if let Some((index, chunk)) = removed {
                on_disk(root.path(), |disk| {
                    disk.log
                        .remove(super::super::chunk::key(index, chunk))
                        .unwrap()
                });
                mark.store_durably(claim).unwrap();
            }
            let recovered = recover(root.path(), &options()).unwrap();
            assert!(recovered.standing.tail.unwrap().position.index <= 2);
            Arc::new(recovered.disk).release();
            mark = Mark::open(&root.path().join("mark"), 1).unwrap().unwrap();
        }
    }

    /// sled would take it for its newest note, and give up over it.
    #[test]
    fn what_sled_was_writing_when_it_was_killed_is_cleared_away() {
        let root = tempfile::tempdir().unwrap();
        three_entries(root.path());
        let half = root.path().join("sled/snap.FFFFFFFFFFFFFFFF.generating");
        std::fs::write(&half, "half").unwrap();
        let log = SledLog::open(root.path(), &options()).unwrap();
        assert_eq!(log.state().last, Some(record(2, 0).position));
        assert!(!half.exists());
        // Not yet a log: whatever was there of it.
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
    fn a_new_log_whose_making_was_interrupted_is_made_again() {
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
