//! Golden bytes: messages between nodes stay as they are, byte for byte.

use super::*;
use crate::protocol::entry_format::encode_commands;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{Member, Membership, Payload};

fn envelope() -> Envelope {
    Envelope {
        cluster: Uuid::from_bytes([7; 16]),
        from: 1,
        from_incarnation: Uuid::from_bytes([1; 16]),
        to: 2,
        to_incarnation: Uuid::nil(),
    }
}

fn append() -> AppendEntriesRequest<Config> {
    let commands =
        |text: &'static [u8]| Payload::Normal(encode_commands(5, &[Bytes::from_static(text)]));
    AppendEntriesRequest {
        vote: Vote::new_committed(3, 1),
        prev_log_id: Some(log_id(2, 9)),
        entries: vec![
            Entry {
                log_id: log_id(3, 10),
                payload: Payload::Blank,
            },
            Entry {
                log_id: log_id(3, 11),
                payload: commands(b"hello"),
            },
            Entry {
                log_id: log_id(3, 12),
                payload: commands(b"world!"),
            },
        ],
        leader_commit: Some(log_id(2, 8)),
    }
}

#[test]
fn an_append_arrives_as_it_was_sent() {
    let mut out = frame(Level::ONE, &envelope(), 0);
    put_append(&mut out, &append()).unwrap();
    let (to, body) = open_frame(Level::HIGHEST, out.freeze()).unwrap();
    assert_eq!(to, envelope());
    let got = open_append(body).unwrap();
    assert_eq!(format!("{got:?}"), format!("{:?}", append()));
    assert_eq!(got.entries, append().entries);
}

/// A buffer that a connection has read a message into, and a handle that is unique once the buffer is free.
struct ReadBuffer {
    bytes: Bytes,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A follower keeps the entries in memory, and a connection reads each small message into a buffer of some kilobytes.
#[test]
fn the_entries_of_an_append_do_not_keep_the_buffer_that_it_was_read_into() {
    let mut out = frame(Level::ONE, &envelope(), 0);
    put_append(&mut out, &append()).unwrap();
    let alive = Arc::new(());
    let message = Bytes::from_owner(ReadBuffer {
        bytes: out.freeze(),
        _alive: Arc::clone(&alive),
    });
    let (_, body) = open_frame(Level::HIGHEST, message).unwrap();
    let got = open_append(body).unwrap();
    assert_eq!(Arc::strong_count(&alive), 1, "the buffer is not free");
    assert_eq!(got.entries, append().entries);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn put_hex<T: Serialize>(value: &T) -> String {
    let mut out = BytesMut::new();
    put(&mut out, value);
    hex(&out)
}

/// Nodes of this version and the next talk to each other while a cluster is upgraded one node at a time. The head of a
/// snapshot is on disk. New fields and variants go to the end of a struct or enum; nothing else may change here.
#[test]
fn version_1_of_every_message_stays_what_it_is() {
    let mut out = frame(Level::ONE, &envelope(), 0);
    put_append(&mut out, &append()).unwrap();
    let head = format!(
        "01 10{} 01 10{} 02 10{}",
        "07".repeat(16),
        "01".repeat(16),
        "00".repeat(16)
    );
    let list = "030101 010209 010208 03 030a01 030b16 030c17";
    let blank = "00";
    let hello = "01 0500000000000000 01000000 05000000 68656c6c6f";
    let world = "01 0500000000000000 01000000 06000000 776f726c6421";
    let expected = [head.as_str(), list, blank, hello, world]
        .concat()
        .replace(' ', "");
    assert_eq!(hex(&out), expected);

    let vote = VoteV1::from(&Vote::new(3, 1));
    let last = Some(LogIdV1 { term: 2, index: 9 });
    assert_eq!(
        put_hex(&VoteRequestV1 {
            vote,
            last,
            transfer: true,
            why: LeaderChangeReason::Silent { ms: 400 },
        }),
        "03010001020901019003"
    );
    assert_eq!(
        put_hex(&VoteReply {
            vote,
            granted: true,
            last: None
        }),
        "0301000100"
    );
    assert_eq!(
        put_hex(&TransferRequestV1 {
            from: vote,
            to: 2,
            last,
            why: Some(TransferReason::Shutdown),
        }),
        "030100020102090101"
    );
    let transfers = [
        (TransferReply::Begun, "00"),
        (
            TransferReply::VoteChanged {
                expected: vote,
                actual: vote,
            },
            "01030100030100",
        ),
        (
            TransferReply::LogNotFlushed {
                expected: last,
                actual: None,
            },
            "0201020900",
        ),
    ];
    for (reply, bytes) in transfers {
        assert_eq!(put_hex(&reply), bytes);
    }
    let appends = [
        (AppendReply::Success, "00"),
        (AppendReply::Partial(last), "01010209"),
        (AppendReply::Conflict, "02"),
        (AppendReply::HigherVote(vote), "03030100"),
    ];
    for (reply, bytes) in appends {
        assert_eq!(put_hex(&reply), bytes);
    }
    let refusals = [
        (Refusal::NotFormed, "01".to_owned()),
        (Refusal::OtherNode { id: 1, meant: 2 }, "020102".to_owned()),
        (Refusal::SenderReplaced { from: 3 }, "0403".to_owned()),
        (Refusal::Rule("no".into()), "07026e6f".to_owned()),
        (Refusal::DiskLow, "08".to_owned()),
    ];
    for (refusal, bytes) in refusals {
        assert_eq!(put_hex(&refusal), bytes);
    }

    let notes = [
        (DiskLevel::Ample, "00"),
        (DiskLevel::Low, "01"),
        (DiskLevel::Full, "02"),
    ];
    for (disk, bytes) in notes {
        let note = NodeHealth {
            free_bytes: 5,
            disk,
        };
        assert_eq!(put_hex(&note), format!("05{bytes}"));
        let mut answer = BytesMut::new();
        put(&mut answer, &AppendReply::Success);
        let read = decode_with_health::<AppendReply>("an answer", &answer).unwrap();
        assert_eq!(read, (AppendReply::Success, None));
        put(&mut answer, &note);
        let read = decode_with_health::<AppendReply>("an answer", &answer).unwrap();
        assert_eq!(read, (AppendReply::Success, Some(note)));
        // An older version reads the answer like this.
        let read = decode::<AppendReply>("an answer", &answer).unwrap();
        assert_eq!(read, AppendReply::Success);
    }

    let node = Member {
        addr: "h:1".into(),
        incarnation: Uuid::from_bytes([1; 16]),
    };
    let membership =
        Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, node)])).unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(3, 12)),
        last_membership: StoredMembership::new(Some(log_id(0, 0)), membership),
    };
    let bytes = put_hex(&SnapshotMetaV1::from(&meta));
    let expected = format!(
        "01030c 010000 01 01 01 01 01 03683a31 10{}",
        "01".repeat(16)
    );
    assert_eq!(bytes, expected.replace(' ', ""));
    let head = SnapshotHeadV1 {
        meta: (&meta).into(),
        used_ids: BTreeSet::from([1, 2]),
    };
    assert_eq!(put_hex(&head), format!("{bytes}020102"));
}

#[test]
fn every_cut_and_every_flipped_byte_of_a_frame_is_survived() {
    let mut out = frame(Level::ONE, &envelope(), 0);
    put_append(&mut out, &append()).unwrap();
    let good = out.freeze();
    let open =
        |bytes: Bytes| open_frame(Level::HIGHEST, bytes).and_then(|(_, body)| open_append(body));
    for cut in 0..good.len() {
        assert!(open(good.slice(..cut)).is_err(), "cut at {cut}");
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1 << bit;
            // Some flips give another valid message, because this is not a checksum. None may panic.
            let _ = open(Bytes::from(bytes));
        }
    }
}

#[test]
fn entries_that_do_not_follow_each_other_are_refused() {
    let mut rpc = append();
    rpc.entries[2].log_id = log_id(3, 13);
    let mut out = BytesMut::new();
    put_append(&mut out, &rpc).unwrap();
    assert!(
        open_append(out.freeze())
            .unwrap_err()
            .to_string()
            .contains("follow")
    );
}

#[test]
fn nothing_follows_the_last_index_there_can_be() {
    let mut rpc = append();
    rpc.prev_log_id = Some(log_id(2, u64::MAX));
    let mut out = BytesMut::new();
    put_append(&mut out, &rpc).unwrap();
    open_append(out.freeze()).expect_err("it comes after the last");
}
