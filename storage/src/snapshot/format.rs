//! The format of a snapshot file.
//!
//! | part | bytes |
//! |---|---|
//! | header | magic and format version (8) |
//! | blocks | up to 64 KiB of payload each, all full but the last, each followed by a CRC-32C of its number and itself |
//! | meta | as the caller gave it |
//! | footer | payload length (8), meta length (4), CRC-32C of the meta (4), of all block checksums (4), of the footer so far (4), magic (8) |
//!
//! Numbers are little-endian. The parts are located from the end of the file, so that it can be written in one pass.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

pub(super) const HEADER: &[u8; 8] = b"TRISNAP\x01";
pub(super) const BLOCK_BYTES: usize = 64 << 10;
pub(super) const CRC_BYTES: usize = 4;
const FOOTER_BYTES: usize = 8 + 4 + 4 + 4 + 4 + 8;
const FOOTER_MAGIC: &[u8; 8] = b"TRISNEND";

/// The fields of the footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) payload_bytes: u64,
    pub(super) meta_bytes: u32,
    pub(super) meta_crc: u32,
    pub(super) blocks_crc: u32,
}

impl Footer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend_from_slice(&self.payload_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.meta_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.meta_crc.to_le_bytes());
        bytes.extend_from_slice(&self.blocks_crc.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.extend_from_slice(FOOTER_MAGIC);
        bytes
    }

    fn decode(bytes: &[u8; FOOTER_BYTES]) -> Option<Footer> {
        let (fields, rest) = bytes.split_first_chunk::<20>()?;
        let (crc, magic) = rest.split_first_chunk::<4>()?;
        if magic != FOOTER_MAGIC || crc32c::crc32c(fields) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (payload_bytes, rest) = fields.split_first_chunk::<8>()?;
        let (meta_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (meta_crc, rest) = rest.split_first_chunk::<4>()?;
        Some(Footer {
            payload_bytes: u64::from_le_bytes(*payload_bytes),
            meta_bytes: u32::from_le_bytes(*meta_bytes),
            meta_crc: u32::from_le_bytes(*meta_crc),
            blocks_crc: u32::from_le_bytes(*rest.first_chunk::<4>()?),
        })
    }

    /// Returns the length of the whole file in bytes.
    fn file_bytes(&self) -> Option<u64> {
        let blocks = self.payload_bytes.div_ceil(BLOCK_BYTES as u64);
        self.payload_bytes
            .checked_add(blocks * CRC_BYTES as u64)?
            .checked_add((HEADER.len() + FOOTER_BYTES) as u64 + u64::from(self.meta_bytes))
    }
}

pub(super) fn block_crc(number: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), block)
}

pub(super) fn extend_blocks_crc(blocks_crc: u32, block_crc: u32) -> u32 {
    crc32c::crc32c_append(blocks_crc, &block_crc.to_le_bytes())
}

/// Returns the offset of a block in the file.
pub(super) fn block_offset(number: u64) -> u64 {
    HEADER.len() as u64 + number * (BLOCK_BYTES + CRC_BYTES) as u64
}

/// Reads the header, the footer and the meta data.
pub(super) fn read_frame(file: &File) -> io::Result<(Footer, Bytes)> {
    let length = file.metadata()?.len();
    let Some(footer_offset) = length
        .checked_sub(FOOTER_BYTES as u64)
        .filter(|offset| *offset >= HEADER.len() as u64)
    else {
        return Err(damage(format!("it has only {length} bytes")));
    };
    let mut header = [0; HEADER.len()];
    file.read_exact_at(&mut header, 0)?;
    if header[..7] != HEADER[..7] {
        return Err(damage("it has no snapshot header".into()));
    }
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, footer_offset)?;
    let footer = Footer::decode(&footer);
    if header != *HEADER {
        // A file whose end fits this version was written by it, even if its first bytes have changed.
        if footer.is_some_and(|footer| footer.file_bytes() == Some(length)) {
            return Err(damage("its header does not match its end".into()));
        }
        let what = format!(
            "it has format version {}, this program knows {}",
            header[7], HEADER[7]
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let Some(footer) = footer else {
        return Err(damage("it has no snapshot end".into()));
    };
    if footer.file_bytes() != Some(length) {
        return Err(damage(format!(
            "it has {length} bytes, but its end states another length"
        )));
    }
    let mut meta = vec![0; footer.meta_bytes as usize];
    file.read_exact_at(&mut meta, footer_offset - u64::from(footer.meta_bytes))?;
    if crc32c::crc32c(&meta) != footer.meta_crc {
        return Err(damage("its meta data does not match its checksum".into()));
    }
    Ok((footer, meta.into()))
}

pub(super) fn damage(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
