//! The high-water mark: what this node has made durable, noted where sled cannot lose it.
//!
//! sled may hide damage by coming back with less than it was given. So the last durable entry and the last durable
//! vote are noted in a small file of its own, `mark`, and checked at open.
//!
//! Two slots are written in turn, each with a checksum and a sequence number: a write torn by a crash spoils one of
//! them, and the other, one write older, still counts. Invariants:
//!
//! - The mark never claims more than was made durable before it was written.
//! - Before an entry the mark claims is removed, a lower mark is durable ([`Mark::store_durably`]).
//! - After a sync the mark is written without an fsync ([`Mark::store`]), and once those who waited for the sync are told,
//!   its write-out begins ([`Mark::begin_carry`]); the next sync waits for the write-out ([`Mark::carry`]) before its own fdatasync, which makes the device keep both, since the slots
//!   are overwritten in place. So it lags by one sync at most. Where a file system does not overwrite in place, an
//!   fdatasync of its own every [`WRITES_PER_SYNC_MAX`] writes bounds the lag.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chunk::{Link, array};
use super::hard_state::{get_position, put_position};
use crate::StorageError;
use crate::durable;

const MAGIC: &[u8; 8] = b"TRIMARK\x01";
/// One slot per block: a torn block cannot spoil both.
const SLOT_STRIDE: u64 = 4096;
const SLOT_BYTES: usize = 8 + 8 + 8 + 1 + 24 + 4 + 4;
const WRITES_PER_SYNC_MAX: u64 = 256;

/// What was made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Claim {
    /// The last entry, or what was purged last when there is none.
    pub(super) last: Option<Link>,
    /// The sequence number of the last vote, 0 before the first.
    pub(super) vote_sequence: u64,
}

/// The mark file, open for writing.
pub(super) struct Mark {
    file: File,
    path: PathBuf,
    sequence: u64,
    claim: Claim,
    unsynced_writes: u64,
    /// Something was stored whose write-out has not begun.
    stored: bool,
}

impl Mark {
    /// Makes the file, durably and as a whole: it is there with two good slots, or not at all.
    pub(super) fn create(path: &Path) -> Result<Self, StorageError> {
        let mut bytes = vec![0; 2 * SLOT_STRIDE as usize];
        for sequence in [0, 1] {
            let start = (sequence * SLOT_STRIDE) as usize;
            bytes[start..start + SLOT_BYTES].copy_from_slice(&encode(sequence, &Claim::default()));
        }
        durable::write_file(path, &bytes)?;
        let file = open_file(path)?;
        Ok(Self::on(file, path, 1, Claim::default()))
    }

    /// Opens the file; `None` when there is none.
    pub(super) fn open(path: &Path, node_id: u64) -> Result<Option<Self>, StorageError> {
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Err(StorageError::io("look for", path, &error)),
        }
        let file = open_file(path)?;
        let newest = [0, 1]
            .into_iter()
            .map(|slot| read_slot(&file, slot))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| StorageError::io("read", path, &error))?
            .into_iter()
            .flatten()
            .max_by_key(|(sequence, _)| *sequence);
        let Some((sequence, claim)) = newest else {
            let what = "neither of its two slots matches its checksum";
            return Err(StorageError::damaged(path, what, node_id));
        };
        Ok(Some(Self::on(file, path, sequence, claim)))
    }

    fn on(file: File, path: &Path, sequence: u64, claim: Claim) -> Self {
        Mark {
            file,
            path: path.to_path_buf(),
            sequence,
            claim,
            unsynced_writes: 0,
            stored: false,
        }
    }

    /// What the mark claims now.
    pub(super) fn claim(&self) -> Claim {
        self.claim
    }

    /// Writes a claim that the next [`Mark::carry`] and fdatasync carry to disk.
    pub(super) fn store(&mut self, claim: Claim) -> Result<(), StorageError> {
        self.write(claim)?;
        if self.unsynced_writes >= WRITES_PER_SYNC_MAX {
            return self.sync();
        }
        Ok(())
    }

    /// Has what was stored leave for the device, without waiting for it.
    pub(super) fn begin_carry(&mut self) -> Result<(), StorageError> {
        if !std::mem::take(&mut self.stored) {
            return Ok(());
        }
        durable::begin_write_out(&self.file)
            .map_err(|error| StorageError::io("write", &self.path, &error))
    }

    /// Writes a claim and waits until the disk has it.
    pub(super) fn store_durably(&mut self, claim: Claim) -> Result<(), StorageError> {
        self.write(claim)?;
        self.sync()
    }

    /// Waits until what was stored has left for the device.
    pub(super) fn carry(&self) -> Result<(), StorageError> {
        if self.unsynced_writes == 0 {
            return Ok(());
        }
        durable::finish_write_out(&self.file)
            .map_err(|error| StorageError::io("write", &self.path, &error))
    }

    fn write(&mut self, claim: Claim) -> Result<(), StorageError> {
        let sequence = self.sequence + 1;
        let offset = (sequence % 2) * SLOT_STRIDE;
        self.file
            .write_all_at(&encode(sequence, &claim), offset)
            .map_err(|error| StorageError::io("write", &self.path, &error))?;
        self.sequence = sequence;
        self.claim = claim;
        self.unsynced_writes += 1;
        self.stored = true;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(|error| StorageError::io("sync", &self.path, &error))?;
        self.unsynced_writes = 0;
        self.stored = false;
        Ok(())
    }
}

fn open_file(path: &Path) -> Result<File, StorageError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| StorageError::io("open", path, &error))
}

fn read_slot(file: &File, slot: u64) -> io::Result<Option<(u64, Claim)>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, slot * SLOT_STRIDE) {
        Ok(()) => Ok(decode(&bytes).filter(|(sequence, _)| sequence % 2 == slot)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(sequence: u64, claim: &Claim) -> [u8; SLOT_BYTES] {
    let mut bytes = Vec::with_capacity(SLOT_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&claim.vote_sequence.to_le_bytes());
    bytes.push(u8::from(claim.last.is_some()));
    let (position, checksum) = claim
        .last
        .map_or_else(Default::default, |link| (link.position, link.checksum));
    put_position(&mut bytes, position);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    array(&bytes)
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<(u64, Claim)> {
    let (fields, crc) = bytes.split_at(SLOT_BYTES - 4);
    if crc32c::crc32c(fields) != u32::from_le_bytes(array(crc)) || &fields[..8] != MAGIC {
        return None;
    }
    let sequence = u64::from_le_bytes(array(&fields[8..16]));
    let link = Link {
        position: get_position(&array(&fields[25..49])),
        checksum: u32::from_le_bytes(array(&fields[49..53])),
    };
    let claim = Claim {
        last: (fields[24] == 1).then_some(link),
        vote_sequence: u64::from_le_bytes(array(&fields[16..24])),
    };
    Some((sequence, claim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogPosition;

    fn claim(index: u64) -> Claim {
        let position = LogPosition {
            term: 2,
            leader: 3,
            index,
        };
        Claim {
            last: Some(Link {
                position,
                checksum: index as u32,
            }),
            vote_sequence: index + 100,
        }
    }

    #[test]
    fn the_newest_claim_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        assert!(Mark::open(&path, 1).unwrap().is_none());
        let mut mark = Mark::create(&path).unwrap();
        assert_eq!(mark.claim(), Claim::default());
        for index in 0..5 {
            mark.store(claim(index)).unwrap();
            mark.carry().unwrap();
            let reopened = Mark::open(&path, 1).unwrap().unwrap();
            assert_eq!(reopened.claim(), claim(index));
        }
        mark.store_durably(claim(2)).unwrap();
        let reopened = Mark::open(&path, 1).unwrap().unwrap();
        assert_eq!(reopened.claim(), claim(2), "a mark may be lowered");
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before_and_two_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let mut mark = Mark::create(&path).unwrap();
        mark.store(claim(1)).unwrap();
        mark.store(claim(2)).unwrap();
        let newest_slot = mark.sequence % 2;
        mark.file
            .write_all_at(&[0xff; 30], newest_slot * SLOT_STRIDE + 10)
            .unwrap();
        let mut mark = Mark::open(&path, 1).unwrap().unwrap();
        assert_eq!(mark.claim(), claim(1));
        mark.store(claim(3)).unwrap();
        assert_eq!(Mark::open(&path, 1).unwrap().unwrap().claim(), claim(3));

        for slot in [0, 1] {
            mark.file.write_all_at(b"x", slot * SLOT_STRIDE).unwrap();
        }
        assert!(matches!(
            Mark::open(&path, 1),
            Err(StorageError::Damaged { .. })
        ));
        mark.file.set_len(0).unwrap();
        assert!(matches!(
            Mark::open(&path, 1),
            Err(StorageError::Damaged { .. })
        ));
    }
}
