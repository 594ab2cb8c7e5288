//! The format of an entry on disk: chunks of at most 4 KiB, each with a checksum, and a checksum chain over entries.
//!
//! sled moves larger values to files that it never syncs, so an entry is cut into chunks under the keys (index, chunk
//! number). Every chunk carries a checksum over its key and itself. The first one also carries the entry's position and
//! the [`ChainLink`] of the entry before. The last one is marked. So a missing chunk, a missing entry and an entry from
//! another history are all detected.
//!
//! | bytes | of a chunk |
//! |---|---|
//! | 4 | CRC-32C of the key and all that follows |
//! | 1 | flags: 1 last chunk, 2 there is an entry before |
//! | 54, first chunk only | format version (1), payload length (4), term (8), leader (8), the link before: term (8), leader (8), index (8), checksum (4), reserved (5) |
//! | rest | payload |
//!
//! Numbers are little-endian, except in keys, where they are big-endian to sort.

use bytes::{Bytes, BytesMut};

use crate::{LogPosition, LogRecord};

/// Maximum size of a chunk in bytes, checksum and header included.
pub(super) const CHUNK_BYTES_MAX: usize = 4096;
/// Length of a chunk key in bytes.
pub(super) const KEY_BYTES: usize = 12;

const FORMAT_VERSION: u8 = 1;
const PREFIX_BYTES: usize = 5;
const HEADER_BYTES: usize = 54;
const FLAG_LAST: u8 = 1;
const FLAG_CHAINED: u8 = 2;

/// A link of the checksum chain, which an entry's successor carries. It holds the entry's position and the checksum of
/// its chunks. The checksum covers the link to the predecessor, and so the whole history.
///
/// Where the log continues after a snapshot, the entry before was never stored here: its checksum is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainLink {
    pub(super) position: LogPosition,
    pub(super) checksum: u32,
}

/// One entry as read back from disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) record: LogRecord,
    pub(super) previous: Option<ChainLink>,
    pub(super) checksum: u32,
}

impl Entry {
    pub(super) fn link(&self) -> ChainLink {
        ChainLink {
            position: self.record.position,
            checksum: self.checksum,
        }
    }
}

pub(super) type Key = [u8; KEY_BYTES];

pub(super) fn key(index: u64, chunk: u32) -> Key {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

pub(super) fn parse_key(key: &[u8]) -> Result<(u64, u32), String> {
    let key: Key = key
        .try_into()
        .map_err(|_| format!("a key of {} bytes in the log", key.len()))?;
    let (index, chunk) = key.split_at(8);
    Ok((be_u64(index), u32::from_be_bytes(array(chunk))))
}

/// Returns the chunks of an entry, in the order to write them, and the link that its successor will carry.
pub(super) fn encode(
    record: &LogRecord,
    previous: Option<ChainLink>,
) -> (Vec<(Key, Vec<u8>)>, ChainLink) {
    let mut chunks = Vec::with_capacity(record.payload.len() / CHUNK_BYTES_MAX + 1);
    let mut rest: &[u8] = &record.payload;
    let mut checksum = 0;
    let chained = if previous.is_some() { FLAG_CHAINED } else { 0 };
    for number in 0.. {
        let header = if number == 0 { HEADER_BYTES } else { 0 };
        let room = CHUNK_BYTES_MAX - PREFIX_BYTES - header;
        let (here, later) = rest.split_at(room.min(rest.len()));
        rest = later;
        let last = if rest.is_empty() { FLAG_LAST } else { 0 };

        let mut value = Vec::with_capacity(PREFIX_BYTES + header + here.len());
        value.extend_from_slice(&[0; 4]);
        value.push(last | chained);
        if number == 0 {
            put_header(&mut value, record, previous);
        }
        value.extend_from_slice(here);

        let key = key(record.position.index, number);
        let crc = crc(&key, &value);
        value[..4].copy_from_slice(&crc.to_le_bytes());
        checksum = extend_checksum(checksum, crc);
        chunks.push((key, value));
        if rest.is_empty() {
            break;
        }
    }
    let link = ChainLink {
        position: record.position,
        checksum,
    };
    (chunks, link)
}

fn put_header(value: &mut Vec<u8>, record: &LogRecord, previous: Option<ChainLink>) {
    let length =
        u32::try_from(record.payload.len()).expect("an entry's payload is far below 4 GiB");
    value.push(FORMAT_VERSION);
    value.extend_from_slice(&length.to_le_bytes());
    value.extend_from_slice(&record.position.term.to_le_bytes());
    value.extend_from_slice(&record.position.leader.to_le_bytes());
    let (position, checksum) = previous.map_or((LogPosition::default(), 0), |link| {
        (link.position, link.checksum)
    });
    value.extend_from_slice(&position.term.to_le_bytes());
    value.extend_from_slice(&position.leader.to_le_bytes());
    value.extend_from_slice(&position.index.to_le_bytes());
    value.extend_from_slice(&checksum.to_le_bytes());
    value.extend_from_slice(&[0; 5]);
}

fn crc(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), &value[4..])
}

/// Replaces the checksum of a chunk by the one that matches its content.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn update_checksum(key: &[u8], value: &mut [u8]) {
    if value.len() >= PREFIX_BYTES {
        let crc = crc(key, value);
        value[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn extend_checksum(checksum: u32, chunk_crc: u32) -> u32 {
    crc32c::crc32c_append(checksum, &chunk_crc.to_le_bytes())
}

/// Assembles entries from chunks given in key order. Its errors are texts for a [`StorageError::Damaged`].
///
/// [`StorageError::Damaged`]: crate::StorageError::Damaged
#[derive(Default)]
pub(super) struct Assembler {
    partial: Option<PartialEntry>,
}

struct PartialEntry {
    entry: Entry,
    payload: BytesMut,
    payload_bytes: usize,
    next_chunk: u32,
}

impl Assembler {
    /// Takes the next chunk. Returns the entry that it completes, if any.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Entry>, String> {
        let (index, chunk) = parse_key(key)?;
        let (stored_crc, flags, body) = split_chunk(value)
            .ok_or_else(|| format!("chunk {chunk} of entry {index} is too short"))?;
        let crc = crc(key, value);
        if crc != stored_crc && !mutated!(ChecksumIgnored) {
            return Err(format!(
                "chunk {chunk} of entry {index} does not match its checksum"
            ));
        }
        let (mut partial, body) = match self.partial.take() {
            None if chunk == 0 => begin_entry(index, flags, body)?,
            None => {
                return Err(format!(
                    "entry {index} begins with chunk {chunk}, the ones before are missing"
                ));
            }
            Some(partial) => {
                let begun = partial.entry.record.position.index;
                if index != begun || chunk != partial.next_chunk {
                    return Err(format!(
                        "chunk {} of entry {begun} is missing, chunk {chunk} of entry {index} is in its place",
                        partial.next_chunk
                    ));
                }
                (partial, body)
            }
        };
        partial.payload.extend_from_slice(body);
        partial.entry.checksum = extend_checksum(partial.entry.checksum, crc);
        partial.next_chunk += 1;
        if flags & FLAG_LAST == 0 {
            self.partial = Some(partial);
            return Ok(None);
        }
        if partial.payload.len() != partial.payload_bytes {
            return Err(format!(
                "entry {index} has {} bytes instead of {}",
                partial.payload.len(),
                partial.payload_bytes
            ));
        }
        partial.entry.record.payload = partial.payload.freeze();
        Ok(Some(partial.entry))
    }

    /// Returns the index of the entry whose last chunk is still missing.
    pub(super) fn incomplete_entry(&self) -> Option<u64> {
        self.partial
            .as_ref()
            .map(|partial| partial.entry.record.position.index)
    }
}

fn split_chunk(value: &[u8]) -> Option<(u32, u8, &[u8])> {
    let (crc, rest) = value.split_at_checked(4)?;
    let (flags, body) = rest.split_first()?;
    Some((u32::from_le_bytes(array(crc)), *flags, body))
}

fn begin_entry(index: u64, flags: u8, body: &[u8]) -> Result<(PartialEntry, &[u8]), String> {
    let Some((header, body)) = body.split_at_checked(HEADER_BYTES) else {
        return Err(format!("the header of entry {index} is cut short"));
    };
    if header[0] != FORMAT_VERSION {
        return Err(format!(
            "entry {index} has format version {}, this program knows {FORMAT_VERSION}",
            header[0]
        ));
    }
    let payload_bytes = u32::from_le_bytes(array(&header[1..5])) as usize;
    let previous = (flags & FLAG_CHAINED != 0).then(|| ChainLink {
        position: LogPosition {
            term: le_u64(&header[21..29]),
            leader: le_u64(&header[29..37]),
            index: le_u64(&header[37..45]),
        },
        checksum: u32::from_le_bytes(array(&header[45..49])),
    });
    let entry = Entry {
        record: LogRecord {
            position: LogPosition {
                term: le_u64(&header[5..13]),
                leader: le_u64(&header[13..21]),
                index,
            },
            payload: Bytes::new(),
        },
        previous,
        checksum: 0,
    };
    let partial = PartialEntry {
        entry,
        payload: BytesMut::with_capacity(payload_bytes),
        payload_bytes,
        next_chunk: 0,
    };
    Ok((partial, body))
}

/// Converts a slice whose length the caller has just fixed.
pub(super) fn array<const N: usize>(slice: &[u8]) -> [u8; N] {
    slice.try_into().expect("the slice was cut to this length")
}

fn le_u64(slice: &[u8]) -> u64 {
    u64::from_le_bytes(array(slice))
}

fn be_u64(slice: &[u8]) -> u64 {
    u64::from_be_bytes(array(slice))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: u64, payload_bytes: usize) -> LogRecord {
        let position = LogPosition {
            term: 3,
            leader: 2,
            index,
        };
        LogRecord {
            position,
            payload: (0..payload_bytes)
                .map(|byte| (byte % 251) as u8)
                .collect::<Vec<_>>()
                .into(),
        }
    }

    fn before(index: u64) -> Option<ChainLink> {
        let position = record(index - 1, 0).position;
        Some(ChainLink {
            position,
            checksum: 0xdead_beef,
        })
    }

    fn read(chunks: &[(Key, Vec<u8>)]) -> Result<Option<Entry>, String> {
        let mut assembler = Assembler::default();
        let mut entry = None;
        for (key, value) in chunks {
            entry = assembler.push(key, value)?;
        }
        Ok(entry)
    }

    #[test]
    fn entries_of_every_size_come_back() {
        let first = CHUNK_BYTES_MAX - PREFIX_BYTES - HEADER_BYTES;
        let later = CHUNK_BYTES_MAX - PREFIX_BYTES;
        for (payload_bytes, chunks_expected) in [
            (0, 1),
            (1, 1),
            (first, 1),
            (first + 1, 2),
            (4095, 2),
            (4096, 2),
            (4097, 2),
            (first + later, 2),
            (first + later + 1, 3),
            (1 << 20, 257),
        ] {
            let record = record(7, payload_bytes);
            let (chunks, link) = encode(&record, before(7));
            assert_eq!(chunks.len(), chunks_expected, "{payload_bytes} bytes");
            assert!(
                chunks
                    .iter()
                    .all(|(_, value)| value.len() <= CHUNK_BYTES_MAX)
            );
            assert!(chunks.is_sorted_by(|(left, _), (right, _)| left < right));
            let entry = read(&chunks).unwrap().unwrap();
            assert_eq!(entry.record, record);
            assert_eq!(entry.previous, before(7));
            assert_eq!(entry.link(), link);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (chunks, _) = encode(&record(7, 100), before(7));
        let (key, value) = &chunks[0];
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            read(&[(*key, flipped)]).expect_err("a flipped bit");
        }
        for bit in 0..key.len() * 8 {
            let mut flipped = *key;
            flipped[bit / 8] ^= 1 << (bit % 8);
            read(&[(flipped, value.clone())]).expect_err("a flipped bit of a key");
        }
    }

    #[test]
    fn missing_chunks_are_noticed() {
        let (chunks, _) = encode(&record(7, 20_000), None);
        let mut assembler = Assembler::default();
        for (key, value) in &chunks[..chunks.len() - 1] {
            assert_eq!(assembler.push(key, value), Ok(None));
        }
        assert_eq!(assembler.incomplete_entry(), Some(7), "the end is missing");
        read(&chunks[1..]).expect_err("the beginning is missing");
        let mut hole = chunks;
        hole.remove(2);
        read(&hole).expect_err("a chunk in the middle is missing");
    }

    #[test]
    fn the_chain_link_distinguishes_histories() {
        let (_, link) = encode(&record(7, 10), before(7));
        let (_, other_past) = encode(&record(7, 10), None);
        let (_, other_payload) = encode(&record(7, 11), before(7));
        assert_ne!(link, other_past);
        assert_ne!(link, other_payload);
    }
}
