//! Free space on the log's file system, and the level that decides which writes are accepted.
//!
//! sled cannot continue after it runs out of space in the middle of a write, and the log fails with it. So the log acts
//! before that moment:
//!
//! - The sync thread checks the file system before each group of writes, and ten times a second when there are none.
//!   Below the *low watermark* it reports [`SpaceLevel::Low`], and the caller that decides what is written stops giving
//!   the log anything large. The level stays low until the free space is clearly above the watermark again
//!   (hysteresis), so that it does not flutter.
//! - Writes queued by then use space that was set aside before: see [`super::preallocate`].
//! - When not even a vote would find its space, the level is [`SpaceLevel::Full`], and nothing may be asked of the log.
//!
//! The emergency reserve counts as free space for the level `Full`, and not for the level `Low`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::emergency_reserve::EmergencyReserve;
use crate::StorageError;
use crate::durable;

/// The low watermark by default: this many bytes, but no more than this share of the file system ...
const LOW_BYTES_DEFAULT: u64 = 64 << 20;
const LOW_SHARE: u64 = 20;
/// ... and no less than this, which sled's steps need.
const LOW_BYTES_MIN: u64 = 8 << 20;
/// Hysteresis: there is room again above the low watermark plus this share of it, at least this many bytes.
const HYSTERESIS_SHARE: u64 = 4;
const HYSTERESIS_BYTES_MIN: u64 = 4 << 20;
/// Bytes that a vote, a position and sled's own housekeeping may take together.
pub(super) const HARD_STATE_WRITE_BYTES: u64 = 2 << 20;
/// Below this they would not find their space.
const FULL_BELOW_BYTES: u64 = HARD_STATE_WRITE_BYTES + (64 << 10);
/// Bytes on disk for each byte of payload, at most: sled writes a page again when it changes.
pub(super) const WRITE_AMPLIFICATION: u64 = 4;

/// The level of free space, by the writes that it still allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpaceLevel {
    /// There is enough space for all writes.
    Ample,
    /// Pending work can be finished, votes included; nothing else may begin.
    Low,
    /// Nothing can be written.
    Full,
}

/// The free space as last read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpaceStatus {
    /// Bytes free on the file system, without those this log has set aside.
    pub free_bytes: u64,
    /// The low watermark, in bytes.
    pub low_bytes: u64,
    /// The level that follows from both.
    pub level: SpaceLevel,
}

/// The free space of one file system. Clones share the last status.
#[derive(Debug, Clone)]
pub struct FreeSpace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    low_bytes: u64,
    /// Blocks that the log's file has beyond its end.
    preallocated_bytes: AtomicU64,
    /// Whether a write waits for space.
    waiting: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reserve: EmergencyReserve,
    status: FreeSpaceStatus,
}

impl FreeSpace {
    /// Watches the file system of a directory without a log. Nothing refreshes the status by itself.
    pub fn of(directory: &Path) -> Result<Self, StorageError> {
        Self::new(directory, None, EmergencyReserve::none(directory))
    }

    /// Reads the free space for the first time. `low_bytes` is the low watermark. Default: derived from the size of the
    /// file system.
    pub(super) fn new(
        directory: &Path,
        low_bytes: Option<u64>,
        reserve: EmergencyReserve,
    ) -> Result<Self, StorageError> {
        let found = durable::file_system_usage(directory)
            .map_err(|error| StorageError::io("look for free space in", directory, &error))?;
        let low_bytes = low_bytes.unwrap_or_else(|| default_low_bytes(found.total_bytes));
        let space = FreeSpace {
            inner: Arc::new(Inner {
                directory: directory.to_path_buf(),
                low_bytes,
                preallocated_bytes: AtomicU64::new(0),
                waiting: AtomicBool::new(false),
                state: Mutex::new(State {
                    reserve,
                    status: FreeSpaceStatus {
                        free_bytes: found.available_bytes,
                        low_bytes,
                        level: SpaceLevel::Ample,
                    },
                }),
            }),
        };
        space.refresh();
        Ok(space)
    }

    /// Returns the free space as last read.
    pub fn status(&self) -> FreeSpaceStatus {
        self.inner.state.lock().status
    }

    /// Returns whether `bytes` more of payload may be given to the log while the free space stays above the low
    /// watermark.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let status = self.status();
        status.level == SpaceLevel::Ample
            && status.free_bytes
                >= status
                    .low_bytes
                    .saturating_add(bytes.saturating_mul(WRITE_AMPLIFICATION))
    }

    /// Returns the watched directory.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Reads the free space again. Logs a change of the level once.
    pub fn refresh(&self) -> FreeSpaceStatus {
        let mut state = self.inner.state.lock();
        let before = state.status;
        let found = match durable::available_bytes(&self.inner.directory) {
            Ok(found) => found,
            // It was readable a moment ago. If the disk has failed, the next write reports it.
            Err(_) => return before,
        };
        let released = state.reserve.released_bytes();
        let rest = if self.inner.waiting.load(Ordering::Relaxed) {
            // Any new write would wait behind the waiting one.
            0
        } else {
            found
                + state.reserve.held_bytes()
                + self.inner.preallocated_bytes.load(Ordering::Relaxed)
        };
        // Space that is to be reacquired is not free.
        let free_bytes = found.saturating_sub(released);
        let level = level(before.level, free_bytes, rest, self.inner.low_bytes);
        state.status = FreeSpaceStatus {
            free_bytes,
            level,
            ..before
        };
        if released > 0 && level == SpaceLevel::Ample {
            state.reserve.reacquire();
        }
        let status = state.status;
        drop(state);
        self.log_level_change(before, status);
        status
    }

    fn log_level_change(&self, before: FreeSpaceStatus, now: FreeSpaceStatus) {
        let (free_mib, low_mib) = (now.free_bytes >> 20, now.low_bytes >> 20);
        let path = self.inner.directory.display();
        match (before.level, now.level) {
            (SpaceLevel::Ample, SpaceLevel::Low | SpaceLevel::Full) => {
                tracing::warn!(%path, free_mib, low_mib, "the disk is nearly full: this node takes no writes until there is room again; free some space");
            }
            (SpaceLevel::Low | SpaceLevel::Full, SpaceLevel::Ample) => {
                tracing::info!(%path, free_mib, low_mib, "the disk has room again: this node takes writes");
            }
            (SpaceLevel::Low, SpaceLevel::Full) => {
                tracing::warn!(%path, "the disk is full and the reserve is used up: this node does not even vote until there is room again; free some space");
            }
            (SpaceLevel::Full, SpaceLevel::Low) => {
                tracing::info!(%path, free_mib, low_mib, "the disk has a little room again: this node votes, and takes no writes yet");
            }
            (SpaceLevel::Ample, SpaceLevel::Ample)
            | (SpaceLevel::Low, SpaceLevel::Low)
            | (SpaceLevel::Full, SpaceLevel::Full) => {}
        }
    }

    /// Releases the reserve. Returns whether there was anything to free.
    pub(super) fn release_reserve(&self) -> bool {
        let mut state = self.inner.state.lock();
        let held = state.reserve.held_bytes() > 0;
        if held {
            state.reserve.release();
        }
        held
    }

    /// Records whether a write waits for space.
    pub(super) fn set_write_waiting(&self, waiting: bool) {
        self.inner.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Records how many bytes the log's file has set aside for itself.
    pub(super) fn set_preallocated_bytes(&self, bytes: u64) {
        self.inner
            .preallocated_bytes
            .store(bytes, Ordering::Relaxed);
    }
}

fn default_low_bytes(total_bytes: u64) -> u64 {
    (total_bytes / LOW_SHARE).clamp(LOW_BYTES_MIN, LOW_BYTES_DEFAULT)
}

/// Returns the level. `free_bytes` counts as room for new writes, `rest_bytes` as room to finish pending work.
fn level(before: SpaceLevel, free_bytes: u64, rest_bytes: u64, low_bytes: u64) -> SpaceLevel {
    let recovery_bytes = low_bytes + (low_bytes / HYSTERESIS_SHARE).max(HYSTERESIS_BYTES_MIN);
    let enough = match before {
        SpaceLevel::Ample => low_bytes,
        SpaceLevel::Low | SpaceLevel::Full => recovery_bytes,
    };
    if free_bytes >= enough {
        SpaceLevel::Ample
    } else if rest_bytes >= FULL_BELOW_BYTES {
        SpaceLevel::Low
    } else {
        SpaceLevel::Full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn small_file_systems_stay_usable_and_large_ones_keep_enough() {
        for (total, low) in [(64, 8), (200, 10), (512, 25), (2_000, 64), (4_000_000, 64)] {
            assert_eq!(default_low_bytes(total * MIB) / MIB, low, "of {total} MiB");
        }
    }

    #[test]
    fn the_level_stays_low_until_there_is_clearly_more() {
        let at = |before, free: u64, rest: u64| level(before, free * MIB, rest * MIB, 64 * MIB);
        assert_eq!(at(SpaceLevel::Ample, 64, 80), SpaceLevel::Ample);
        assert_eq!(at(SpaceLevel::Ample, 63, 80), SpaceLevel::Low);
        assert_eq!(at(SpaceLevel::Low, 79, 95), SpaceLevel::Low);
        assert_eq!(at(SpaceLevel::Low, 80, 96), SpaceLevel::Ample);
        assert_eq!(at(SpaceLevel::Low, 0, 3), SpaceLevel::Low);
        assert_eq!(at(SpaceLevel::Low, 0, 2), SpaceLevel::Full);
        assert_eq!(at(SpaceLevel::Full, 1, 3), SpaceLevel::Low);
        assert_eq!(at(SpaceLevel::Full, 100, 100), SpaceLevel::Ample);
    }

    #[test]
    fn the_reserve_is_released_once_and_reacquired_when_there_is_room() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("reserve");
        let reserve = EmergencyReserve::acquire(&path, MIB).unwrap();
        let space = FreeSpace::new(root.path(), Some(1), reserve).unwrap();
        assert_eq!(space.status().level, SpaceLevel::Ample);
        assert!(space.release_reserve());
        assert!(!path.exists());
        assert!(!space.release_reserve());
        space.refresh();
        assert_eq!(path.metadata().unwrap().len(), MIB);
        assert!(space.release_reserve());
    }

    #[test]
    fn a_write_is_accepted_only_if_free_space_stays_above_the_low_watermark() {
        let root = tempfile::tempdir().unwrap();
        let reserve = EmergencyReserve::acquire(&root.path().join("reserve"), 0).unwrap();
        let free = durable::available_bytes(root.path()).unwrap();
        let space = FreeSpace::new(root.path(), Some(free / 2), reserve).unwrap();
        assert!(space.has_room_for(1));
        assert!(!space.has_room_for(free / 4));
        assert_eq!(space.status().level, SpaceLevel::Ample);
    }
}
