//! Fuzzing entry point for the reader of a log.

use super::chunk::{Assembler, ChainLink, encode, update_checksum};
use super::hard_state::{decode_committed, decode_purged, decode_vote};
use super::recovery::check_entry;
use super::sled_db::check_chain;

/// A chunk's key, and two bytes for the length of its value.
const HEAD_BYTES: usize = 12 + 2;

/// Reads `data` as consecutive chunks of a log, and as each value of the hard state. The first byte decides whether the
/// chunks get matching checksums. The chunks are refused, or form entries that are equal when encoded and decoded
/// again.
pub fn log_chunks(data: &[u8]) {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    let _ = (
        decode_vote(data),
        decode_purged(data),
        decode_committed(data),
    );
    let mut assembler = Assembler::default();
    let mut tail: Option<ChainLink> = None;
    let mut rest = data;
    while let Some((head, more)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let (key, length) = head.split_at(HEAD_BYTES - 2);
        let length = usize::from(u16::from_le_bytes([length[0], length[1]])).min(more.len());
        let (value, more) = more.split_at(length);
        rest = more;
        let mut value = value.to_vec();
        if mode % 2 == 1 {
            update_checksum(key, &mut value);
        }
        let Ok(Some(entry)) = assembler.push(key, &value) else {
            continue;
        };
        if check_chain(tail, &entry).is_err() || check_entry(tail, tail, &entry).is_err() {
            continue;
        }
        let (chunks, link) = encode(&entry.record, entry.previous);
        let mut again = Assembler::default();
        let last = chunks
            .iter()
            .filter_map(|(key, value)| again.push(key, value).expect("what was written"))
            .last();
        let last = last.expect("an entry is whole");
        assert_eq!(
            (last.record.clone(), last.link()),
            (entry.record.clone(), link)
        );
        tail = Some(entry.link());
    }
}
