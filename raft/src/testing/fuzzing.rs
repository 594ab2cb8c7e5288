//! Fuzz targets for the decoders of this crate. Built for tests and with the feature `fuzzing`. The target and the
//! corpus are in `fuzz/`; the test below runs on the corpus too.

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;

use crate::level::Level;
use crate::membership::bootstrap::{Adopt, Form};
use crate::membership::hello::{Hello, HelloReply};
use crate::network::snapshot_transfer::{Announcement, ChunkHead, TransferProgress};
use crate::protocol::entry_format;
use crate::protocol::messages;
use crate::protocol::messages::{
    AppendReply, Refusal, TransferReply, TransferRequestV1, VoteReply, VoteRequestV1,
};
use crate::storage::snapshot_store;
use crate::tasks::clock_sync::ClockReply;
use crate::tasks::divergence_check::{DigestReply, DigestRequest};
use crate::types::Payload;

/// Decodes `data` as everything that a node reads from another: as a frame around a body, and as a body. The bytes are
/// refused or decoded. A decoded append or entry is encoded and decoded again, with the same result.
pub fn peer_message(data: &[u8]) {
    if let Ok((_, body)) = messages::open_frame(Level::HIGHEST, Bytes::copy_from_slice(data)) {
        any(&body);
    }
    any(data);
}

fn any(body: &[u8]) {
    append(body);
    payload(body);
    let _ = entry_format::decode_vote(Bytes::copy_from_slice(body));
    let _ = snapshot_store::decode_head(body);
    read::<VoteRequestV1>(body);
    read::<TransferRequestV1>(body);
    read::<TransferReply>(body);
    read::<Refusal>(body);
    read::<Hello>(body);
    read::<HelloReply>(body);
    read::<Form>(body);
    read::<Adopt>(body);
    read::<Announcement>(body);
    read::<ChunkHead>(body);
    read::<TransferProgress>(body);
    read::<DigestRequest>(body);
    read::<DigestReply>(body);
    read::<ClockReply>(body);
    let _ = messages::decode_with_health::<AppendReply>("an answer", body);
    let _ = messages::decode_with_health::<VoteReply>("an answer", body);
}

fn read<T: DeserializeOwned>(body: &[u8]) {
    let _ = messages::decode::<T>("a message", body);
}

fn append(body: &[u8]) {
    let Ok(request) = messages::open_append(Bytes::copy_from_slice(body)) else {
        return;
    };
    let mut written = BytesMut::new();
    messages::put_append(&mut written, &request).expect("what was read can be written");
    let again = messages::open_append(written.freeze()).expect("what was written can be read");
    assert_eq!(request.entries.len(), again.entries.len());
    assert_eq!(request.prev_log_id, again.prev_log_id);
}

fn payload(body: &[u8]) {
    let Ok(payload) = entry_format::decode_payload(Bytes::copy_from_slice(body)) else {
        return;
    };
    let written = entry_format::encode_payload(&payload).expect("what was read can be written");
    let again =
        entry_format::decode_payload(written.clone()).expect("what was written can be read");
    let written_again = entry_format::encode_payload(&again).expect("what was read can be written");
    assert_eq!(written, written_again);
    if let Payload::Normal(batch) = payload {
        let _ = entry_format::decode_commands(&batch);
    }
}

#[cfg(test)]
#[path = "../../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::passes;

    #[test]
    fn the_corpus_of_peer_messages_passes() {
        passes("peer_messages", super::peer_message);
    }
}
