//! Multipart restore of a backup: parts are staged here until the last one has arrived.
//!
//! A backup is restored into a cluster that holds nothing yet. Its parts come through the log, so that every replica
//! has the same ones. When the last has arrived, the table they make replaces the empty one, in one entry. Until then
//! none of it is visible. A restore that stays incomplete is forgotten.
//!
//! Ids and fencing tokens are derived from log indexes, and the log of the new cluster begins at 1. No id may ever be
//! given twice, so the restored table counts on from where the other one was, plus `ID_OFFSET_STEP`. The step also
//! skips the ids that the other cluster assigned after the backup was taken.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};

/// Step by which a restore advances ids and tokens, in log entries. It is more than a cluster writes in weeks at its
/// busiest. It is small enough for some hundred restores, each of the last one's backup, within an exact JSON number.
pub(crate) const ID_OFFSET_STEP: u64 = 1 << 32;
/// Highest id offset of a restored table. It is so far below the range of a token as an exact JSON number that a
/// cluster never exhausts the rest.
pub(crate) const ID_OFFSET_MAX: u64 = 1 << 40;
/// Maximum number of parts of one backup.
pub const PARTS_MAX: u32 = 65_536;
/// Maximum number of bytes of one part.
pub const PART_BYTES_MAX: usize = 8 << 20;

/// A restore of which not all parts have arrived.
#[derive(Debug, Clone)]
pub(crate) struct PendingRestore {
    /// Identifies the backup.
    pub backup: Arc<str>,
    /// The number of its parts.
    pub parts: u32,
    /// When the latest part arrived, in Unix ms.
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
