//! Multipart restore of a backup: parts are staged here until the last one has arrived.
//!
//! A backup is restored into a cluster that holds nothing yet. Its parts come through the log, so that every replica has the
//! same ones. When the last has arrived, the table they make replaces the empty one, in one entry. Until then nothing of it can
//! be seen; a restore that stays incomplete is forgotten.
//!
//! Ids and fencing tokens are derived from log indexes, and the log of the new cluster begins at 1. So that none is ever
//! given twice, the restored table counts on from where the other one was, plus [`ID_OFFSET_STEP`]: what the other cluster
//! gave out after the backup was taken is left behind too.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};

/// How far ids and tokens leap ahead with a restore, in log entries: more than a cluster writes in weeks at its busiest,
/// and little enough for some hundred restores, each of the last one's backup, within an exact JSON number.
pub(crate) const ID_OFFSET_STEP: u64 = 1 << 32;
/// Where a restored table may begin to count: so far below what a token can hold as an exact JSON number that a cluster
/// never gets there.
pub(crate) const ID_OFFSET_MAX: u64 = 1 << 40;
/// Most parts of one backup.
pub const PARTS_MAX: u32 = 65_536;
/// Most bytes of one part.
pub const PART_BYTES_MAX: usize = 8 << 20;

/// A backup of which not all parts have come.
#[derive(Debug, Clone)]
pub(crate) struct PendingRestore {
    /// What tells this backup from others.
    pub backup: Arc<str>,
    /// How many parts it has.
    pub parts: u32,
    /// When the last part so far came, in Unix ms.
    pub touched_ms: u64,
    /// Those that have come, by their numbers from 1.
    pub received: BTreeMap<u32, Bytes>,
}

impl PendingRestore {
    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.received.len() == self.parts as usize
    }

    /// All that came, in order.
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
