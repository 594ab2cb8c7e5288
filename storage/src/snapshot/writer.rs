//! Snapshots on their way: one being written here, one being received from another node.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use bytes::Bytes;

use super::file::SnapshotFile;
use super::format::{BLOCK_BYTES, Footer, HEADER, block_crc, extend_blocks_crc};
use super::store::SnapshotStore;
use super::unfinished::UnfinishedFile;
use crate::{StorageError, durable};

/// Blocks between two times that what was written is handed to the device.
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

/// Writes a snapshot. Dropped without [`SnapshotWriter::commit`], nothing is left of it.
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

    /// How much payload was written so far.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Completes the snapshot and makes it the current one, durably. The ones before are deleted.
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
            // Little by little: one long sync at the end would hold up those of the log on the same disk.
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

/// Takes the raw file of a snapshot that another node holds, part by part. Dropped without
/// [`SnapshotReceiver::commit`], nothing is left of it.
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

    /// How much has been received: where the sender goes on after an interruption.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes the part that begins at `offset`. One that was taken before is ignored, also in part; one that leaves a
    /// hole is refused. Returns how much has been received now.
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

    /// Checks all that was received and gives what its writer said about it, changing nothing: for a receiver that must
    /// not make the snapshot current before it has done something else. What was damaged on its way is
    /// [`StorageError::Damaged`].
    pub fn verify(&self) -> Result<Bytes, StorageError> {
        self.store.verify(&self.unfinished)
    }

    /// Verifies all that was received and makes it the current snapshot, durably. What was damaged on its way is
    /// [`StorageError::Damaged`] and leaves the current one as it is.
    pub fn commit(self) -> Result<SnapshotFile, StorageError> {
        self.store.promote(self.unfinished, &self.file)
    }
}
