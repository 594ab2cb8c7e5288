//! Snapshots of this node: the current one, one being written, one being received.
//!
//! A snapshot becomes the current one, durably, only in two places. The first is when this node has written it from its
//! own state. The second is when openraft installs a received one, after it has removed what contradicts it from the
//! log. If a received file became the current one earlier, a crash in between would leave a log that does not fit it.

use std::any::Any;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use triarch_storage::{
    FreeSpace, SnapshotFile, SnapshotReceiver, SnapshotStore, SpaceLevel, StorageError,
    is_exhausted,
};
use uuid::Uuid;

use crate::level::Level;
use crate::protocol::entry_format::DecodeError;
use crate::protocol::history::Anchor;
use crate::protocol::levels::Levels;
use crate::protocol::messages;
use crate::protocol::messages::SnapshotHeadV1;
use crate::types::SnapshotMeta;

const COPY_CHUNK_BYTES: usize = 1 << 20;
/// Space that a snapshot leaves to the log, in bytes.
const LOG_RESERVE_BYTES: u64 = 4 << 20;
/// Expected growth from one snapshot to the next: the size of the last divided by this.
const GROWTH_DIVISOR: u64 = 4;
/// Delay until the next snapshot is begun after one that lacked space, descriptors or memory.
const POSTPONED_RETRY_DELAY: Duration = Duration::from_secs(10);

/// Handle of this node's snapshots. Cheap to clone; all clones see the same files.
#[derive(Clone)]
pub(crate) struct Snapshots {
    store: SnapshotStore,
    /// Held while the current snapshot is compared and replaced, so that an older one never replaces a newer.
    replacing: Arc<Mutex<()>>,
    space: FreeSpace,
    /// Time at which the last snapshot was given up for lack of space, descriptors or memory.
    postponed_at: Arc<Mutex<Option<Instant>>>,
}

/// Snapshot that is on this node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenSnapshot {
    /// Index of the last log entry in it.
    pub index: u64,
    /// Size of its file, in bytes.
    pub bytes: u64,
}

/// Complete snapshot, as it passes through openraft.
#[derive(Clone)]
pub(crate) struct StoredSnapshot {
    head: SnapshotHead,
    contents: Contents,
}

/// Head of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SnapshotHead {
    pub meta: SnapshotMeta,
    /// Every node id used up to the snapshot.
    pub used_ids: BTreeSet<u64>,
    /// Level of the cluster at the snapshot.
    pub level: Level,
    /// History of the log up to the snapshot, if it is known. Not stored at level 1.
    pub history: Option<Anchor>,
}

#[derive(Clone)]
enum Contents {
    /// Was the current snapshot at some time.
    File(SnapshotFile),
    /// Received and read completely, but not the current snapshot yet. The installation takes it.
    Received(Arc<Mutex<Option<Received>>>),
}

/// File of a received snapshot, and the state that was read from it.
struct Received {
    receiver: SnapshotReceiver,
    /// [`StateMachine::Loaded`](crate::StateMachine::Loaded) of this node's state machine. A stored snapshot has no
    /// type parameter, because openraft's network names its type.
    loaded: Box<dyn Any + Send>,
}

/// Snapshot that has become the current one.
pub(crate) struct AdoptedSnapshot<L> {
    pub file: SnapshotFile,
    /// State read from it. `None` for a snapshot that was on this node's disk before.
    pub loaded: Option<L>,
}

impl Snapshots {
    pub(crate) fn new(store: SnapshotStore, space: FreeSpace) -> Self {
        Snapshots {
            store,
            replacing: Arc::default(),
            space,
            postponed_at: Arc::default(),
        }
    }

    /// Returns whether the disk has space for a file of this size, and a reserve for the log.
    pub(crate) fn has_space_for(&self, bytes: u64) -> bool {
        let seen = self.space.status();
        seen.level != SpaceLevel::Full && seen.free_bytes >= bytes.saturating_add(LOG_RESERVE_BYTES)
    }

    /// Returns whether there seems to be space for the next snapshot: the last one's size and some more. Returns false
    /// for a while after a snapshot was given up.
    pub(crate) fn has_space_for_next(&self) -> bool {
        if self
            .postponed_at
            .lock()
            .is_some_and(|at| at.elapsed() < POSTPONED_RETRY_DELAY)
        {
            return false;
        }
        let last_bytes = self.store.current().map_or(0, |file| file.len());
        let bytes = last_bytes.saturating_add(last_bytes / GROWTH_DIVISOR);
        let has_space = self.has_space_for(bytes);
        if !has_space {
            let free_mib = self.space.status().free_bytes >> 20;
            let needed_mib = (bytes + LOG_RESERVE_BYTES) >> 20;
            tracing::warn!(
                free_mib,
                needed_mib,
                "no snapshot is written, because the disk has no room for it; the log grows until there is room"
            );
            *self.postponed_at.lock() = Some(Instant::now());
        }
        has_space
    }

    /// Returns the last snapshot, or an empty one, if a snapshot failed only for lack of space, descriptors, memory or
    /// threads. The log goes on without the failed one, and the snapshot is tried again.
    pub(crate) fn fallback_for(&self, failed: &io::Error) -> Option<StoredSnapshot> {
        if !can_be_postponed(failed) {
            return None;
        }
        *self.postponed_at.lock() = Some(Instant::now());
        match self.current() {
            Ok(Some(current)) => Some(current),
            Ok(None) => Some(StoredSnapshot {
                head: SnapshotHead {
                    meta: SnapshotMeta::default(),
                    used_ids: BTreeSet::new(),
                    level: Level::ONE,
                    history: None,
                },
                contents: Contents::Received(Arc::default()),
            }),
            Err(_) => None,
        }
    }

    pub(crate) fn current(&self) -> io::Result<Option<StoredSnapshot>> {
        self.store.current().map(StoredSnapshot::of).transpose()
    }

    /// Describes the current snapshot. `None` while there is none that reaches `index`.
    pub(crate) fn covering(&self, index: u64) -> io::Result<Option<WrittenSnapshot>> {
        let current = self.current()?;
        Ok(current.and_then(|current| {
            let reached = current.meta().last_log_id?.index;
            let bytes = current.file()?.len();
            (reached >= index).then_some(WrittenSnapshot {
                index: reached,
                bytes,
            })
        }))
    }

    /// Writes a snapshot and makes it the current one, unless a newer one was written in between. Returns the current
    /// one.
    pub(crate) fn write(
        &self,
        head: SnapshotHead,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<StoredSnapshot> {
        let mut writer = self.store.create().map_err(io::Error::other)?;
        write(&mut writer)?;
        let _replacing = self.replacing.lock();
        if let Some(current) = self.current()?
            && current.meta().last_log_id >= head.meta.last_log_id
        {
            return Ok(current);
        }
        let file = writer
            .commit(encode_head(&head))
            .map_err(io::Error::other)?;
        Ok(StoredSnapshot {
            head,
            contents: Contents::File(file),
        })
    }

    /// Makes a received snapshot the current one, and returns it. A snapshot that was current already stays unchanged.
    pub(crate) fn adopt<L: 'static>(
        &self,
        snapshot: StoredSnapshot,
    ) -> io::Result<AdoptedSnapshot<L>> {
        let received = match snapshot.contents {
            Contents::File(file) => {
                return Ok(AdoptedSnapshot {
                    file: self.import(file)?,
                    loaded: None,
                });
            }
            Contents::Received(received) => received,
        };
        let Some(Received { receiver, loaded }) = received.lock().take() else {
            return Err(io::Error::other(
                "a received snapshot is installed only once",
            ));
        };
        let _replacing = self.replacing.lock();
        Ok(AdoptedSnapshot {
            file: receiver.commit().map_err(io::Error::other)?,
            loaded: loaded.downcast().ok().map(|loaded| *loaded),
        })
    }

    /// Returns the file if it is this store's current one. Otherwise copies it, and makes the copy the current one.
    fn import(&self, file: SnapshotFile) -> io::Result<SnapshotFile> {
        if self
            .store
            .current()
            .is_some_and(|current| current.path() == file.path())
        {
            return Ok(file);
        }
        let mut receiver = self.store.receive().map_err(io::Error::other)?;
        while receiver.received() < file.len() {
            let part = file.read_at(receiver.received(), COPY_CHUNK_BYTES)?;
            receiver
                .write_at(receiver.received(), &part)
                .map_err(io::Error::other)?;
        }
        let _replacing = self.replacing.lock();
        receiver.commit().map_err(io::Error::other)
    }

    pub(crate) fn receive(&self, announced: Announced) -> io::Result<IncomingSnapshot> {
        let receiver = self.store.receive().map_err(io::Error::other)?;
        Ok(IncomingSnapshot {
            announced,
            receiver,
        })
    }
}

/// Returns whether a snapshot failed for a lack that may end, and not by damage.
fn can_be_postponed(error: &io::Error) -> bool {
    if matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) || is_exhausted(error)
    {
        return true;
    }
    let inner = error.get_ref();
    inner
        .and_then(|inner| inner.downcast_ref::<StorageError>())
        .is_some_and(|error| {
            matches!(
                error,
                StorageError::Io {
                    disk_full: true,
                    ..
                } | StorageError::Io {
                    exhausted: true,
                    ..
                }
            )
        })
}

fn encode_head(head: &SnapshotHead) -> Bytes {
    let mut out = bytes::BytesMut::new();
    let written = SnapshotHeadV1 {
        meta: (&head.meta).into(),
        used_ids: head.used_ids.clone(),
    };
    messages::put(&mut out, &written);
    // A head of level 1 ends here, as it always has.
    if head.level > Level::ONE && !mutated!(LevelNotInSnapshot) {
        messages::put(&mut out, &head.level.number());
        messages::put(&mut out, &head.history);
    }
    out.freeze()
}

pub(crate) fn decode_head(bytes: &[u8]) -> Result<SnapshotHead, DecodeError> {
    const WHAT: &str = "what a snapshot contains";
    let (read, rest) = postcard::take_from_bytes::<SnapshotHeadV1>(bytes)
        .map_err(|e| DecodeError::new(WHAT, e.to_string()))?;
    let (level, history) = match rest {
        [] => (Some(Level::ONE), None),
        rest => {
            let (number, rest) = postcard::take_from_bytes(rest)
                .map_err(|e| DecodeError::new(WHAT, e.to_string()))?;
            let history: Option<Anchor> = match rest {
                // Levels are older than histories.
                [] => None,
                rest => messages::decode(WHAT, rest)?,
            };
            if history.as_ref().is_some_and(|history| !history.is_sorted()) {
                return Err(DecodeError::new(WHAT, "its terms are out of order"));
            }
            (Level::new(number), history)
        }
    };
    Ok(SnapshotHead {
        meta: read.meta.into_meta()?,
        used_ids: read.used_ids,
        level: level.ok_or_else(|| DecodeError::new(WHAT, "its level is 0"))?,
        history,
    })
}

impl StoredSnapshot {
    fn of(file: SnapshotFile) -> io::Result<Self> {
        Ok(StoredSnapshot {
            head: decode_head(file.meta())?,
            contents: Contents::File(file),
        })
    }

    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.head.meta
    }

    /// Returns the level of the cluster at the snapshot.
    pub(crate) fn level(&self) -> Level {
        self.head.level
    }

    /// Returns the history of the log up to the snapshot, if it carries one.
    pub(crate) fn history(&self) -> Option<&Anchor> {
        self.head.history.as_ref()
    }

    /// Returns every node id used up to the snapshot.
    pub(crate) fn used_ids(&self) -> &BTreeSet<u64> {
        &self.head.used_ids
    }

    /// Returns the file for transfer to others. `None` for a snapshot that is being installed here.
    pub(crate) fn file(&self) -> Option<&SnapshotFile> {
        match &self.contents {
            Contents::File(file) => Some(file),
            Contents::Received(_) => None,
        }
    }
}

/// Announcement of a snapshot by its sender. Parts of one file only fit parts of the same file of the same node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Announced {
    pub meta: SnapshotMeta,
    pub file_bytes: u64,
    pub sender: Uuid,
    pub sequence: u64,
}

/// Snapshot that is being received from another node.
pub(crate) struct IncomingSnapshot {
    announced: Announced,
    receiver: SnapshotReceiver,
}

impl IncomingSnapshot {
    pub(crate) fn announced(&self) -> &Announced {
        &self.announced
    }

    pub(crate) fn received(&self) -> u64 {
        self.receiver.received()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.received() == self.announced.file_bytes
    }

    pub(crate) fn write_at(&mut self, offset: u64, part: &[u8]) -> io::Result<()> {
        if offset.saturating_add(part.len() as u64) > self.announced.file_bytes {
            return Err(DecodeError::new("a snapshot", "it is longer than announced").into());
        }
        self.receiver
            .write_at(offset, part)
            .map_err(io::Error::other)?;
        Ok(())
    }

    /// Checks and reads all of it with `load`. A snapshot that is damaged, or that this node does not understand, is the
    /// sender's matter, not yet this node's.
    pub(crate) fn into_stored<L: Send + 'static>(
        self,
        levels: &Levels,
        load: impl FnOnce(&mut dyn Read) -> io::Result<L>,
    ) -> io::Result<StoredSnapshot> {
        let file = self.receiver.verify().map_err(io::Error::other)?;
        let head = decode_head(file.meta())?;
        levels.check_understood("a snapshot", head.level)?;
        if head.meta != self.announced.meta {
            return Err(
                DecodeError::new("a snapshot", "it is not the one that was announced").into(),
            );
        }
        let received = Received {
            loaded: Box::new(load(&mut file.reader())?),
            receiver: self.receiver,
        };
        Ok(StoredSnapshot {
            head,
            contents: Contents::Received(Arc::new(Mutex::new(Some(received)))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::history::Epoch;
    use crate::types::log_id;

    fn head(level: Level) -> SnapshotHead {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(3, 700)),
            ..SnapshotMeta::default()
        };
        SnapshotHead {
            meta,
            used_ids: BTreeSet::from([1, 2, 3]),
            level,
            history: (level > Level::ONE).then(|| Anchor {
                chain: 5,
                epochs: vec![Epoch {
                    term: 3,
                    first_index: 600,
                }],
            }),
        }
    }

    /// Heads of level 1 are those from before there were levels; programs of that time read no further.
    #[test]
    fn a_head_of_level_1_says_nothing_of_levels_and_a_later_one_appends_level_and_history() {
        let plain = encode_head(&head(Level::ONE));
        assert_eq!(plain[..], [1, 3, 0xbc, 5, 0, 0, 0, 3, 1, 2, 3]);
        let later = encode_head(&head(Level::TWO));
        assert_eq!(
            later[..],
            [&plain[..], &[2], &[1, 5, 1, 3, 0xd8, 4]].concat()
        );
        let older: SnapshotHeadV1 = messages::decode("a head", &later).unwrap();
        assert_eq!(older.used_ids, BTreeSet::from([1, 2, 3]));
        for level in [Level::ONE, Level::TWO] {
            assert_eq!(decode_head(&encode_head(&head(level))), Ok(head(level)));
        }
        assert!(decode_head(&[&plain[..], &[0]].concat()).is_err());
    }
}
