//! Formats of messages between nodes, byte for byte.
//!
//! Every message is a frame: the version, the [`Envelope`] that names sender, receiver and cluster, then the body. The
//! version is the level that the receiver must understand to handle the message.
//! Bodies are postcard of the structs below; fields and enum variants are only appended. The entries of an append
//! follow their list as raw payloads. The leader encoded them once, and they are neither copied into nor out of another
//! encoding.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::leadership::change_reason::{LeaderChangeReason, TransferReason};
use crate::level::Level;
use crate::protocol::entry_format;
use crate::protocol::entry_format::{DecodeError, MembershipV1};
use crate::protocol::printable::printable;
use crate::types::{Config, Entry, LogId, Payload, SnapshotMeta, StoredMembership, Vote, log_id};

/// Sender, receiver and cluster of a message. A receiver that is not the one meant, or not in this cluster, refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// Nil while no cluster is formed.
    pub cluster: Uuid,
    pub from: u64,
    pub from_incarnation: Uuid,
    pub to: u64,
    /// Nil while the sender does not know it.
    pub to_incarnation: Uuid,
}

/// Reason why a message was not handled. Sent with status 409.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it belongs to cluster {mine}, not {yours}")]
    OtherCluster { mine: Uuid, yours: Uuid },
    #[error("it belongs to no cluster yet")]
    NotFormed,
    #[error("it is node {id}, not node {meant}")]
    OtherNode { id: u64, meant: u64 },
    #[error("it is node {id} on another data directory than the one the cluster knows")]
    OtherIncarnation { id: u64, incarnation: Uuid },
    #[error("it knows node {from} by another data directory")]
    SenderReplaced { from: u64 },
    #[error("it does not understand the message: {0}")]
    Malformed(String),
    #[error("it is stopping: {0}")]
    Stopping(String),
    #[error("{0}")]
    Rule(String),
    #[error("its disk has no room for more")]
    DiskLow,
}

impl Refusal {
    /// Returns the refusal with texts that are safe to log and to show.
    pub(crate) fn printable(self) -> Self {
        match self {
            Refusal::Malformed(text) => Refusal::Malformed(printable(&text)),
            Refusal::Stopping(text) => Refusal::Stopping(printable(&text)),
            Refusal::Rule(text) => Refusal::Rule(printable(&text)),
            Refusal::OtherCluster { .. }
            | Refusal::NotFormed
            | Refusal::OtherNode { .. }
            | Refusal::OtherIncarnation { .. }
            | Refusal::SenderReplaced { .. }
            | Refusal::DiskLow => self,
        }
    }
}

/// Returns the head of a frame for a receiver that understands `level`. The body follows.
pub(crate) fn frame(level: Level, envelope: &Envelope, body_bytes: usize) -> BytesMut {
    let mut out = Vec::with_capacity(96 + body_bytes);
    out.push(u8::try_from(level.number()).expect("levels of this program are small numbers"));
    let out = postcard::to_extend(envelope, out).expect("an envelope can be encoded");
    BytesMut::from(Bytes::from(out))
}

/// Opens a frame, if this node understands its level.
pub(crate) fn open_frame(
    understood: Level,
    mut bytes: Bytes,
) -> Result<(Envelope, Bytes), DecodeError> {
    match bytes.first() {
        Some(&version) if (1..=understood.number()).contains(&u32::from(version)) => {}
        Some(other) => {
            return Err(DecodeError::new(
                "a peer's message",
                format!(
                    "it has version {other} of the protocol between nodes, and this node speaks version {understood}: run \
                     compatible versions of triarch on all nodes"
                ),
            ));
        }
        None => return Err(DecodeError::new("a peer's message", "it is empty")),
    }
    let (envelope, rest) = postcard::take_from_bytes::<Envelope>(&bytes[1..])
        .map_err(|e| DecodeError::new("a peer's message", e.to_string()))?;
    let head_bytes = bytes.len() - rest.len();
    let body = bytes.split_off(head_bytes);
    Ok((envelope, body))
}

pub(crate) fn put<T: Serialize>(out: &mut BytesMut, value: &T) {
    // Postcard fails on sequences of unknown length and on a full buffer; these structs and this buffer have neither.
    let encoded = postcard::to_stdvec(value).expect("a peer message can be encoded");
    out.put_slice(&encoded);
}

pub(crate) fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    postcard::from_bytes(bytes).map_err(|e| DecodeError::new(what, e.to_string()))
}

/// Maximum number of terms between a node's own term and one that a message brings.
///
/// A node adopts every higher term that it receives, and writes it to disk. One absurd term would therefore end
/// elections for ever. At one election per second, a node has to be away for twelve days to fall this far behind.
pub(crate) const TERM_JUMP_MAX: u64 = 1 << 20;
/// Maximum term that a node without any term accepts: it has been in no election yet.
const FIRST_TERM_MAX: u64 = 1 << 48;

/// Refuses a term of a message that is too far beyond this node's own term.
pub(crate) fn check_term(own: u64, theirs: u64) -> Result<(), DecodeError> {
    let term_max = match own {
        0 => FIRST_TERM_MAX,
        own => own.saturating_add(TERM_JUMP_MAX),
    };
    if theirs <= term_max || mutated!(TermJumpAccepted) {
        return Ok(());
    }
    Err(DecodeError::new(
        "a term",
        format!(
            "term {theirs} is more than {TERM_JUMP_MAX} terms beyond term {own}, which this node is in; a node that was away \
             for that long must be replaced"
        ),
    ))
}

/// Health of the node that answers, appended to the answers to appends, heartbeats and votes. An older node sends none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeHealth {
    /// Free disk space, in bytes.
    pub free_bytes: u64,
    pub disk: DiskLevel,
}

/// Level of free disk space: determines what a node's disk accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DiskLevel {
    /// Accepts everything.
    Ample,
    /// Accepts no entries with commands.
    Low,
    /// Accepts not even a vote.
    Full,
}

/// Decodes an answer, and the health appended to it.
pub(crate) fn decode_with_health<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<(T, Option<NodeHealth>), DecodeError> {
    let (answer, rest) =
        postcard::take_from_bytes(bytes).map_err(|e| DecodeError::new(what, e.to_string()))?;
    if rest.is_empty() {
        return Ok((answer, None));
    }
    Ok((answer, Some(decode(what, rest)?)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteV1 {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<&Vote> for VoteV1 {
    fn from(v: &Vote) -> Self {
        VoteV1 {
            term: v.leader_id.term,
            node: v.leader_id.voted_for,
            committed: v.committed,
        }
    }
}

impl From<VoteV1> for Vote {
    fn from(v: VoteV1) -> Self {
        if v.committed {
            Vote::new_committed(v.term, v.node)
        } else {
            Vote::new(v.term, v.node)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogIdV1 {
    term: u64,
    index: u64,
}

impl VoteV1 {
    /// Returns the term.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }
}

impl From<LogId> for LogIdV1 {
    fn from(id: LogId) -> Self {
        LogIdV1 {
            term: id.leader_id.term,
            index: id.index,
        }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        log_id(id.term, id.index)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct AppendHead {
    vote: VoteV1,
    prev: Option<LogIdV1>,
    commit: Option<LogIdV1>,
    /// Ids and payload lengths. The payloads follow the head in this order.
    entries: Vec<(LogIdV1, u32)>,
}

pub(crate) fn put_append(
    out: &mut BytesMut,
    rpc: &AppendEntriesRequest<Config>,
) -> Result<(), DecodeError> {
    let payloads: Vec<Bytes> = rpc
        .entries
        .iter()
        .map(|e| entry_format::encode_payload(&e.payload))
        .collect::<Result<_, _>>()?;
    let mut entries = Vec::with_capacity(payloads.len());
    for (e, payload) in rpc.entries.iter().zip(&payloads) {
        let len = u32::try_from(payload.len())
            .map_err(|_| DecodeError::new("an entry", "it exceeds 4 GiB"))?;
        entries.push((LogIdV1::from(e.log_id), len));
    }
    let head = AppendHead {
        vote: (&rpc.vote).into(),
        prev: rpc.prev_log_id.map(Into::into),
        commit: rpc.leader_commit.map(Into::into),
        entries,
    };
    put(out, &head);
    out.reserve(payloads.iter().map(Bytes::len).sum());
    for payload in payloads {
        out.put_slice(&payload);
    }
    Ok(())
}

/// Decodes an append. Checks what openraft takes for granted: that the entries follow each other and the one before, in
/// index and in term, that none is of a later term than the sender leads in, and that a membership has voters.
pub(crate) fn open_append(body: Bytes) -> Result<AppendEntriesRequest<Config>, DecodeError> {
    let bad = |why: &str| DecodeError::new("an append", why);
    let (head, rest) = postcard::take_from_bytes::<AppendHead>(&body)
        .map_err(|e| DecodeError::new("an append", e.to_string()))?;
    let mut payloads = body.slice(body.len() - rest.len()..);
    // No entry follows the maximum index.
    let mut next_index = head.prev.map_or(Some(0), |prev| prev.index.checked_add(1));
    let mut last_term = head.prev.map_or(0, |prev| prev.term);
    let mut entries = Vec::with_capacity(head.entries.len());
    for (id, len) in head.entries {
        let len = len as usize;
        if len > payloads.len() {
            return Err(bad("a payload is cut short"));
        }
        if next_index != Some(id.index) {
            return Err(bad("the entries do not follow each other"));
        }
        next_index = id.index.checked_add(1);
        if id.term < last_term {
            return Err(bad("the terms of its entries go back"));
        }
        last_term = id.term;
        // A copy: the log keeps entries for long, and a part of the body would keep the whole buffer that the connection
        // read it into, which is many times larger than a small entry.
        let payload = Bytes::copy_from_slice(&payloads.split_to(len));
        let payload = entry_format::decode_payload(payload)?;
        if let Payload::Membership(membership) = &payload
            && membership.voter_ids().next().is_none()
        {
            return Err(bad("a membership has no voters"));
        }
        entries.push(Entry {
            log_id: id.into(),
            payload,
        });
    }
    if !payloads.is_empty() {
        return Err(bad("it is longer than its entries"));
    }
    let vote = Vote::from(head.vote);
    if !vote.committed {
        return Err(bad("its sender does not lead"));
    }
    if last_term > vote.leader_id.term {
        return Err(bad("it has entries of a later term than its sender's"));
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id: head.prev.map(Into::into),
        entries,
        leader_commit: head.commit.map(Into::into),
    })
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AppendReply {
    Success,
    Partial(Option<LogIdV1>),
    Conflict,
    HigherVote(VoteV1),
}

impl From<AppendEntriesResponse<Config>> for AppendReply {
    fn from(r: AppendEntriesResponse<Config>) -> Self {
        match r {
            AppendEntriesResponse::Success => AppendReply::Success,
            AppendEntriesResponse::PartialSuccess(id) => AppendReply::Partial(id.map(Into::into)),
            AppendEntriesResponse::Conflict => AppendReply::Conflict,
            AppendEntriesResponse::HigherVote(vote) => AppendReply::HigherVote((&vote).into()),
        }
    }
}

impl From<AppendReply> for AppendEntriesResponse<Config> {
    fn from(r: AppendReply) -> Self {
        match r {
            AppendReply::Success => AppendEntriesResponse::Success,
            AppendReply::Partial(id) => AppendEntriesResponse::PartialSuccess(id.map(Into::into)),
            AppendReply::Conflict => AppendEntriesResponse::Conflict,
            AppendReply::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VoteRequestV1 {
    vote: VoteV1,
    last: Option<LogIdV1>,
    pub transfer: bool,
    /// Reason why the sender campaigns. For operators only.
    pub why: LeaderChangeReason,
}

impl VoteRequestV1 {
    pub(crate) fn new(r: &VoteRequest<Config>, why: LeaderChangeReason) -> Self {
        VoteRequestV1 {
            vote: (&r.vote).into(),
            last: r.last_log_id.map(Into::into),
            transfer: r.leadership_transfer,
            why: why.in_body(),
        }
    }

    /// Returns the term of the campaign.
    pub(crate) fn term(&self) -> u64 {
        self.vote.term
    }

    /// Returns the last entry of the candidate's log.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.last.map(Into::into)
    }

    /// Returns the term of the campaign. Refuses a campaign in the name of another node than its sender `from`, and one
    /// that is already won.
    pub(crate) fn campaign_of(&self, from: u64) -> Result<u64, DecodeError> {
        let vote = Vote::from(self.vote);
        if vote.committed || vote.leader_id.voted_for != from {
            return Err(DecodeError::new(
                "a vote",
                "it is not its sender's request for votes",
            ));
        }
        if self
            .last
            .is_some_and(|last| last.term > vote.leader_id.term)
        {
            return Err(DecodeError::new("a vote", "its log is of a later term"));
        }
        Ok(vote.leader_id.term)
    }
}

impl From<VoteRequestV1> for VoteRequest<Config> {
    fn from(r: VoteRequestV1) -> Self {
        let mut request = VoteRequest::new(r.vote.into(), r.last.map(Into::into));
        request.leadership_transfer = r.transfer;
        request
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VoteReply {
    vote: VoteV1,
    granted: bool,
    last: Option<LogIdV1>,
}

impl From<&VoteResponse<Config>> for VoteReply {
    fn from(r: &VoteResponse<Config>) -> Self {
        VoteReply {
            vote: (&r.vote).into(),
            granted: r.vote_granted,
            last: r.last_log_id.map(Into::into),
        }
    }
}

impl From<VoteReply> for VoteResponse<Config> {
    fn from(r: VoteReply) -> Self {
        VoteResponse::new(Vote::from(r.vote), r.last.map(Into::into), r.granted)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TransferRequestV1 {
    from: VoteV1,
    pub to: u64,
    last: Option<LogIdV1>,
    /// Reason of the transfer. For operators only.
    pub why: Option<TransferReason>,
}

impl TransferRequestV1 {
    pub(crate) fn new(r: &TransferLeaderRequest<Config>, why: Option<TransferReason>) -> Self {
        TransferRequestV1 {
            from: r.from_leader().into(),
            to: *r.to_node_id(),
            last: r.last_log_id().map(|id| (*id).into()),
            why: why.and_then(TransferReason::in_body),
        }
    }

    /// Returns the term that the sender leads in. Refuses a transfer in the name of another leader than its sender
    /// `from`.
    pub(crate) fn term_of_leader(&self, from: u64) -> Result<u64, DecodeError> {
        let vote = Vote::from(self.from);
        if !vote.committed || vote.leader_id.voted_for != from {
            return Err(DecodeError::new(
                "a transfer of leadership",
                "it is not from its leader",
            ));
        }
        Ok(vote.leader_id.term)
    }
}

impl From<TransferRequestV1> for TransferLeaderRequest<Config> {
    fn from(r: TransferRequestV1) -> Self {
        TransferLeaderRequest::new(r.from.into(), r.to, r.last.map(Into::into))
    }
}

/// Answer to a transfer request: begun, or the reason why not.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum TransferReply {
    Begun,
    VoteChanged {
        expected: VoteV1,
        actual: VoteV1,
    },
    LogNotFlushed {
        expected: Option<LogIdV1>,
        actual: Option<LogIdV1>,
    },
}

/// Metadata of a snapshot, in files and between nodes.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotMetaV1 {
    last: Option<LogIdV1>,
    membership_at: Option<LogIdV1>,
    membership: MembershipV1,
}

impl From<&SnapshotMeta> for SnapshotMetaV1 {
    fn from(m: &SnapshotMeta) -> Self {
        SnapshotMetaV1 {
            last: m.last_log_id.map(Into::into),
            membership_at: m.last_membership.log_id().map(Into::into),
            membership: m.last_membership.membership().into(),
        }
    }
}

/// Head of a snapshot's file: its position in the log, and the cluster's past that no later entry contains. Above level 1,
/// the level of the cluster follows.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotHeadV1 {
    pub meta: SnapshotMetaV1,
    /// Every node id used so far.
    pub used_ids: BTreeSet<u64>,
}

impl SnapshotMetaV1 {
    pub(crate) fn into_meta(self) -> Result<SnapshotMeta, DecodeError> {
        Ok(SnapshotMeta {
            last_log_id: self.last.map(Into::into),
            last_membership: StoredMembership::new(
                self.membership_at.map(Into::into),
                self.membership.into_membership()?,
            ),
        })
    }
}
