//! The hard state, stored in addition to the entries: the vote, the purged position, the committed position.
//!
//! Each is one value in the meta tree: format version (1 byte), CRC-32C of the key and what follows (4), then its own
//! fields. The vote carries a sequence number that grows by one with every saved vote. So an older vote that sled
//! brings back is detected.

use bytes::Bytes;

use super::chunk::{ChainLink, array};
use crate::LogPosition;

pub(super) const VOTE_KEY: &[u8] = b"vote";
pub(super) const PURGED_KEY: &[u8] = b"purged";
pub(super) const COMMITTED_KEY: &[u8] = b"committed";

const FORMAT_VERSION: u8 = 1;
const POSITION_BYTES: usize = 24;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredVote {
    pub(super) sequence: u64,
    pub(super) vote: Bytes,
}

pub(super) fn encode_position(bytes: &mut Vec<u8>, position: LogPosition) {
    bytes.extend_from_slice(&position.term.to_le_bytes());
    bytes.extend_from_slice(&position.leader.to_le_bytes());
    bytes.extend_from_slice(&position.index.to_le_bytes());
}

pub(super) fn decode_position(bytes: &[u8; POSITION_BYTES]) -> LogPosition {
    LogPosition {
        term: u64::from_le_bytes(array(&bytes[..8])),
        leader: u64::from_le_bytes(array(&bytes[8..16])),
        index: u64::from_le_bytes(array(&bytes[16..])),
    }
}

fn encode_value(key: &[u8], fields: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(5 + fields.len());
    value.push(FORMAT_VERSION);
    value.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(key), fields).to_le_bytes());
    value.extend_from_slice(fields);
    value
}

fn decode_value<'v>(key: &[u8], value: &'v [u8]) -> Result<&'v [u8], String> {
    let name = String::from_utf8_lossy(key);
    let Some((head, fields)) = value.split_at_checked(5) else {
        return Err(format!("the stored {name} is cut short"));
    };
    if head[0] != FORMAT_VERSION {
        return Err(format!(
            "the stored {name} has format version {}, this program knows {FORMAT_VERSION}",
            head[0]
        ));
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), fields);
    if crc != u32::from_le_bytes(array(&head[1..])) {
        return Err(format!("the stored {name} does not match its checksum"));
    }
    Ok(fields)
}

pub(super) fn encode_vote(vote: &StoredVote) -> Vec<u8> {
    let mut fields = vote.sequence.to_le_bytes().to_vec();
    fields.extend_from_slice(&vote.vote);
    encode_value(VOTE_KEY, &fields)
}

pub(super) fn decode_vote(value: &[u8]) -> Result<StoredVote, String> {
    let fields = decode_value(VOTE_KEY, value)?;
    let Some((sequence, vote)) = fields.split_at_checked(8) else {
        return Err("the stored vote is cut short".into());
    };
    Ok(StoredVote {
        sequence: u64::from_le_bytes(array(sequence)),
        vote: Bytes::copy_from_slice(vote),
    })
}

pub(super) fn encode_purged(purged: ChainLink) -> Vec<u8> {
    let mut fields = Vec::new();
    encode_position(&mut fields, purged.position);
    fields.extend_from_slice(&purged.checksum.to_le_bytes());
    encode_value(PURGED_KEY, &fields)
}

pub(super) fn decode_purged(value: &[u8]) -> Result<ChainLink, String> {
    let fields = decode_value(PURGED_KEY, value)?;
    let Some((position, checksum)) = fields
        .split_first_chunk::<POSITION_BYTES>()
        .filter(|(_, checksum)| checksum.len() == 4)
    else {
        return Err("the stored purged position has a wrong length".into());
    };
    Ok(ChainLink {
        position: decode_position(position),
        checksum: u32::from_le_bytes(array(checksum)),
    })
}

pub(super) fn encode_committed(committed: LogPosition) -> Vec<u8> {
    let mut fields = Vec::new();
    encode_position(&mut fields, committed);
    encode_value(COMMITTED_KEY, &fields)
}

pub(super) fn decode_committed(value: &[u8]) -> Result<LogPosition, String> {
    let fields = decode_value(COMMITTED_KEY, value)?;
    let position: &[u8; POSITION_BYTES] = fields
        .try_into()
        .map_err(|_| "the stored committed position has a wrong length".to_string())?;
    Ok(decode_position(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: LogPosition = LogPosition {
        term: 5,
        leader: 2,
        index: 99,
    };

    #[test]
    fn hard_state_values_are_decoded_as_encoded() {
        let vote = StoredVote {
            sequence: 3,
            vote: Bytes::from_static(b"for 2 in 5"),
        };
        assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        let purged = ChainLink {
            position: POSITION,
            checksum: 17,
        };
        assert_eq!(decode_purged(&encode_purged(purged)), Ok(purged));
        assert_eq!(decode_committed(&encode_committed(POSITION)), Ok(POSITION));
    }

    #[test]
    fn damaged_hard_state_is_refused() {
        let value = encode_committed(POSITION);
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            decode_committed(&flipped).expect_err("a flipped bit");
        }
        for length in 0..value.len() {
            decode_committed(&value[..length]).expect_err("a short value");
        }
        decode_purged(&value).expect_err("the value of another key");
    }
}
