//! Directories and files for their owner alone, whatever the umask: they hold payloads, results and what tasks print.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The bits of a mode that let others in.
const OTHERS_MODE: u32 = 0o077;

/// Creates a directory and its missing parents. One that is there stays as it is.
pub fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .recursive(true)
        .create(path)
}

/// Creates a file, or empties the one that is there.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    options.mode(FILE_MODE).open(path)
}

/// Opens a file to append to it, and creates it if there is none.
pub fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    options.mode(FILE_MODE).open(path)
}

/// Takes the permissions of others away from a directory. Only its owner can.
pub fn make_private(directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.mode() & 0o7777;
    if mode & OTHERS_MODE == 0 {
        return Ok(());
    }
    fs::set_permissions(directory, Permissions::from_mode(mode & !OTHERS_MODE))
}
