//! The snapshots of one node: the current one, and its replacement by a newer one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::file::SnapshotFile;
use super::unfinished::UnfinishedFile;
use crate::StorageError;
use crate::durable;

const EXTENSION: &str = "snapshot";
const DAMAGED_EXTENSION: &str = "damaged";

/// The snapshots of one node. Clones are handles on the same store.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    node_id: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Option<SnapshotFile>,
    /// The last number given to a committed snapshot.
    sequence: u64,
    /// The last number given to an unfinished one.
    unfinished: u64,
}

/// The content of the directory, by the numbers in the names.
#[derive(Default)]
struct Listing {
    snapshots: Vec<u64>,
    damaged: Vec<u64>,
}

impl SnapshotStore {
    /// Opens the store in `directory`, or creates it. Verifies the newest snapshot.
    pub fn open(directory: &Path, node_id: u64) -> Result<Self, StorageError> {
        durable::create_directory(directory)?;
        durable::remove_unfinished(directory)?;
        let listing = list(directory)?;
        let newest = listing.snapshots.last().copied();
        if let Some(damaged) = listing.damaged.last()
            && newest < Some(*damaged)
        {
            let what = "was found damaged before, and no newer snapshot has replaced it";
            let path = directory.join(damaged_name(*damaged));
            return Err(StorageError::damaged(&path, what, node_id));
        }
        let current = newest
            .map(|sequence| open_or_quarantine(directory, sequence, node_id))
            .transpose()?;
        let store = SnapshotStore {
            inner: Arc::new(Inner {
                directory: directory.to_path_buf(),
                node_id,
                state: Mutex::new(State {
                    current,
                    sequence: newest.unwrap_or(0),
                    unfinished: 0,
                }),
            }),
        };
        // A crash may have happened before the older ones were removed.
        store.remove_before(newest.unwrap_or(0), &listing.snapshots);
        Ok(store)
    }

    /// Returns the snapshot committed last.
    pub fn current(&self) -> Option<SnapshotFile> {
        self.inner.state.lock().current.clone()
    }

    pub(super) fn unfinished_path(&self) -> PathBuf {
        let mut state = self.inner.state.lock();
        state.unfinished += 1;
        let name = format!("{}.{}", state.unfinished, durable::UNFINISHED_EXTENSION);
        self.inner.directory.join(name)
    }

    pub(super) fn verify(&self, unfinished: &UnfinishedFile) -> Result<SnapshotFile, StorageError> {
        durable::retry_while_exhausted(|| SnapshotFile::open(unfinished.path(), 0))
            .map_err(|error| self.unreadable(unfinished.path(), &error))
    }

    /// Makes a complete file the current snapshot.
    pub(super) fn promote(
        &self,
        unfinished: UnfinishedFile,
        file: &File,
    ) -> Result<SnapshotFile, StorageError> {
        if !mutated!(SnapshotNotSynced) {
            file.sync_all()
                .map_err(|error| StorageError::io("sync", unfinished.path(), &error))?;
        }
        let verified = durable::retry_while_exhausted(|| SnapshotFile::open(unfinished.path(), 0))
            .map_err(|error| self.unreadable(unfinished.path(), &error))?;

        let mut state = self.inner.state.lock();
        let sequence = state.sequence + 1;
        let path = self.inner.directory.join(name(sequence));
        durable::rename(unfinished.path(), &path)?;
        unfinished.keep();
        let before = state.sequence;
        state.sequence = sequence;
        let snapshot = verified.renamed(path, sequence);
        state.current = Some(snapshot.clone());
        drop(state);
        self.remove_before(sequence, &[before]);
        Ok(snapshot)
    }

    /// Returns the error for a new snapshot that cannot be read back. The current snapshot is not affected.
    fn unreadable(&self, path: &Path, error: &io::Error) -> StorageError {
        if error.kind() != io::ErrorKind::InvalidData {
            return StorageError::io("read", path, error);
        }
        StorageError::Damaged {
            path: path.to_path_buf(),
            what: format!("a new snapshot failed its verification: {error}"),
            advice: format!(
                "Node {} keeps the snapshot it had; let it write or receive this one again",
                self.inner.node_id
            ),
        }
    }

    fn remove_before(&self, sequence: u64, candidates: &[u64]) {
        for old in candidates.iter().filter(|old| (1..sequence).contains(*old)) {
            let path = self.inner.directory.join(name(*old));
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                // It only takes space, and the next open tries again.
                tracing::warn!(path = %path.display(), %error, "could not remove an old snapshot");
            }
        }
    }
}

fn name(sequence: u64) -> String {
    format!("{sequence:020}.{EXTENSION}")
}

fn damaged_name(sequence: u64) -> String {
    format!("{}.{DAMAGED_EXTENSION}", name(sequence))
}

fn list(directory: &Path) -> Result<Listing, StorageError> {
    let mut listing = Listing::default();
    let entries =
        fs::read_dir(directory).map_err(|error| StorageError::io("list", directory, &error))?;
    for entry in entries {
        let file_name = entry
            .map_err(|error| StorageError::io("list", directory, &error))?
            .file_name();
        let Some(file_name) = file_name.to_str() else {
            continue;
        };
        let Some(sequence) = file_name
            .split('.')
            .next()
            .and_then(|number| number.parse().ok())
        else {
            continue;
        };
        if file_name == name(sequence) {
            listing.snapshots.push(sequence);
        } else if file_name == damaged_name(sequence) {
            listing.damaged.push(sequence);
        }
    }
    listing.snapshots.sort_unstable();
    listing.damaged.sort_unstable();
    Ok(listing)
}

fn open_or_quarantine(
    directory: &Path,
    sequence: u64,
    node_id: u64,
) -> Result<SnapshotFile, StorageError> {
    let path = directory.join(name(sequence));
    let error = match SnapshotFile::open(&path, sequence) {
        Ok(snapshot) => return Ok(snapshot),
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::InvalidData {
        // The disk cannot be read now, which says nothing about its content.
        return Err(StorageError::io("read", &path, &error));
    }
    let aside = directory.join(damaged_name(sequence));
    durable::rename(&path, &aside)?;
    let what = format!("{error}; it was moved aside to this name");
    Err(StorageError::damaged(&aside, what, node_id))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use bytes::Bytes;

    use super::super::format::BLOCK_BYTES;
    use super::*;

    fn payload(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|byte| (byte % 253) as u8).collect()
    }

    fn write(store: &SnapshotStore, payload: &[u8], meta: &'static [u8]) -> SnapshotFile {
        let mut writer = store.create().unwrap();
        writer.write_all(payload).unwrap();
        writer.commit(Bytes::from_static(meta)).unwrap()
    }

    fn read(snapshot: &SnapshotFile) -> Vec<u8> {
        let mut read = Vec::new();
        snapshot.reader().read_to_end(&mut read).unwrap();
        read
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn payloads_of_every_size_come_back() {
        for bytes in [
            0,
            1,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            3 * BLOCK_BYTES,
            1 << 20,
        ] {
            let root = tempfile::tempdir().unwrap();
            let store = SnapshotStore::open(root.path(), 1).unwrap();
            assert!(store.current().is_none());
            let payload = payload(bytes);
            let written = write(&store, &payload, b"meta");
            assert_eq!(read(&written), payload);
            assert_eq!(written.payload_bytes(), bytes as u64);
            let reopened = SnapshotStore::open(root.path(), 1).unwrap();
            let current = reopened.current().unwrap();
            assert_eq!(read(&current), payload);
            assert_eq!(current.meta(), &Bytes::from_static(b"meta"));
        }
    }

    #[test]
    fn a_committed_snapshot_replaces_the_ones_before() {
        let root = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(root.path(), 1).unwrap();
        let first = write(&store, b"first", b"1");
        let abandoned = store.create().unwrap();
        let second = write(&store, b"second", b"2");
        drop(abandoned);
        assert_eq!(read(&store.current().unwrap()), b"second");
        assert_eq!(names(root.path()), [name(second.sequence())]);
        assert_eq!(read(&first), b"first", "it is still held");
    }

    #[test]
    fn leftovers_of_a_crash_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(root.path(), 1).unwrap();
        let first = write(&store, b"first", b"1");
        let kept = fs::read(first.path()).unwrap();
        let second = write(&store, b"second", b"2");
        // A crash before the old one was removed, while a third was being written.
        fs::write(first.path(), kept).unwrap();
        fs::write(root.path().join("7.unfinished"), b"half").unwrap();
        let store = SnapshotStore::open(root.path(), 1).unwrap();
        assert_eq!(read(&store.current().unwrap()), b"second");
        assert_eq!(names(root.path()), [name(second.sequence())]);
    }

    #[test]
    fn a_damaged_snapshot_is_quarantined_and_reported_at_every_open() {
        let root = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(root.path(), 1).unwrap();
        let snapshot = write(&store, &payload(200_000), b"meta");
        let mut bytes = fs::read(snapshot.path()).unwrap();
        bytes[150_000] ^= 4;
        fs::write(snapshot.path(), bytes).unwrap();
        let mut read = Vec::new();
        let error = snapshot.reader().read_to_end(&mut read).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        for _ in 0..2 {
            let outcome = SnapshotStore::open(root.path(), 1);
            assert!(matches!(outcome, Err(StorageError::Damaged { .. })));
            assert_eq!(names(root.path()), [damaged_name(snapshot.sequence())]);
        }
    }

    #[test]
    fn a_snapshot_travels_in_parts_and_resumes() {
        let root = tempfile::tempdir().unwrap();
        let sender = SnapshotStore::open(&root.path().join("a"), 1).unwrap();
        let receiver = SnapshotStore::open(&root.path().join("b"), 2).unwrap();
        write(&receiver, b"older", b"0");
        let payload = payload(300_000);
        let sent = write(&sender, &payload, b"meta");

        let mut incoming = receiver.receive().unwrap();
        while incoming.received() < sent.len() {
            let offset = incoming.received();
            let part = sent.read_at(offset, 70_000).unwrap();
            incoming.write_at(offset, &part).unwrap();
            // The answer was lost, and the part comes again.
            assert_eq!(
                incoming.write_at(offset, &part).unwrap(),
                offset + part.len() as u64
            );
        }
        assert!(sent.read_at(sent.len(), 10).unwrap().is_empty());
        assert!(incoming.write_at(sent.len() + 1, b"x").is_err());
        let received = incoming.commit().unwrap();
        assert_eq!(read(&received), payload);
        assert_eq!(read(&receiver.current().unwrap()), payload);
    }

    #[test]
    fn a_snapshot_damaged_on_its_way_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(root.path(), 1).unwrap();
        let kept = write(&store, b"kept", b"1");
        let mut raw = kept.read_at(0, usize::MAX).unwrap().to_vec();
        raw[10] ^= 1;
        for part in [&raw[..], &raw[..raw.len() - 1], &[]] {
            let mut incoming = store.receive().unwrap();
            incoming.write_at(0, part).unwrap();
            let outcome = incoming.commit();
            assert!(matches!(outcome, Err(StorageError::Damaged { .. })));
            assert_eq!(read(&store.current().unwrap()), b"kept");
        }
        assert_eq!(names(root.path()), [name(kept.sequence())]);
    }
}
