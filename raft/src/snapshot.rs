//! The snapshots of this node: the current one, one being written, one being received.

use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::types::SnapshotMeta;

/// Cheap to clone; all clones see the same files.
#[derive(Clone, Default)]
pub(crate) struct Snapshots {
    current: Arc<Mutex<Option<StoredSnapshot>>>,
}

/// A complete snapshot that does not change any more.
#[derive(Clone)]
pub(crate) struct StoredSnapshot {
    meta: SnapshotMeta,
    contents: Bytes,
    crc: u32,
}

impl Snapshots {
    pub(crate) fn current(&self) -> io::Result<Option<StoredSnapshot>> {
        Ok(self.current.lock().clone())
    }

    /// Writes a snapshot and makes it the current one.
    pub(crate) fn write(
        &self,
        meta: SnapshotMeta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<StoredSnapshot> {
        let mut contents = Vec::new();
        write(&mut contents)?;
        let stored = StoredSnapshot::new(meta, contents);
        self.adopt(stored.clone())?;
        Ok(stored)
    }

    /// Makes a received snapshot the current one.
    pub(crate) fn adopt(&self, snapshot: StoredSnapshot) -> io::Result<()> {
        let mut current = self.current.lock();
        if current
            .as_ref()
            .is_none_or(|c| c.meta.last_log_id <= snapshot.meta.last_log_id)
        {
            *current = Some(snapshot);
        }
        Ok(())
    }

    pub(crate) fn receive(&self, meta: SnapshotMeta, bytes: u64, crc: u32) -> io::Result<Incoming> {
        Ok(Incoming {
            meta,
            bytes,
            crc,
            contents: Vec::new(),
        })
    }
}

impl StoredSnapshot {
    fn new(meta: SnapshotMeta, contents: Vec<u8>) -> Self {
        let crc = crc32c::crc32c(&contents);
        StoredSnapshot {
            meta,
            contents: Bytes::from(contents),
            crc,
        }
    }

    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.contents.len() as u64
    }

    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    pub(crate) fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.contents.clone())))
    }

    pub(crate) fn read_at(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.contents.len());
        let end = (start + bytes_max).min(self.contents.len());
        Ok(self.contents.slice(start..end))
    }
}

/// A snapshot on its way in.
pub(crate) struct Incoming {
    meta: SnapshotMeta,
    bytes: u64,
    crc: u32,
    contents: Vec<u8>,
}

impl Incoming {
    pub(crate) fn is(&self, meta: &SnapshotMeta, bytes: u64, crc: u32) -> bool {
        self.meta == *meta && self.bytes == bytes && self.crc == crc
    }

    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    pub(crate) fn offset(&self) -> u64 {
        self.contents.len() as u64
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) -> io::Result<()> {
        if self.offset() + chunk.len() as u64 > self.bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot is longer than announced",
            ));
        }
        self.contents.extend_from_slice(chunk);
        Ok(())
    }

    pub(crate) fn finish(self) -> io::Result<StoredSnapshot> {
        let stored = StoredSnapshot::new(self.meta, self.contents);
        if stored.bytes() != self.bytes || stored.crc != self.crc {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the received snapshot is not what was announced",
            ));
        }
        Ok(stored)
    }
}
