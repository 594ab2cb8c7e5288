//! Disk space set aside for the day the disk is full.
//!
//! sled needs space to be opened, even to read. So a file of zeros is kept beside it and given up when a write finds no
//! space: the node stops, and can be started again without anybody having to find out what sled needs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::StorageError;
use crate::durable;

/// Without this much besides the reserve, the log is not opened: sled's own recovery would run out of space halfway.
const AVAILABLE_BYTES_MIN: u64 = 2 << 20;

/// See the [module](self).
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Makes sure the space is there, or says that the disk is full.
    pub(super) fn take(path: &Path, bytes: u64) -> Result<Self, StorageError> {
        let reserve = Reserve {
            path: path.to_path_buf(),
        };
        let present = fs::metadata(path).map_or(0, |metadata| metadata.len());
        if present < bytes
            && let Err(error) = allocate(path, bytes)
        {
            reserve.give_up();
            return Err(StorageError::io("reserve space in", path, &error));
        }
        let available = durable::available_bytes(durable::parent_of(path))
            .map_err(|error| StorageError::io("look for space beside", path, &error))?;
        if available < AVAILABLE_BYTES_MIN {
            return Err(StorageError::Io {
                action: "open the log beside",
                path: path.to_path_buf(),
                cause: format!(
                    "only {available} bytes are free on this file system; free some space and start the node again"
                ),
                disk_full: true,
            });
        }
        Ok(reserve)
    }

    /// Frees the space. Nothing to report if that fails: there is an error on its way already.
    pub(super) fn give_up(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not give up the reserved space");
        }
    }
}

fn allocate(path: &Path, bytes: u64) -> std::io::Result<()> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    durable::allocate(&file, bytes)
}
