//! The high-water mark: the last durable entry and vote, stored where sled cannot lose them.
//!
//! sled may hide damage by coming back with less than it was given. So the last durable entry and vote are stored in a
//! small separate file, `mark`, and checked at open.
//!
//! Two slots are written in turn, each with a checksum and a sequence number. A torn write spoils one of them, and the
//! other, one write older, still counts.
//!
//! # Invariants
//!
//! - The mark never runs ahead of the disk: what it names was made durable before it was written.
//! - Before an entry the mark covers is removed, a lower mark is durable ([`HighWaterMarkFile::store_durably`]).
//! - The mark lags by one sync at most. After a sync it is written without an fsync ([`HighWaterMarkFile::store`]).
//!   Once the completions of that sync were called, its writeback begins ([`HighWaterMarkFile::start_writeback`]). The
//!   next sync waits for the writeback ([`HighWaterMarkFile::wait_for_writeback`]) before its own fdatasync. This one
//!   makes the device keep both, because the slots are overwritten in place.
//! - Where a file system does not overwrite in place, an fdatasync of its own every [`WRITES_PER_SYNC_MAX`] writes
//!   bounds the lag.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::chunk::{ChainLink, array};
use super::hard_state::{decode_position, encode_position};
use crate::StorageError;
use crate::durable;

const MAGIC: &[u8; 8] = b"TRIMARK\x01";
/// One slot per block, because a torn block must not spoil both.
const SLOT_STRIDE: u64 = 4096;
const SLOT_BYTES: usize = 8 + 8 + 8 + 1 + 24 + 4 + 4;
const WRITES_PER_SYNC_MAX: u64 = 256;

/// The last durable entry and vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HighWaterMark {
    /// The last entry, or the last purged one if there is none.
    pub(super) last: Option<ChainLink>,
    /// The sequence number of the last vote, 0 before the first.
    pub(super) vote_sequence: u64,
}

/// The mark file, open for writing.
pub(super) struct HighWaterMarkFile {
    file: File,
    path: PathBuf,
    sequence: u64,
    value: HighWaterMark,
    unsynced_writes: u64,
    /// Whether there is a stored mark whose writeback has not begun.
    needs_writeback: bool,
}

impl HighWaterMarkFile {
    /// Creates the file, durably and as a whole: it exists with two good slots, or not at all.
    pub(super) fn create(path: &Path) -> Result<Self, StorageError> {
        let mut bytes = vec![0; 2 * SLOT_STRIDE as usize];
        for sequence in [0, 1] {
            let start = (sequence * SLOT_STRIDE) as usize;
            bytes[start..start + SLOT_BYTES]
                .copy_from_slice(&encode(sequence, &HighWaterMark::default()));
        }
        durable::write_file(path, &bytes)?;
        let file = open_file(path)?;
        Ok(Self::on(file, path, 1, HighWaterMark::default()))
    }

    /// Opens the file. Returns `None` if there is none.
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
        let Some((sequence, value)) = newest else {
            let what = "neither of its two slots matches its checksum";
            return Err(StorageError::damaged(path, what, node_id));
        };
        Ok(Some(Self::on(file, path, sequence, value)))
    }

    fn on(file: File, path: &Path, sequence: u64, value: HighWaterMark) -> Self {
        HighWaterMarkFile {
            file,
            path: path.to_path_buf(),
            sequence,
            value,
            unsynced_writes: 0,
            needs_writeback: false,
        }
    }

    /// Returns the current mark.
    pub(super) fn value(&self) -> HighWaterMark {
        self.value
    }

    /// Writes a mark that the next [`HighWaterMarkFile::wait_for_writeback`] and fdatasync carry to disk.
    pub(super) fn store(&mut self, value: HighWaterMark) -> Result<(), StorageError> {
        self.write(value)?;
        if self.unsynced_writes >= WRITES_PER_SYNC_MAX {
            return self.sync();
        }
        Ok(())
    }

    /// Starts the writeback of a stored mark to the device, without waiting for it.
    pub(super) fn start_writeback(&mut self) -> Result<(), StorageError> {
        if !std::mem::take(&mut self.needs_writeback) {
            return Ok(());
        }
        durable::start_writeback(&self.file)
            .map_err(|error| StorageError::io("write", &self.path, &error))
    }

    /// Writes a mark and waits until it is durable.
    pub(super) fn store_durably(&mut self, value: HighWaterMark) -> Result<(), StorageError> {
        self.write(value)?;
        self.sync()
    }

    /// Waits until a stored mark has been written back to the device.
    pub(super) fn wait_for_writeback(&self) -> Result<(), StorageError> {
        if self.unsynced_writes == 0 {
            return Ok(());
        }
        durable::wait_for_writeback(&self.file)
            .map_err(|error| StorageError::io("write", &self.path, &error))
    }

    fn write(&mut self, value: HighWaterMark) -> Result<(), StorageError> {
        let sequence = self.sequence + 1;
        let offset = (sequence % 2) * SLOT_STRIDE;
        self.file
            .write_all_at(&encode(sequence, &value), offset)
            .map_err(|error| StorageError::io("write", &self.path, &error))?;
        self.sequence = sequence;
        self.value = value;
        self.unsynced_writes += 1;
        self.needs_writeback = true;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(|error| StorageError::io("sync", &self.path, &error))?;
        self.unsynced_writes = 0;
        self.needs_writeback = false;
        Ok(())
    }
}

fn open_file(path: &Path) -> Result<File, StorageError> {
    durable::private_file()
        .open(path)
        .map_err(|error| StorageError::io("open", path, &error))
}

fn read_slot(file: &File, slot: u64) -> io::Result<Option<(u64, HighWaterMark)>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, slot * SLOT_STRIDE) {
        Ok(()) => Ok(decode(&bytes).filter(|(sequence, _)| sequence % 2 == slot)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(sequence: u64, mark: &HighWaterMark) -> [u8; SLOT_BYTES] {
    let mut bytes = Vec::with_capacity(SLOT_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&mark.vote_sequence.to_le_bytes());
    bytes.push(u8::from(mark.last.is_some()));
    let (position, checksum) = mark
        .last
        .map_or_else(Default::default, |link| (link.position, link.checksum));
    encode_position(&mut bytes, position);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    array(&bytes)
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<(u64, HighWaterMark)> {
    let (fields, crc) = bytes.split_at(SLOT_BYTES - 4);
    if crc32c::crc32c(fields) != u32::from_le_bytes(array(crc)) || &fields[..8] != MAGIC {
        return None;
    }
    let sequence = u64::from_le_bytes(array(&fields[8..16]));
    let link = ChainLink {
        position: decode_position(&array(&fields[25..49])),
        checksum: u32::from_le_bytes(array(&fields[49..53])),
    };
    let value = HighWaterMark {
        last: (fields[24] == 1).then_some(link),
        vote_sequence: u64::from_le_bytes(array(&fields[16..24])),
    };
    Some((sequence, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogPosition;

    fn mark_at(index: u64) -> HighWaterMark {
        let position = LogPosition {
            term: 2,
            leader: 3,
            index,
        };
        HighWaterMark {
            last: Some(ChainLink {
                position,
                checksum: index as u32,
            }),
            vote_sequence: index + 100,
        }
    }

    #[test]
    fn the_newest_mark_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        assert!(HighWaterMarkFile::open(&path, 1).unwrap().is_none());
        let mut file = HighWaterMarkFile::create(&path).unwrap();
        assert_eq!(file.value(), HighWaterMark::default());
        for index in 0..5 {
            file.store(mark_at(index)).unwrap();
            file.wait_for_writeback().unwrap();
            let reopened = HighWaterMarkFile::open(&path, 1).unwrap().unwrap();
            assert_eq!(reopened.value(), mark_at(index));
        }
        file.store_durably(mark_at(2)).unwrap();
        let reopened = HighWaterMarkFile::open(&path, 1).unwrap().unwrap();
        assert_eq!(reopened.value(), mark_at(2), "a mark may be lowered");
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before_and_two_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let mut file = HighWaterMarkFile::create(&path).unwrap();
        file.store(mark_at(1)).unwrap();
        file.store(mark_at(2)).unwrap();
        let newest_slot = file.sequence % 2;
        file.file
            .write_all_at(&[0xff; 30], newest_slot * SLOT_STRIDE + 10)
            .unwrap();
        let mut file = HighWaterMarkFile::open(&path, 1).unwrap().unwrap();
        assert_eq!(file.value(), mark_at(1));
        file.store(mark_at(3)).unwrap();
        assert_eq!(
            HighWaterMarkFile::open(&path, 1).unwrap().unwrap().value(),
            mark_at(3)
        );

        for slot in [0, 1] {
            file.file.write_all_at(b"x", slot * SLOT_STRIDE).unwrap();
        }
        assert!(matches!(
            HighWaterMarkFile::open(&path, 1),
            Err(StorageError::Damaged { .. })
        ));
        file.file.set_len(0).unwrap();
        assert!(matches!(
            HighWaterMarkFile::open(&path, 1),
            Err(StorageError::Damaged { .. })
        ));
    }
}
