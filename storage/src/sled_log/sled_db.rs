//! The sled database under the log: every call into sled goes through here.
//!
//! sled reports damage by an error, by a panic, or not at all. Errors and panics become [`StorageError`]s here. The
//! checksums of the caller detect the damage that sled does not notice. `flush` passes sled's buffers to the operating
//! system and is no fsync. So [`SledDb::sync_data`] calls fdatasync on a handle of its own to sled's one file.
//!
//! The log uses plain inserts and removes only: batches and transactions take a process-wide lock against flush. A log
//! needs only that a crash keeps a prefix of what was written, and sled's own log gives that.

use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::chunk::{Assembler, ChainLink, Entry, Key, key};
use crate::StorageError;
use crate::contained_panic::{contain, contain_with_sled_threads};
use crate::durable;

/// Free space, in bytes, below which sled's failures are attributed to a full disk.
const AVAILABLE_BYTES_MIN: u64 = 1 << 20;

/// The one file that holds entries.
const FILE_NAME: &str = "db";
/// Prefix and suffix of the file to which sled writes a snapshot of its own, a record of how far it has read. sled
/// trusts the latest such file it finds, an unfinished one too.
const UNFINISHED_SLED_SNAPSHOT: (&str, &str) = ("snap.", ".generating");
/// Page cache for creating an empty database, in bytes.
const CREATE_CACHE_BYTES: u64 = 1 << 20;

/// Maximum wait until an earlier log of this process releases its file.
const UNLOCK_TIMEOUT: Duration = Duration::from_secs(10);
const UNLOCK_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The reason why work given to [`SledDb::run`] failed.
pub(super) enum DbError {
    /// sled reported an error.
    Sled(sled::Error),
    /// A checksum, the chain or a format version does not match.
    Damaged(String),
}

impl From<sled::Error> for DbError {
    fn from(error: sled::Error) -> Self {
        DbError::Sled(error)
    }
}

impl From<String> for DbError {
    fn from(what: String) -> Self {
        DbError::Damaged(what)
    }
}

/// An open database, its two trees and a handle of our own to its file.
pub(super) struct SledDb {
    sled: sled::Db,
    pub(super) log: sled::Tree,
    pub(super) meta: sled::Tree,
    file: File,
    file_path: PathBuf,
    node_id: u64,
}

impl SledDb {
    /// Creates an empty database in `directory`: it exists as a whole and durably, or not at all. sled itself writes
    /// its files in place, and refuses a file that a crash left half written.
    pub(super) fn create(directory: &Path, node_id: u64) -> Result<(), StorageError> {
        let unfinished = durable::unfinished_name(directory);
        let db = Self::open(&unfinished, CREATE_CACHE_BYTES, node_id)?;
        db.flush()?;
        Arc::new(db).release();
        wait_until_unlocked(&unfinished.join(FILE_NAME))?;
        durable::sync_tree(&unfinished)?;
        durable::rename(&unfinished, directory)
    }

    /// Opens the database in `directory`, creating it if there is none.
    pub(super) fn open(
        directory: &Path,
        cache_bytes: u64,
        node_id: u64,
    ) -> Result<Self, StorageError> {
        let file_path = directory.join(FILE_NAME);
        wait_until_unlocked(&file_path)?;
        remove_unfinished_sled_snapshot(directory)?;
        let opened = contain_with_sled_threads(|| {
            let db = sled::Config::new()
                .path(directory)
                .cache_capacity(cache_bytes)
                .flush_every_ms(None)
                .use_compression(false)
                .open()?;
            let log = db.open_tree("log")?;
            let meta = db.open_tree("meta")?;
            Ok((db, log, meta))
        });
        let (sled, log, meta) = as_result(&file_path, node_id, "open", opened)?;
        // sled records by file names alone how far it has read. After a crash, an older record would mislead it once it
        // has written more.
        durable::sync_directory(directory)?;
        let file = durable::private_file()
            .open(&file_path)
            .map_err(|error| StorageError::io("open", &file_path, &error))?;
        Ok(SledDb {
            sled,
            log,
            meta,
            file,
            file_path,
            node_id,
        })
    }

    /// Another handle to the file.
    pub(super) fn file_handle(&self) -> Result<File, StorageError> {
        self.file
            .try_clone()
            .map_err(|error| StorageError::io("open", &self.file_path, &error))
    }

    /// The file, for messages.
    pub(super) fn file_path(&self) -> &Path {
        &self.file_path
    }

    /// Runs work on the trees. `action` completes "cannot … the file".
    pub(super) fn run<T>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> Result<T, DbError>,
    ) -> Result<T, StorageError> {
        as_result(&self.file_path, self.node_id, action, contain(work))
    }

    /// Releases the database. If it is the last handle, sled flushes and syncs once more, and panics if that fails.
    pub(super) fn release(self: Arc<Self>) {
        let dropped = contain_with_sled_threads(move || drop(self));
        if let Err(panic) = dropped {
            tracing::warn!(cause = panic_message(&panic), "sled did not close cleanly");
        }
    }

    /// Returns whether nothing was ever written.
    pub(super) fn is_empty(&self) -> Result<bool, StorageError> {
        self.run("read", || Ok(self.log.is_empty() && self.meta.is_empty()))
    }

    /// Passes everything written so far to the operating system. Not durable yet.
    pub(super) fn flush(&self) -> Result<(), StorageError> {
        self.run("write", || {
            self.sled.flush()?;
            Ok(())
        })
    }

    /// Makes the flushed writes durable. The durability of the log rests on this call alone.
    pub(super) fn sync_data(&self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(|error| StorageError::io("sync", &self.file_path, &error))
    }

    /// Checks that the open file is still the one at its path. Writes to a deleted file are lost with the process.
    pub(super) fn check_present(&self) -> Result<(), StorageError> {
        let gone = || StorageError::gone(&self.file_path, self.node_id);
        let open = self
            .file
            .metadata()
            .map_err(|error| StorageError::io("look at", &self.file_path, &error))?;
        match fs::metadata(&self.file_path) {
            Ok(found) if (found.dev(), found.ino()) == (open.dev(), open.ino()) => Ok(()),
            Ok(_) => Err(gone()),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Err(gone()),
                // A disk that has failed is reported by the next write or sync.
                _ => Ok(()),
            },
        }
    }

    /// Returns an error for damage found by a caller, with this database's file.
    pub(super) fn damaged(&self, what: impl Into<String>) -> StorageError {
        StorageError::damaged(&self.file_path, what, self.node_id)
    }

    /// Returns the complete entries in `range`, in order, until `bytes_max` payload bytes are reached (at least one
    /// entry). Checks checksums, chain and gaplessness. The caller must check that the first entry is where the range
    /// begins.
    pub(super) fn entries(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.run("read", || {
            let mut assembler = Assembler::default();
            let mut entries: Vec<Entry> = Vec::new();
            let mut bytes = 0;
            for chunk in self.log.range(key(range.start, 0)..key(range.end, 0)) {
                let (key, value) = chunk?;
                let Some(entry) = assembler.push(&key, &value)? else {
                    continue;
                };
                if let Some(before) = entries.last() {
                    check_chain(Some(before.link()), &entry)?;
                }
                bytes += entry.record.payload.len();
                entries.push(entry);
                if bytes >= bytes_max {
                    return Ok(entries);
                }
            }
            match assembler.incomplete_entry() {
                None => Ok(entries),
                Some(index) => Err(DbError::Damaged(format!(
                    "the end of entry {index} is missing"
                ))),
            }
        })
    }

    /// Returns the link of the entry at `index`, if the log holds it.
    pub(super) fn link(&self, index: u64) -> Result<Option<ChainLink>, StorageError> {
        let entries = self.entries(index..index + 1, usize::MAX)?;
        Ok(entries.last().map(Entry::link))
    }

    /// Removes up to `chunks_max` chunks of entries before `index`, oldest first. Returns whether any are left.
    pub(super) fn remove_before(
        &self,
        index: u64,
        chunks_max: usize,
    ) -> Result<bool, StorageError> {
        self.run("write", || {
            let keys = self
                .log
                .range(..key(index, 0))
                .keys()
                .take(chunks_max)
                .collect::<Result<Vec<_>, _>>()?;
            for key in &keys {
                self.log.remove(key)?;
            }
            Ok(keys.len() == chunks_max)
        })
    }

    /// Removes every entry from `index` on, the last chunk first, so that a crash leaves no hole.
    pub(super) fn remove_from(&self, index: u64) -> Result<(), StorageError> {
        const STEP: usize = 1024;
        self.run("write", || {
            loop {
                let keys = self
                    .log
                    .range(key(index, 0)..)
                    .rev()
                    .take(STEP)
                    .map(|chunk| chunk.map(|(key, _)| key))
                    .collect::<Result<Vec<_>, _>>()?;
                for key in &keys {
                    self.log.remove(key)?;
                }
                if keys.len() < STEP {
                    return Ok(());
                }
            }
        })
    }

    /// Writes the chunks of one entry.
    pub(super) fn insert(&self, chunks: Vec<(Key, Vec<u8>)>) -> Result<(), StorageError> {
        self.run("write", || {
            for (key, value) in chunks {
                self.log.insert(key, value)?;
            }
            Ok(())
        })
    }

    /// Writes a value of the hard state.
    pub(super) fn insert_meta(&self, key: &[u8], value: Vec<u8>) -> Result<(), StorageError> {
        self.run("write", || {
            self.meta.insert(key, value)?;
            Ok(())
        })
    }

    /// Removes a value of the hard state.
    pub(super) fn remove_meta(&self, key: &[u8]) -> Result<(), StorageError> {
        self.run("write", || {
            self.meta.remove(key)?;
            Ok(())
        })
    }
}

/// Checks that `entry` directly follows the entry of `previous`.
pub(super) fn check_chain(previous: Option<ChainLink>, entry: &Entry) -> Result<(), String> {
    let index = entry.record.position.index;
    match previous {
        Some(before) if before.position.index.checked_add(1) != Some(index) => Err(format!(
            "entry {index} stands where entry {} should",
            before.position.index.saturating_add(1)
        )),
        Some(_) | None if entry.previous == previous => Ok(()),
        Some(_) | None => Err(format!(
            "entry {index} does not continue the entry before it: it was written after {:?}, and stands after {previous:?}",
            entry.previous
        )),
    }
}

/// Removes the snapshot of its own that sled was writing when the process ended.
fn remove_unfinished_sled_snapshot(directory: &Path) -> Result<(), StorageError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::io("list", directory, &error)),
    };
    for entry in entries {
        let path = entry
            .map_err(|error| StorageError::io("list", directory, &error))?
            .path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(UNFINISHED_SLED_SNAPSHOT.0)
            && name.ends_with(UNFINISHED_SLED_SNAPSHOT.1)
        {
            fs::remove_file(&path).map_err(|error| StorageError::io("remove", &path, &error))?;
        }
    }
    Ok(())
}

/// Waits until sled's file is unlocked. sled locks its file, and a log closed in this process may keep the lock for a
/// moment. sled leaves the release of its last memory, the file included, to an epoch-based collector shared with all
/// of its users. This function drives that collector on.
///
/// Another process is kept out by the data directory's own lock, long before this.
fn wait_until_unlocked(path: &Path) -> Result<(), StorageError> {
    let deadline = Instant::now() + UNLOCK_TIMEOUT;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::io("open", path, &error)),
    };
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                crossbeam_epoch::pin().flush();
                thread::sleep(UNLOCK_POLL_INTERVAL);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StorageError::Locked {
                    path: path.to_path_buf(),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(StorageError::io("lock", path, &error));
            }
        }
    }
}

/// Turns an error or a panic of sled into an error that says what is damaged or missing.
fn as_result<T>(
    path: &Path,
    node_id: u64,
    action: &'static str,
    outcome: std::thread::Result<Result<T, DbError>>,
) -> Result<T, StorageError> {
    let what = match outcome {
        Ok(Ok(done)) => return Ok(done),
        // The file ends before what sled looks for in it.
        Ok(Err(DbError::Sled(sled::Error::Io(error))))
            if error.kind() == io::ErrorKind::UnexpectedEof =>
        {
            "it is too short".to_string()
        }
        Ok(Err(DbError::Sled(sled::Error::Io(error)))) => {
            return Err(StorageError::io(action, path, &error));
        }
        Ok(Err(DbError::Sled(error))) => format!("sled reports: {error}"),
        Ok(Err(DbError::Damaged(what))) => what,
        Err(panic) => format!("sled panicked: {}", panic_message(&panic)),
    };
    // A full disk makes sled fail in ways of its own. Nothing is lost then, so it must not be reported as damage.
    if durable::available_bytes(durable::parent_of(path))
        .is_ok_and(|available| available < AVAILABLE_BYTES_MIN)
    {
        return Err(StorageError::Io {
            action,
            path: path.to_path_buf(),
            cause: format!("{what}; the disk is full: free some space and start the node again"),
            disk_full: true,
            exhausted: false,
        });
    }
    Err(StorageError::damaged(path, what, node_id))
}

fn panic_message(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked without a message").to_string()
}
