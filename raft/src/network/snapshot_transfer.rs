//! Snapshot transfer to a peer: announced, sent in checksummed chunks from the receiver's offset on, then installed.
//!
//! The receiver keeps the received part, so a broken connection or a new leader with the same snapshot costs one chunk,
//! not the whole transfer. Every answer carries the receiver's vote, so that a deposed leader stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use triarch_storage::SnapshotFile;

use crate::network::transport::{CallError, Lane, Target, Transport};
use crate::protocol::entry_format::DecodeError;
use crate::protocol::messages;
use crate::protocol::messages::{Envelope, SnapshotMetaV1, VoteV1};
use crate::status::SnapshotTransfer;
use crate::storage::snapshot_store::{Announced, StoredSnapshot};
use crate::types::{Snapshot, Vote};

const CHUNK_BYTES: usize = 1 << 20;

/// Announcement of the sender's snapshot. With the sender's incarnation, the sequence number identifies its file.
#[derive(Serialize, Deserialize)]
pub(crate) struct Announcement {
    pub vote: VoteV1,
    pub meta: SnapshotMetaV1,
    pub file_bytes: u64,
    pub sequence: u64,
}

impl Announcement {
    /// Returns the announcement as the receiver of `envelope` records it.
    pub(crate) fn announced(self, envelope: &Envelope) -> Result<Announced, DecodeError> {
        let bad = |why: &str| DecodeError::new("a snapshot", why);
        let vote = Vote::from(self.vote);
        if !vote.committed || vote.leader_id.voted_for != envelope.from {
            return Err(bad("its sender does not lead"));
        }
        let meta = self.meta.into_meta()?;
        let last_term = meta.last_log_id.map_or(0, |id| id.leader_id.term);
        if last_term > vote.leader_id.term {
            return Err(bad("it is of a later term than its sender's"));
        }
        if *meta.last_membership.log_id() > meta.last_log_id {
            return Err(bad("its membership is later than its last entry"));
        }
        if meta.last_membership.voter_ids().next().is_none() {
            return Err(bad("its membership has no voters"));
        }
        Ok(Announced {
            meta,
            file_bytes: self.file_bytes,
            sender: envelope.from_incarnation,
            sequence: self.sequence,
        })
    }
}

/// Head of a chunk. Its bytes follow.
#[derive(Serialize, Deserialize)]
pub(crate) struct ChunkHead {
    pub sequence: u64,
    pub offset: u64,
    pub crc: u32,
}

/// Answer of the receiver to announcements and chunks.
#[derive(Serialize, Deserialize)]
pub(crate) enum TransferProgress {
    /// The sender continues from `offset`.
    At { offset: u64 },
    /// The receiver follows a higher vote.
    Deposed { vote: VoteV1 },
    /// The receiver does not (or no longer) know of the snapshot. The sender announces it again.
    Unannounced,
}

pub(crate) enum SendError {
    Call(CallError),
    Local(io::Error),
}

impl From<CallError> for SendError {
    fn from(e: CallError) -> Self {
        SendError::Call(e)
    }
}

/// Sends the whole snapshot and waits for its installation. Returns the receiver's vote.
pub(crate) async fn send(
    transport: &Arc<Transport>,
    target: &Target,
    vote: Vote,
    snapshot: Snapshot<StoredSnapshot>,
) -> Result<Vote, SendError> {
    let Some(file) = snapshot.snapshot.file() else {
        let unfinished = "a snapshot that is being installed here cannot be sent";
        return Err(SendError::Local(io::Error::other(unfinished)));
    };
    let sender = SnapshotSender {
        transport,
        target,
        file,
        announcement: Announcement {
            vote: (&vote).into(),
            meta: (&snapshot.meta).into(),
            file_bytes: file.len(),
            sequence: file.sequence(),
        },
    };
    let index = snapshot.meta.last_log_id.map_or(0, |id| id.index);
    let (peer, bytes) = (target.id, file.len());
    tracing::info!(peer, index, bytes, "sending a snapshot");
    // The guard removes the transfer however this function ends, also when it is cancelled.
    let _guard = TransferGuard {
        transport,
        to: target.id,
    };
    let mut progress = sender.announce().await?;
    let mut reannouncements = 0;
    loop {
        progress = match progress {
            TransferProgress::Deposed { vote } => return sender.checked_vote(vote),
            TransferProgress::At { offset } if offset >= file.len() => break,
            TransferProgress::At { offset } => {
                let transfer = SnapshotTransfer {
                    bytes,
                    sent_bytes: offset,
                };
                transport.set_transfer(target.id, Some(transfer));
                sender.chunk(offset).await?
            }
            TransferProgress::Unannounced if reannouncements < 3 => {
                reannouncements += 1;
                sender.announce().await?
            }
            TransferProgress::Unannounced => {
                return Err(sender.broken("it repeatedly lost the received part of the snapshot"));
            }
        };
    }
    let theirs = sender.install().await?;
    tracing::info!(peer, index, "the snapshot is installed there");
    Ok(theirs)
}

struct TransferGuard<'a> {
    transport: &'a Transport,
    to: u64,
}

impl Drop for TransferGuard<'_> {
    fn drop(&mut self) {
        self.transport.set_transfer(self.to, None);
    }
}

struct SnapshotSender<'a> {
    transport: &'a Transport,
    target: &'a Target,
    file: &'a SnapshotFile,
    announcement: Announcement,
}

impl SnapshotSender<'_> {
    fn broken(&self, why: impl ToString) -> SendError {
        let (id, addr) = (self.target.id, self.target.addr.clone());
        SendError::Call(CallError::Broken {
            id,
            addr,
            why: why.to_string(),
        })
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: impl FnOnce(&mut BytesMut),
        body_bytes: usize,
        deadline_ms: u64,
    ) -> Result<T, SendError> {
        let deadline = Duration::from_millis(deadline_ms);
        let call = self.transport.call(
            Lane::Snapshot,
            self.target,
            path,
            body,
            body_bytes,
            deadline,
        );
        messages::decode("the answer to a snapshot", &call.await?).map_err(|e| self.broken(e))
    }

    async fn announce(&self) -> Result<TransferProgress, SendError> {
        let deadline_ms = self.transport.timing.snapshot_chunk_ms;
        let body = |out: &mut BytesMut| messages::put(out, &self.announcement);
        self.post("/raft/snapshot/announce", body, 256, deadline_ms)
            .await
    }

    async fn chunk(&self, offset: u64) -> Result<TransferProgress, SendError> {
        let file = self.file.clone();
        let chunk = tokio::task::spawn_blocking(move || file.read_at(offset, CHUNK_BYTES))
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(SendError::Local)?;
        let head = ChunkHead {
            sequence: self.file.sequence(),
            offset,
            crc: crc32c::crc32c(&chunk),
        };
        let deadline_ms = self.transport.timing.snapshot_chunk_ms;
        let body = |out: &mut BytesMut| {
            messages::put(out, &head);
            out.extend_from_slice(&chunk);
        };
        self.post("/raft/snapshot/chunk", body, chunk.len() + 32, deadline_ms)
            .await
    }

    async fn install(&self) -> Result<Vote, SendError> {
        let deadline_ms = self.transport.timing.snapshot_install_ms;
        let body = |out: &mut BytesMut| messages::put(out, &self.announcement);
        let theirs: VoteV1 = self
            .post("/raft/snapshot/install", body, 256, deadline_ms)
            .await?;
        self.checked_vote(theirs)
    }

    /// Refuses an absurd term. See [`messages::check_term`].
    fn checked_vote(&self, theirs: VoteV1) -> Result<Vote, SendError> {
        messages::check_term(self.announcement.vote.term(), theirs.term())
            .map_err(|e| self.broken(e))?;
        Ok(theirs.into())
    }
}
