//! Durable file operations: files and directories that survive a power cut.
//!
//! A file's content is durable after an fsync of the file. Its name is durable after an fsync of the directory it is
//! in. A file is replaced by writing a new one next to it, syncing that, and renaming it. So a crash leaves the old
//! file or the new one.
//!
//! Directories and files are for their owner alone, whatever the umask of the process: they hold payloads and results.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::StorageError;
use crate::error::is_exhausted;

/// The extension of files and directories that are being written. The next open removes those that a crash left.
pub(crate) const UNFINISHED_EXTENSION: &str = "unfinished";

/// Mode of the directories and of the files made here.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The bits of a mode that let others in.
const OTHERS_MODE: u32 = 0o077;

/// Returns options that create a file for its owner alone, for reading and writing.
pub(crate) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

/// Creates a file, or empties the one that is there.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    private_file().create(true).truncate(true).open(path)
}

/// Takes the permissions of others away from a directory that others may enter, and from everything below it. Only its
/// owner can do that; a failure is logged, because the directory works all the same.
pub(crate) fn make_private(directory: &Path) {
    let made = fs::metadata(directory).and_then(|found| match found.mode() & OTHERS_MODE {
        0 => Ok(false),
        _ => restrict(directory).map(|()| true),
    });
    match made {
        Ok(true) => {
            tracing::info!(path = %directory.display(), "other users could read this directory: it is for its owner alone now");
        }
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(path = %directory.display(), %error, "other users may read this directory, and this process cannot change that: make it private with chmod -R go= by its owner");
        }
    }
}

/// Takes the permissions of others away, from the directory before what is in it.
fn restrict(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    fs::set_permissions(
        path,
        Permissions::from_mode(found.mode() & 0o7777 & !OTHERS_MODE),
    )?;
    if found.is_dir() {
        for below in paths_of(path)? {
            // Nobody else reaches it any more.
            let _ = restrict(&below);
        }
    }
    Ok(())
}

/// Returns the directory a file is in: the current directory for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Maximum time for descriptors or memory to become available.
const EXHAUSTED_TIMEOUT: Duration = Duration::from_secs(30);
/// Delay between two tries of an operation that lacked them.
const EXHAUSTED_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Tries an operation that syncs nothing until it no longer fails for want of descriptors or memory, for a bounded time.
/// Blocks the calling thread.
pub(crate) fn retry_while_exhausted<T>(
    mut operation: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let begun = Instant::now();
    loop {
        match operation() {
            Err(error) if is_exhausted(&error) && begun.elapsed() < EXHAUSTED_TIMEOUT => {
                std::thread::sleep(EXHAUSTED_RETRY_DELAY);
            }
            result => return result,
        }
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    retry_while_exhausted(|| File::open(path))
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StorageError::io("sync", path, &error))
}

/// Returns the paths of all entries in a directory.
fn paths_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

/// Returns the paths of all entries in a directory.
fn paths_in(directory: &Path) -> Result<Vec<PathBuf>, StorageError> {
    paths_of(directory).map_err(|error| StorageError::io("list", directory, &error))
}

/// Makes everything in a directory durable, names and contents.
pub(crate) fn sync_tree(directory: &Path) -> Result<(), StorageError> {
    for path in paths_in(directory)? {
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|error| StorageError::io("sync", &path, &error))?;
        }
    }
    sync_directory(directory)
}

/// Creates a directory and its missing parents, durably and for their owner alone.
pub(crate) fn create_directory(path: &Path) -> Result<(), StorageError> {
    let mut missing = Vec::new();
    let mut at = path;
    while !at
        .try_exists()
        .map_err(|error| StorageError::io("look for", at, &error))?
    {
        missing.push(at);
        at = parent_of(at);
    }
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StorageError::io("create", directory, &error)),
        }
        sync_directory(parent_of(directory))?;
    }
    Ok(())
}

/// Replaces a small file. A crash leaves the old content or the new, and the new is durable on return.
pub(crate) fn write_file(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let unfinished = unfinished_name(path);
    let mut file = create_file(&unfinished)
        .map_err(|error| StorageError::io("create", &unfinished, &error))?;
    file.write_all(content)
        .map_err(|error| StorageError::io("write", &unfinished, &error))?;
    file.sync_all()
        .map_err(|error| StorageError::io("sync", &unfinished, &error))?;
    rename(&unfinished, path)
}

/// Replaces a small file without syncing it. A crash of the process leaves the old content or the new; a power cut may
/// leave neither.
pub(crate) fn write_file_unsynced(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let unfinished = unfinished_name(path);
    let mut file = create_file(&unfinished)
        .map_err(|error| StorageError::io("create", &unfinished, &error))?;
    file.write_all(content)
        .map_err(|error| StorageError::io("write", &unfinished, &error))?;
    drop(file);
    fs::rename(&unfinished, path).map_err(|error| StorageError::io("rename", &unfinished, &error))
}

/// Returns the name under which a file is written until it is complete.
pub(crate) fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".");
    name.push(UNFINISHED_EXTENSION);
    PathBuf::from(name)
}

/// Renames a synced file or directory within the directory it is in, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    fs::rename(from, to).map_err(|error| StorageError::io("rename", from, &error))?;
    sync_directory(parent_of(to))
}

/// Removes unfinished files and directories that a crash left in a directory.
pub(crate) fn remove_unfinished(directory: &Path) -> Result<(), StorageError> {
    for path in paths_in(directory)? {
        if path
            .extension()
            .is_some_and(|extension| extension == UNFINISHED_EXTENSION)
        {
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(|error| StorageError::io("remove", &path, &error))?;
        }
    }
    Ok(())
}

/// Allocates the blocks of a file, so that writing or freeing them later cannot run out of space.
pub(crate) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length =
        libc::off_t::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Allocates blocks for `bytes` from `offset` on, and leaves the file's length as it is. A later write there finds its
/// space, even if other processes fill the file system before.
pub(crate) fn allocate_beyond(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let in_range = |value: u64| {
        libc::off_t::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    };
    let (offset, bytes) = (in_range(offset)?, in_range(bytes)?);
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    if unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, bytes) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Returns how many bytes an ordinary user can still write to the file system of `path`.
pub(crate) fn available_bytes(path: &Path) -> io::Result<u64> {
    file_system_usage(path).map(|file_system| file_system.available_bytes)
}

/// Capacity of a file system.
pub(crate) struct FileSystemUsage {
    /// Bytes that an ordinary user can still write.
    pub(crate) available_bytes: u64,
    /// Size of the file system in bytes.
    pub(crate) total_bytes: u64,
}

/// Reads the capacity of the file system of `path`.
pub(crate) fn file_system_usage(path: &Path) -> io::Result<FileSystemUsage> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut status = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends in a nul byte, `status` is large enough.
    if unsafe { libc::statvfs(path.as_ptr(), status.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded and filled it in.
    let status = unsafe { status.assume_init() };
    Ok(FileSystemUsage {
        available_bytes: status.f_bavail.saturating_mul(status.f_frsize),
        total_bytes: status.f_blocks.saturating_mul(status.f_frsize),
    })
}

/// Starts the writeback of a file's changed pages to the device, without waiting.
pub(crate) fn start_writeback(file: &File) -> io::Result<()> {
    sync_file_range(file, libc::SYNC_FILE_RANGE_WRITE)
}

/// Waits until a file's changed pages have been written back to the device. The device's cache may still hold them:
/// only a later fdatasync, of any file on that device, makes them durable.
pub(crate) fn wait_for_writeback(file: &File) -> io::Result<()> {
    sync_file_range(
        file,
        libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER,
    )
}

fn sync_file_range(file: &File, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; 0, 0 means the whole file.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Some file systems do not support this call: there, a real sync.
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ESPIPE) => file.sync_data(),
        Some(_) | None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_created_down_to_the_last() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_directory(&deep).unwrap();
        create_directory(&deep).unwrap();
        assert!(deep.is_dir());
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_created_is_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        create_directory(&deep).unwrap();
        write_file(&deep.join("file"), b"payload").unwrap();
        assert_eq!(mode(&root.path().join("a")), 0o700);
        assert_eq!(mode(&deep), 0o700);
        assert_eq!(mode(&deep.join("file")), 0o600);
    }

    #[test]
    fn a_directory_that_others_may_enter_is_made_private_with_all_in_it() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("data");
        let file = directory.join("log/sled");
        fs::create_dir_all(directory.join("log")).unwrap();
        fs::write(&file, b"payload").unwrap();
        for (path, open) in [(&directory, 0o755), (&file, 0o644)] {
            fs::set_permissions(path, Permissions::from_mode(open)).unwrap();
        }
        make_private(&directory);
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn a_file_is_replaced_and_leftovers_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        write_file(&path, b"old").unwrap();
        fs::write(unfinished_name(&path), b"half").unwrap();
        remove_unfinished(root.path()).unwrap();
        assert!(!unfinished_name(&path).exists());
        write_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn allocated_blocks_are_counted() {
        let root = tempfile::tempdir().unwrap();
        let file = File::create(root.path().join("reserve")).unwrap();
        allocate(&file, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        assert!(available_bytes(root.path()).unwrap() > 0);
    }
}
