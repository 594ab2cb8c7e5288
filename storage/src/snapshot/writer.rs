//! Unfinished snapshots: one written here, or one received from another node.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use bytes::Bytes;

use super::file::SnapshotFile;
use super::format::{BLOCK_BYTES, Footer, HEADER, block_crc, extend_blocks_crc};
use super::store::SnapshotStore;
use super::unfinished::UnfinishedFile;
use crate::{StorageError, durable};

/// Number of blocks between two writebacks to the device.
const WRITE_OUT_BLOCKS: u64 = 64;

impl SnapshotStore {
    /// Begins a snapshot.
    pub fn create(&self) -> Result<SnapshotWriter, StorageError> {
        SnapshotWriter::new(self.clone(), self.unfinished_path())
    }

    /// Begins to receive a snapshot from another node.
    pub fn receive(&self) -> Result<SnapshotReceiver, StorageError> {
        SnapshotReceiver::new(self.clone(), self.unfinished_path())
    }
}

/// Writes a snapshot. Dropping it without [`SnapshotWriter::commit`] removes the file.
#[derive(Debug)]
pub struct SnapshotWriter {
    store: SnapshotStore,
    unfinished: UnfinishedFile,
    file: File,
    block: Vec<u8>,
    blocks: u64,
    blocks_crc: u32,
    payload_bytes: u64,
}

impl SnapshotWriter {
    fn new(store: SnapshotStore, path: PathBuf) -> Result<Self, StorageError> {
        let (unfinished, mut file) = UnfinishedFile::create(path)?;
        file.write_all(HEADER)
            .map_err(|error| StorageError::io("write", unfinished.path(), &error))?;
        Ok(SnapshotWriter {
            store,
            unfinished,
            file,
            block: Vec::with_capacity(BLOCK_BYTES),
            blocks: 0,
            blocks_crc: 0,
            payload_bytes: 0,
        })
    }

    /// Returns how many bytes of payload were written so far.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Completes the snapshot and makes it current, durably. Deletes the ones before.
    pub fn commit(mut self, meta: Bytes) -> Result<SnapshotFile, StorageError> {
        self.finish(&meta)
            .map_err(|error| StorageError::io("write", self.unfinished.path(), &error))?;
        self.store.promote(self.unfinished, &self.file)
    }

    fn finish(&mut self, meta: &Bytes) -> io::Result<()> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let meta_bytes = u32::try_from(meta.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "the meta data is too long")
        })?;
        let footer = Footer {
            payload_bytes: self.payload_bytes,
            meta_bytes,
            meta_crc: crc32c::crc32c(meta),
            blocks_crc: self.blocks_crc,
        };
        self.file.write_all(meta)?;
        self.file.write_all(&footer.encode())
    }

    fn write_block(&mut self) -> io::Result<()> {
        let crc = block_crc(self.blocks, &self.block);
        self.block.extend_from_slice(&crc.to_le_bytes());
        self.file.write_all(&self.block)?;
        self.blocks_crc = extend_blocks_crc(self.blocks_crc, crc);
        self.blocks += 1;
        self.block.clear();
        if self.blocks.is_multiple_of(WRITE_OUT_BLOCKS) {
            // In small steps, because one long sync at the end would delay those of the log on the same disk.
            durable::wait_for_writeback(&self.file)?;
        }
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK_BYTES - self.block.len();
        let taken = room.min(bytes.len());
        self.block.extend_from_slice(&bytes[..taken]);
        self.payload_bytes += taken as u64;
        if self.block.len() == BLOCK_BYTES {
            self.write_block()?;
        }
        Ok(taken)
    }

    /// Does nothing: only [`SnapshotWriter::commit`] makes anything durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Receives the raw file of another node's snapshot, part by part. Dropping it without [`SnapshotReceiver::commit`]
/// removes the file.
#[derive(Debug)]
pub struct SnapshotReceiver {
    store: SnapshotStore,
    unfinished: UnfinishedFile,
    file: File,
    received: u64,
}

impl SnapshotReceiver {
    fn new(store: SnapshotStore, path: PathBuf) -> Result<Self, StorageError> {
        let (unfinished, file) = UnfinishedFile::create(path)?;
        Ok(SnapshotReceiver {
            store,
            unfinished,
            file,
            received: 0,
        })
    }

    /// Returns how many bytes were received. The sender continues there after an interruption.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes the part that begins at `offset`. Bytes received before are ignored; a part that leaves a hole is refused.
    /// Returns how many bytes are received now.
    pub fn write_at(&mut self, offset: u64, part: &[u8]) -> Result<u64, StorageError> {
        let known = match self.received.checked_sub(offset) {
            Some(known) => known.min(part.len() as u64) as usize,
            None => {
                let error = io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "a part at {offset} does not continue the {} bytes received",
                        self.received
                    ),
                );
                return Err(StorageError::io("receive", self.unfinished.path(), &error));
            }
        };
        let new = &part[known..];
        self.file
            .write_all(new)
            .map_err(|error| StorageError::io("write", self.unfinished.path(), &error))?;
        self.received += new.len() as u64;
        Ok(self.received)
    }

    /// Verifies everything received and returns it for reading, changing nothing. It is for a receiver that must do
    /// something else before the snapshot becomes current. Damage in transit is [`StorageError::Damaged`].
    pub fn verify(&self) -> Result<SnapshotFile, StorageError> {
        self.store.verify(&self.unfinished)
    }

    /// Verifies everything received and makes it the current snapshot, durably. Damage in transit is
    /// [`StorageError::Damaged`] and leaves the current one as it is.
    pub fn commit(self) -> Result<SnapshotFile, StorageError> {
        self.store.promote(self.unfinished, &self.file)
    }
}
