//! The sled database under the log: every call into sled goes through here.
//!
//! sled reports damage by an error, by a panic, or not at all. Errors and panics become [`StorageError`]s here; what
//! sled does not notice is for the checksums of the caller. `flush` hands sled's buffers to the operating system and is
//! no fsync, so [`SledDb::sync_data`] calls fdatasync on a handle of its own to sled's one file.
//!
//! Plain inserts and removes only: batches and transactions take a process-wide lock against flush, and a log needs no
//! more than that a crash keeps a prefix of what was written, which sled's own log gives.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::chunk::{Assembler, ChainLink, Entry, Key, key};
use crate::StorageError;
use crate::contained_panic::{contain, contain_with_sled_threads};
use crate::durable;

/// Below this, sled's troubles are taken for those of a full disk.
const AVAILABLE_BYTES_MIN: u64 = 1 << 20;

/// The one file that holds entries.
const FILE_NAME: &str = "db";
/// The name of sled's own snapshot, a note of how far it has read, while sled writes it. sled trusts the latest one it
/// finds, this one too.
const UNFINISHED_SLED_SNAPSHOT: (&str, &str) = ("snap.", ".generating");
/// An empty database needs no more.
const CREATE_CACHE_BYTES: u64 = 1 << 20;

/// How long an earlier log of this process may take to let go of its file.
const UNLOCK_TIMEOUT: Duration = Duration::from_secs(10);
const UNLOCK_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Why a piece of work given to [`SledDb::run`] failed.
pub(super) enum DbError {
    /// sled said so.
    Sled(sled::Error),
    /// A checksum, a chain or a format says so.
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
    /// Makes an empty database in `directory`: it is there as a whole and durable, or not at all. sled itself writes its
    /// files in place, and refuses what a crash leaves half written.
    pub(super) fn create(directory: &Path, node_id: u64) -> Result<(), StorageError> {
        let unfinished = durable::unfinished_name(directory);
        let db = Self::open(&unfinished, CREATE_CACHE_BYTES, node_id)?;
        db.flush()?;
        Arc::new(db).release();
        wait_until_unlocked(&unfinished.join(FILE_NAME))?;
        durable::sync_tree(&unfinished)?;
        durable::rename(&unfinished, directory)
    }

    /// Opens the database in `directory`, making it if there is none.
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
        // sled has noted by names alone how far it has read: an older note would mislead it once it writes on.
        durable::sync_directory(directory)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
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

    /// Runs a piece of work on the trees; `action` completes "cannot … the file".
    pub(super) fn run<T>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> Result<T, DbError>,
    ) -> Result<T, StorageError> {
        as_result(&self.file_path, self.node_id, action, contain(work))
    }

    /// Lets go of the database. If it is the last handle, sled flushes and syncs once more, and panics if that fails.
    pub(super) fn release(self: Arc<Self>) {
        let dropped = contain_with_sled_threads(move || drop(self));
        if let Err(panic) = dropped {
            tracing::warn!(cause = panic_message(&panic), "sled did not close cleanly");
        }
    }

    /// Whether nothing was ever written.
    pub(super) fn is_empty(&self) -> Result<bool, StorageError> {
        self.run("read", || Ok(self.log.is_empty() && self.meta.is_empty()))
    }

    /// Hands everything written so far to the operating system. Not durable yet.
    pub(super) fn flush(&self) -> Result<(), StorageError> {
        self.run("write", || {
            self.sled.flush()?;
            Ok(())
        })
    }

    /// Makes what was flushed durable. The one place where the log's promise comes true.
    pub(super) fn sync_data(&self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(|error| StorageError::io("sync", &self.file_path, &error))
    }

    /// Damage found above, told about this database's file.
    pub(super) fn damaged(&self, what: impl Into<String>) -> StorageError {
        StorageError::damaged(&self.file_path, what, self.node_id)
    }

    /// The complete entries in `range`, in order, until `bytes_max` payload bytes are reached (at least one entry).
    /// Checks checksums, chain and gaplessness; that the first one is where the range begins is the caller's to check.
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

    /// The link of the entry at `index`, if the log holds it.
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

/// That `entry` directly follows what `previous` stands for.
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

/// sled locks its file, and a log closed in this process may keep the lock for a moment: sled leaves the last of its
/// memory, the file included, to the collector it shares with all of its users, which this drives on.
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
        Ok(Err(DbError::Sled(error))) => format!("sled says: {error}"),
        Ok(Err(DbError::Damaged(what))) => what,
        Err(panic) => format!("sled gave up: {}", panic_message(&panic)),
    };
    // A full disk makes sled fail in ways of its own; nothing is lost then, so it must not be told as damage.
    if durable::available_bytes(durable::parent_of(path))
        .is_ok_and(|available| available < AVAILABLE_BYTES_MIN)
    {
        return Err(StorageError::Io {
            action,
            path: path.to_path_buf(),
            cause: format!("{what}; the disk is full: free some space and start the node again"),
            disk_full: true,
        });
    }
    Err(StorageError::damaged(path, what, node_id))
}

fn panic_message(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked without a word").to_string()
}
