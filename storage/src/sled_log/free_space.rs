//! How much room is left on the log's file system, and what that means.
//!
//! A log that runs out of space in the middle of a write is done for, because sled is. So nobody waits for that moment:
//!
//! - The sync thread looks at the file system before each group of writes, and ten times a second when there are none.
//!   Below the *low mark* this says so ([`SpaceLevel::Low`]), and whoever decides what is written at all stops giving the
//!   log anything large. It stays low until there is clearly more than the mark again, so that it does not flutter.
//! - What is queued by then is written with space that was set aside before: see [`super::preallocate`].
//! - When not even a vote would find its space, it is [`SpaceLevel::Full`], and nothing may be asked of the log.
//!
//! The reserve counts as room for the last of these, and not for the first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::emergency_reserve::Reserve;
use crate::StorageError;
use crate::durable;

/// The low mark, unless told otherwise: so much, but no more than this share of the file system ...
const LOW_BYTES_DEFAULT: u64 = 64 << 20;
const LOW_SHARE: u64 = 20;
/// ... and no less than this, which sled's steps need.
const LOW_BYTES_MIN: u64 = 8 << 20;
/// Beyond the low mark by this share of it, and at least by so much, there is room again.
const ROOM_AGAIN_SHARE: u64 = 4;
const ROOM_AGAIN_BYTES_MIN: u64 = 4 << 20;
/// What a vote, a marker and sled's own housekeeping may take together.
pub(super) const LAST_BYTES: u64 = 2 << 20;
/// With less than this, they would not find it.
const FULL_BYTES: u64 = LAST_BYTES + (64 << 10);
/// What a write may take on disk, for each byte of its payload: sled writes a page again when it changes.
pub(super) const WRITE_FACTOR: u64 = 4;

/// How much room there is, by what may still be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpaceLevel {
    /// Enough.
    Ample,
    /// What was begun can be finished, votes included; nothing else may be begun.
    Low,
    /// Nothing can be written.
    Full,
}

/// What was found at the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceSeen {
    /// Free on the file system, without what this log has set aside.
    pub free_bytes: u64,
    /// Below this it is low.
    pub low_bytes: u64,
    /// What that means.
    pub level: SpaceLevel,
}

/// See the [module](self). Clones share what was seen.
#[derive(Debug, Clone)]
pub struct Space {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    low_bytes: u64,
    /// Blocks that the log's file has beyond its end.
    headroom_bytes: AtomicU64,
    /// A write waits for space.
    waiting: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reserve: Reserve,
    seen: SpaceSeen,
}

impl Space {
    /// Watches the file system of a directory that has no log, and nobody to look at it again by itself.
    pub fn of(directory: &Path) -> Result<Self, StorageError> {
        Self::new(directory, None, Reserve::nothing(directory))
    }

    /// Takes its first look. `low_bytes` is the low mark, worked out from the size of the file system unless given.
    pub(super) fn new(
        directory: &Path,
        low_bytes: Option<u64>,
        reserve: Reserve,
    ) -> Result<Self, StorageError> {
        let found = durable::file_system(directory)
            .map_err(|error| StorageError::io("look for free space in", directory, &error))?;
        let low_bytes = low_bytes.unwrap_or_else(|| default_low_bytes(found.total_bytes));
        let space = Space {
            shared: Arc::new(Shared {
                directory: directory.to_path_buf(),
                low_bytes,
                headroom_bytes: AtomicU64::new(0),
                waiting: AtomicBool::new(false),
                state: Mutex::new(State {
                    reserve,
                    seen: SpaceSeen {
                        free_bytes: found.available_bytes,
                        low_bytes,
                        level: SpaceLevel::Ample,
                    },
                }),
            }),
        };
        space.look();
        Ok(space)
    }

    /// What was found at the last look.
    pub fn seen(&self) -> SpaceSeen {
        self.shared.state.lock().seen
    }

    /// Whether `bytes` more of payload may be given to the log without coming below the low mark.
    pub fn takes(&self, bytes: u64) -> bool {
        let seen = self.seen();
        seen.level == SpaceLevel::Ample
            && seen.free_bytes
                >= seen
                    .low_bytes
                    .saturating_add(bytes.saturating_mul(WRITE_FACTOR))
    }

    /// Where it looks.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// Looks now. Says in the log, once, when the level changes.
    pub fn look(&self) -> SpaceSeen {
        let mut state = self.shared.state.lock();
        let before = state.seen;
        let found = match durable::available_bytes(&self.shared.directory) {
            Ok(found) => found,
            // It was possible a moment ago. If the disk has failed, the next write says so.
            Err(_) => return before,
        };
        let owed = state.reserve.owed_bytes();
        let rest = if self.shared.waiting.load(Ordering::Relaxed) {
            // Whatever came now would wait behind it.
            0
        } else {
            found + state.reserve.held_bytes() + self.shared.headroom_bytes.load(Ordering::Relaxed)
        };
        // What is to be taken back is not free.
        let free_bytes = found.saturating_sub(owed);
        let level = level(before.level, free_bytes, rest, self.shared.low_bytes);
        state.seen = SpaceSeen {
            free_bytes,
            level,
            ..before
        };
        if owed > 0 && level == SpaceLevel::Ample {
            state.reserve.take_back();
        }
        let seen = state.seen;
        drop(state);
        self.tell(before, seen);
        seen
    }

    fn tell(&self, before: SpaceSeen, now: SpaceSeen) {
        let (free_mib, low_mib) = (now.free_bytes >> 20, now.low_bytes >> 20);
        let path = self.shared.directory.display();
        match (before.level, now.level) {
            (SpaceLevel::Ample, SpaceLevel::Low | SpaceLevel::Full) => {
                tracing::warn!(%path, free_mib, low_mib, "the disk is nearly full: this node takes no writes until there is room again; free some space");
            }
            (SpaceLevel::Low | SpaceLevel::Full, SpaceLevel::Ample) => {
                tracing::info!(%path, free_mib, low_mib, "the disk has room again: this node takes writes");
            }
            (SpaceLevel::Low, SpaceLevel::Full) => {
                tracing::warn!(%path, "the disk is full, the reserve used up: this node does not even vote until there is room again; free some space");
            }
            (SpaceLevel::Full, SpaceLevel::Low) => {
                tracing::info!(%path, free_mib, low_mib, "the disk has a little room again: this node votes, and takes no writes yet");
            }
            (SpaceLevel::Ample, SpaceLevel::Ample)
            | (SpaceLevel::Low, SpaceLevel::Low)
            | (SpaceLevel::Full, SpaceLevel::Full) => {}
        }
    }

    /// Frees the reserve. Whether there was anything to free.
    pub(super) fn give_up_reserve(&self) -> bool {
        let mut state = self.shared.state.lock();
        let held = state.reserve.held_bytes() > 0;
        if held {
            state.reserve.give_up();
        }
        held
    }

    /// Notes whether a write waits for space.
    pub(super) fn note_waiting(&self, waiting: bool) {
        self.shared.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Notes what the log's file has set aside for itself.
    pub(super) fn note_headroom(&self, bytes: u64) {
        self.shared.headroom_bytes.store(bytes, Ordering::Relaxed);
    }
}

fn default_low_bytes(total_bytes: u64) -> u64 {
    (total_bytes / LOW_SHARE).clamp(LOW_BYTES_MIN, LOW_BYTES_DEFAULT)
}

/// `free_bytes` is what counts as room for more, `rest_bytes` what there is to finish what was begun.
fn level(before: SpaceLevel, free_bytes: u64, rest_bytes: u64, low_bytes: u64) -> SpaceLevel {
    let room_again = low_bytes + (low_bytes / ROOM_AGAIN_SHARE).max(ROOM_AGAIN_BYTES_MIN);
    let enough = match before {
        SpaceLevel::Ample => low_bytes,
        SpaceLevel::Low | SpaceLevel::Full => room_again,
    };
    if free_bytes >= enough {
        SpaceLevel::Ample
    } else if rest_bytes >= FULL_BYTES {
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
    fn it_stays_low_until_there_is_clearly_more() {
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
    fn the_reserve_is_given_up_once_and_taken_back_when_there_is_room() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("reserve");
        let reserve = Reserve::take(&path, MIB).unwrap();
        let space = Space::new(root.path(), Some(1), reserve).unwrap();
        assert_eq!(space.seen().level, SpaceLevel::Ample);
        assert!(space.give_up_reserve());
        assert!(!path.exists());
        assert!(!space.give_up_reserve());
        space.look();
        assert_eq!(path.metadata().unwrap().len(), MIB);
        assert!(space.give_up_reserve());
    }

    #[test]
    fn a_write_is_taken_only_if_it_leaves_the_low_mark_alone() {
        let root = tempfile::tempdir().unwrap();
        let reserve = Reserve::take(&root.path().join("reserve"), 0).unwrap();
        let free = durable::available_bytes(root.path()).unwrap();
        let space = Space::new(root.path(), Some(free / 2), reserve).unwrap();
        assert!(space.takes(1));
        assert!(!space.takes(free / 4));
        assert_eq!(space.seen().level, SpaceLevel::Ample);
    }
}
