//! Multipart restore of a backup: parts are staged here until the last one has arrived.
//!
//! A backup is restored into a cluster whose table is empty. Its parts are log entries, so every replica receives the
//! same parts. The entry with the last part replaces the empty table by the restored one. Nothing of the backup is
//! visible before. A restore that stays incomplete is forgotten.
//!
//! Ids and fencing tokens are derived from log indexes, and the log of the new cluster begins at 1. No id may ever be
//! assigned twice. The restored table therefore adds an offset to every log index: the highest index from which either
//! table has assigned an id, plus `ID_OFFSET_STEP`. The step skips the ids that the other cluster assigned after the
//! backup was taken.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};

/// Log entries that a restore skips, in ids and tokens.
///
/// A cluster needs weeks at its highest rate to write this many entries. [`ID_OFFSET_MAX`] has room for some hundred
/// steps, so a state can be backed up and restored that many times.
pub(crate) const ID_OFFSET_STEP: u64 = 1 << 32;
/// Highest id offset of a restored table, in log entries.
///
/// A token must stay below 2^53, so that JSON numbers represent it exactly. This bound leaves more entries below that
/// limit than a cluster ever writes.
pub(crate) const ID_OFFSET_MAX: u64 = 1 << 40;
/// Maximum number of parts of one backup.
pub const PARTS_MAX: u32 = 65_536;
/// Maximum number of bytes of one part.
pub const PART_BYTES_MAX: usize = 8 << 20;

/// A restore whose parts have not all arrived yet.
#[derive(Debug, Clone)]
pub(crate) struct PendingRestore {
    /// Id of the backup.
    pub backup: Arc<str>,
    /// The number of its parts.
    pub parts: u32,
    /// Time at which the latest part arrived, in Unix ms.
    pub touched_ms: u64,
    /// The parts that have arrived, by their numbers from 1.
    pub received: BTreeMap<u32, Bytes>,
}

impl PendingRestore {
    /// Returns whether all parts have arrived.
    pub fn is_whole(&self) -> bool {
        self.received.len() == self.parts as usize
    }

    /// Returns a reader of the parts that have arrived, in order.
    pub fn reader(&self) -> impl Read + '_ {
        Parts {
            rest: self.received.values(),
            current: Bytes::new(),
        }
    }
}

struct Parts<I> {
    rest: I,
    current: Bytes,
}

impl<'a, I: Iterator<Item = &'a Bytes>> Read for Parts<I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.rest.next() {
                Some(part) => self.current = part.clone(),
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.current.len());
        self.current.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}
