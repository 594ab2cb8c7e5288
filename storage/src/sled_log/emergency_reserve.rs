//! The emergency reserve: disk space set aside for a full disk.
//!
//! sled needs space to be opened, even to read, and a node whose disk is full must still be able to finish pending
//! work. So a file of zeros is kept next to the log. It is released when the log would otherwise run out of space, and
//! reacquired once there is room again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::StorageError;
use crate::durable;

/// Free space, in bytes and without the reserve, below which the log is not opened: sled's own recovery would run out
/// of space halfway.
const AVAILABLE_BYTES_MIN: u64 = 2 << 20;

/// The reserve file.
#[derive(Debug)]
pub(super) struct EmergencyReserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl EmergencyReserve {
    /// Allocates the space, or reports that the disk is full.
    pub(super) fn acquire(path: &Path, bytes: u64) -> Result<Self, StorageError> {
        let mut reserve = EmergencyReserve {
            path: path.to_path_buf(),
            bytes,
            held: true,
        };
        let present = fs::metadata(path).map_or(0, |metadata| metadata.len());
        if present < bytes
            && let Err(error) = allocate(path, bytes)
        {
            reserve.release();
            return Err(StorageError::io("reserve space in", path, &error));
        }
        let available = durable::available_bytes(durable::parent_of(path))
            .map_err(|error| StorageError::io("look for free space next to", path, &error))?;
        if available < AVAILABLE_BYTES_MIN {
            return Err(StorageError::Io {
                action: "open the log next to",
                path: path.to_path_buf(),
                cause: format!(
                    "only {available} bytes are free on this file system; free some space and start the node again"
                ),
                disk_full: true,
                exhausted: false,
            });
        }
        Ok(reserve)
    }

    /// Returns a reserve of no bytes.
    pub(super) fn none(path: &Path) -> Self {
        EmergencyReserve {
            path: path.to_path_buf(),
            bytes: 0,
            held: false,
        }
    }

    /// Returns how many bytes could be released.
    pub(super) fn held_bytes(&self) -> u64 {
        if self.held { self.bytes } else { 0 }
    }

    /// Returns how many bytes were released and are to be reacquired once there is room.
    pub(super) fn released_bytes(&self) -> u64 {
        self.bytes - self.held_bytes()
    }

    /// Frees the space. A failure is only logged: the caller is out of space anyway.
    pub(super) fn release(&mut self) {
        self.held = false;
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "could not release the emergency reserve");
        }
    }

    /// Takes the space back. If that fails, the reserve stays released.
    pub(super) fn reacquire(&mut self) {
        match allocate(&self.path, self.bytes) {
            Ok(()) => self.held = true,
            Err(_) => self.release(),
        }
    }
}

fn allocate(path: &Path, bytes: u64) -> std::io::Result<()> {
    let file = durable::private_file()
        .create(true)
        .truncate(false)
        .open(path)?;
    durable::allocate(&file, bytes)
}
