//! A complete snapshot for reading: as its payload, verified, or as the raw file to send on.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::format::{
    BLOCK_BYTES, CRC_BYTES, Footer, block_crc, block_offset, damage, extend_blocks_crc, read_frame,
};

/// A committed snapshot. It stays readable as long as it is held, even after a newer one has replaced it.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    file: Arc<File>,
    path: PathBuf,
    sequence: u64,
    footer: Footer,
    file_bytes: u64,
    meta: Bytes,
}

impl SnapshotFile {
    /// Opens and verifies a file. Damage is an error of [`io::ErrorKind::InvalidData`].
    pub(super) fn open(path: &Path, sequence: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let (footer, meta) = read_frame(&file)?;
        let snapshot = SnapshotFile {
            file_bytes: file.metadata()?.len(),
            file: Arc::new(file),
            path: path.to_path_buf(),
            sequence,
            footer,
            meta,
        };
        if !mutated!(SnapshotNotVerified) {
            io::copy(&mut snapshot.reader(), &mut io::sink())?;
        }
        Ok(snapshot)
    }

    /// Returns the same file under its final name.
    pub(super) fn renamed(self, path: PathBuf, sequence: u64) -> Self {
        SnapshotFile {
            path,
            sequence,
            ..self
        }
    }

    /// Returns the meta data, as its writer gave it.
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its number among the snapshots of this store, counted from 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the length of the payload in bytes.
    pub fn payload_bytes(&self) -> u64 {
        self.footer.payload_bytes
    }

    /// Returns the length of the file in bytes, which [`SnapshotFile::read_at`] can read.
    pub fn len(&self) -> u64 {
        self.file_bytes
    }

    /// Always `false`: there is always a frame around the payload.
    pub fn is_empty(&self) -> bool {
        self.file_bytes == 0
    }

    /// Returns a reader of the payload from its beginning. Reading checks every block: a damaged block is an error of
    /// [`io::ErrorKind::InvalidData`], before any of its bytes.
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader {
            file: Arc::clone(&self.file),
            footer: self.footer,
            next_block: 0,
            blocks_crc: 0,
            block: Vec::new(),
            read: 0,
        }
    }

    /// Reads a part of the raw file, to send it to a receiver: `bytes_max` bytes, fewer at the end, none past it.
    pub fn read_at(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let left = self.file_bytes.saturating_sub(offset);
        let length = left.min(bytes_max as u64) as usize;
        let mut part = vec![0; length];
        self.file.read_exact_at(&mut part, offset)?;
        Ok(part.into())
    }
}

/// Reads the payload of a [`SnapshotFile`].
#[derive(Debug)]
pub struct SnapshotReader {
    file: Arc<File>,
    footer: Footer,
    next_block: u64,
    blocks_crc: u32,
    block: Vec<u8>,
    /// Number of bytes of `block` that the caller has read.
    read: usize,
}

impl SnapshotReader {
    /// Fills `block` with the next one. Leaves it empty at the end.
    fn next_block(&mut self) -> io::Result<()> {
        let number = self.next_block;
        let begun = number * BLOCK_BYTES as u64;
        let left = self.footer.payload_bytes.saturating_sub(begun);
        self.block.clear();
        self.read = 0;
        if left == 0 {
            if self.blocks_crc != self.footer.blocks_crc {
                return Err(damage("its blocks are not those that were written".into()));
            }
            return Ok(());
        }
        let length = left.min(BLOCK_BYTES as u64) as usize;
        let mut block = vec![0; length + CRC_BYTES];
        self.file.read_exact_at(&mut block, block_offset(number))?;
        let stored = block.split_off(length);
        let crc = block_crc(number, &block);
        if stored != crc.to_le_bytes() {
            return Err(damage(format!(
                "block {number} does not match its checksum"
            )));
        }
        self.blocks_crc = extend_blocks_crc(self.blocks_crc, crc);
        self.next_block += 1;
        self.block = block;
        Ok(())
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.read == self.block.len() {
            self.next_block()?;
        }
        let available = &self.block[self.read..];
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.read += length;
        Ok(length)
    }
}
