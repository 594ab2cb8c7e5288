//! Format of entries and votes in the log: a framing of this crate with a version in the first byte. Neither an
//! openraft upgrade nor a new kind of entry makes an old log unreadable.
//!
//! | first byte | meaning | rest |
//! |---|---|---|
//! | 0 | blank: a new leader's first entry | nothing |
//! | 1 | commands | stamp `now_ms` u64, count u32, then per command its length u32 and its bytes (all little endian) |
//! | 2 | membership | postcard of [`MembershipV1`] |
//! | 3 | level: raises the cluster to this level of formats | the level u32 (little endian) |
//!
//! Commands are encoded once, by the leader that proposes them. Log, network and apply pass the same bytes on.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::types::{Batch, Member, Membership, Payload, Vote};

const BLANK: u8 = 0;
const COMMANDS_V1: u8 = 1;
const MEMBERSHIP_V1: u8 = 2;
const LEVEL_V1: u8 = 3;
const VOTE_V1: u8 = 1;

/// Latest stamp of an entry: the end of the year 9999, in Unix ms. The time of a state machine never goes back, so one
/// stamp that is too late would set it wrong for ever.
pub(crate) const STAMP_MS_MAX: u64 = 253_402_300_799_999;

/// Bytes of an entry in addition to its encoded commands: version, stamp and count.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 13;
/// Bytes of an encoded command in addition to the command itself: its length.
pub(crate) const COMMAND_OVERHEAD_BYTES: usize = 4;

/// Decode error: the bytes are not in the format that this version of the program writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode {what}: {why}")]
pub(crate) struct DecodeError {
    pub what: &'static str,
    pub why: String,
}

impl DecodeError {
    pub(crate) fn new(what: &'static str, why: impl Into<String>) -> Self {
        DecodeError {
            what,
            why: why.into(),
        }
    }
}

impl From<DecodeError> for std::io::Error {
    fn from(e: DecodeError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, e)
    }
}

/// Commands of an entry, and the stamp they were proposed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commands {
    pub now_ms: u64,
    pub commands: Vec<Bytes>,
}

pub(crate) fn encode_commands(now_ms: u64, commands: &[Bytes]) -> Batch {
    let bytes: usize = commands
        .iter()
        .map(|c| c.len() + COMMAND_OVERHEAD_BYTES)
        .sum();
    let mut out = BytesMut::with_capacity(ENTRY_OVERHEAD_BYTES + bytes);
    out.put_u8(COMMANDS_V1);
    out.put_u64_le(now_ms);
    out.put_u32_le(
        u32::try_from(commands.len()).expect("a batch is bounded far below 2^32 commands"),
    );
    for command in commands {
        out.put_u32_le(u32::try_from(command.len()).expect("a command is bounded far below 4 GiB"));
        out.put_slice(command);
    }
    Batch {
        encoded: out.freeze(),
    }
}

/// Encodes the entry that raises the cluster to `level`. Programs of [`Level::ONE`] refuse the entry and do not write
/// it to their logs.
pub(crate) fn encode_level(level: Level) -> Batch {
    let mut out = BytesMut::with_capacity(5);
    out.put_u8(LEVEL_V1);
    out.put_u32_le(level.number());
    Batch {
        encoded: out.freeze(),
    }
}

/// Decodes the level of an entry that raises it. `None` for other entries.
pub(crate) fn decode_level(batch: &Batch) -> Result<Option<Level>, DecodeError> {
    let bad = |why: &str| DecodeError::new("the level of an entry", why);
    let mut rest = batch.encoded.clone();
    if rest.first() != Some(&LEVEL_V1) {
        return Ok(None);
    }
    rest.advance(1);
    let number = rest.try_get_u32_le().map_err(|_| bad("it is cut short"))?;
    if !rest.is_empty() {
        return Err(bad("it is longer than a level"));
    }
    match Level::new(number) {
        Some(level) => Ok(Some(level)),
        None => Err(bad("it is 0")),
    }
}

/// Decodes the commands of a batch. They share the batch's memory.
pub(crate) fn decode_commands(batch: &Batch) -> Result<Commands, DecodeError> {
    let bad = |why: &str| DecodeError::new("the commands of an entry", why);
    let mut rest = batch.encoded.clone();
    match rest.try_get_u8() {
        Ok(COMMANDS_V1) => {}
        Ok(other) => {
            return Err(bad(&format!(
                "version {other} is not known to this program"
            )));
        }
        Err(_) => return Err(bad("it is empty")),
    }
    let now_ms = rest.try_get_u64_le().map_err(|_| bad("it is cut short"))?;
    let count = rest.try_get_u32_le().map_err(|_| bad("it is cut short"))? as usize;
    let mut commands = Vec::with_capacity(count.min(rest.len() / COMMAND_OVERHEAD_BYTES));
    for _ in 0..count {
        let len = rest.try_get_u32_le().map_err(|_| bad("it is cut short"))? as usize;
        if len > rest.len() {
            return Err(bad("it is cut short"));
        }
        commands.push(rest.split_to(len));
    }
    if !rest.is_empty() {
        return Err(bad("it is longer than its commands"));
    }
    Ok(Commands { now_ms, commands })
}

/// Stored membership. `configs` holds the voters: one set, or two during a joint membership change. `nodes` holds all
/// nodes, learners included.
#[derive(Serialize, Deserialize)]
pub(crate) struct MembershipV1 {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Member>,
}

impl From<&Membership> for MembershipV1 {
    fn from(m: &Membership) -> Self {
        MembershipV1 {
            configs: m.get_joint_config().clone(),
            nodes: m
                .nodes()
                .map(|(id, member)| (*id, member.clone()))
                .collect(),
        }
    }
}

impl MembershipV1 {
    pub(crate) fn into_membership(self) -> Result<Membership, DecodeError> {
        if self.configs.is_empty() && self.nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(self.configs, self.nodes)
            .map_err(|e| DecodeError::new("a membership", e.to_string()))
    }
}

pub(crate) fn encode_payload(payload: &Payload) -> Result<Bytes, DecodeError> {
    match payload {
        Payload::Blank => Ok(Bytes::from_static(&[BLANK])),
        Payload::Normal(batch) => Ok(batch.encoded.clone()),
        Payload::Membership(m) => {
            let out = vec![MEMBERSHIP_V1];
            postcard::to_extend(&MembershipV1::from(m), out)
                .map(Bytes::from)
                .map_err(|e| DecodeError::new("a membership", e.to_string()))
        }
    }
}

/// Returns whether each node encodes a payload itself. Other payloads are the leader's bytes on all nodes.
pub(crate) fn is_encoded_by_each_node(payload: &[u8]) -> bool {
    matches!(payload.first(), Some(&(BLANK | MEMBERSHIP_V1)))
}

pub(crate) fn decode_payload(bytes: Bytes) -> Result<Payload, DecodeError> {
    match bytes.first() {
        Some(&BLANK) if bytes.len() == 1 => Ok(Payload::Blank),
        Some(&COMMANDS_V1) => Ok(Payload::Normal(Batch { encoded: bytes })),
        Some(&LEVEL_V1) => {
            let batch = Batch { encoded: bytes };
            decode_level(&batch)?;
            Ok(Payload::Normal(batch))
        }
        Some(&MEMBERSHIP_V1) => {
            let stored: MembershipV1 = postcard::from_bytes(&bytes[1..])
                .map_err(|e| DecodeError::new("a membership", e.to_string()))?;
            Ok(Payload::Membership(stored.into_membership()?))
        }
        Some(other) => Err(DecodeError::new(
            "an entry",
            format!("kind {other} is not known to this program"),
        )),
        None => Err(DecodeError::new("an entry", "it is empty")),
    }
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(VOTE_V1);
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
    out.freeze()
}

pub(crate) fn decode_vote(mut bytes: Bytes) -> Result<Vote, DecodeError> {
    if bytes.len() != 18 || bytes[0] != VOTE_V1 || bytes[17] > 1 {
        return Err(DecodeError::new(
            "the vote",
            format!("its {} bytes are not a vote", bytes.len()),
        ));
    }
    bytes.advance(1);
    let (term, node) = (bytes.get_u64_le(), bytes.get_u64_le());
    Ok(if bytes.get_u8() == 1 {
        Vote::new_committed(term, node)
    } else {
        Vote::new(term, node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// These bytes are in the logs of running clusters. A change here needs a new version in addition to the old one.
    #[test]
    fn version_1_of_every_format_stays_readable() {
        let batch = encode_commands(
            0x0102_0304_0506_0708,
            &[Bytes::from_static(b"ab"), Bytes::new()],
        );
        assert_eq!(
            hex(&batch.encoded),
            "010807060504030201020000000200000061620000000 0".replace(' ', "")
        );
        let decoded = decode_commands(&batch).unwrap();
        assert_eq!(decoded.now_ms, 0x0102_0304_0506_0708);
        assert_eq!(
            decoded.commands,
            vec![Bytes::from_static(b"ab"), Bytes::new()]
        );

        let node = |n: u8| Member {
            addr: format!("h:{n}"),
            incarnation: Uuid::from_bytes([n; 16]),
        };
        let membership = Membership::new(
            vec![BTreeSet::from([1])],
            BTreeMap::from([(1, node(1)), (2, node(2))]),
        )
        .unwrap();
        let bytes = encode_payload(&Payload::Membership(membership.clone())).unwrap();
        assert_eq!(
            hex(&bytes),
            format!(
                "0201010102 01 03683a31 10{} 02 03683a32 10{}",
                "01".repeat(16),
                "02".repeat(16)
            )
            .replace(' ', "")
        );
        assert_eq!(
            decode_payload(bytes).unwrap(),
            Payload::Membership(membership)
        );

        assert_eq!(
            hex(&encode_vote(&Vote::new_committed(3, 2))),
            "010300000000000000020000000000000001"
        );
        for vote in [Vote::new(7, 1), Vote::new_committed(3, 2)] {
            assert_eq!(decode_vote(encode_vote(&vote)).unwrap(), vote);
        }
        assert_eq!(
            encode_payload(&Payload::Blank).unwrap(),
            Bytes::from_static(&[0])
        );
        assert_eq!(
            decode_payload(Bytes::from_static(&[0])).unwrap(),
            Payload::Blank
        );
    }

    /// These bytes are in the logs of clusters of level 2 and above.
    #[test]
    fn an_entry_that_raises_the_level_stays_readable() {
        let batch = encode_level(Level::TWO);
        assert_eq!(hex(&batch.encoded), "0302000000");
        assert_eq!(decode_level(&batch), Ok(Some(Level::TWO)));
        let payload = Payload::Normal(batch);
        let bytes = encode_payload(&payload).unwrap();
        assert_eq!(decode_payload(bytes.clone()).unwrap(), payload);
        for cut in 1..bytes.len() {
            assert!(decode_payload(bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
        for wrong in [&[3, 2, 0, 0, 0, 0][..], &[3, 0, 0, 0, 0]] {
            assert!(decode_payload(Bytes::from_static(wrong)).is_err());
        }
        let commands = encode_commands(1, &[Bytes::from_static(b"ab")]);
        assert_eq!(decode_level(&commands), Ok(None));
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic() {
        let good = encode_commands(1, &[Bytes::from_static(b"hello")]).encoded;
        for cut in 0..good.len() {
            assert!(
                decode_commands(&Batch {
                    encoded: good.slice(..cut)
                })
                .is_err(),
                "cut at {cut}"
            );
        }
        let mut long = good.to_vec();
        long.push(0);
        assert!(
            decode_commands(&Batch {
                encoded: Bytes::from(long)
            })
            .is_err()
        );
        let mut huge = good.to_vec();
        huge[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(
            decode_commands(&Batch {
                encoded: Bytes::from(huge)
            })
            .is_err()
        );
        assert!(decode_payload(Bytes::new()).is_err());
        assert!(decode_payload(Bytes::from_static(&[9, 9])).is_err());
        assert!(decode_payload(Bytes::from_static(&[2, 0xff])).is_err());
        assert!(decode_vote(Bytes::from_static(&[1, 2])).is_err());
    }
}
