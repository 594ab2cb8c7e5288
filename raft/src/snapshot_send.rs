//! Snapshots between nodes: announced, sent in checksummed chunks from wherever the receiver is, then installed.
//!
//! The receiver keeps what it has, so a broken connection or a new leader with the same snapshot costs one chunk, not the
//! whole transfer. Every answer tells the receiver's vote, so that a deposed leader stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::snapshot::StoredSnapshot;
use crate::transport::{CallError, Lane, Target, Transport};
use crate::types::{Snapshot, Vote};
use crate::wire::{self, SnapshotMetaV1, VoteV1};

const CHUNK_BYTES: usize = 1 << 20;

/// What the sender has: the same three mean the same snapshot.
#[derive(Serialize, Deserialize)]
pub(crate) struct Announcement {
    pub vote: VoteV1,
    pub meta: SnapshotMetaV1,
    pub bytes: u64,
    pub crc: u32,
}

/// The head of a chunk; its bytes follow.
#[derive(Serialize, Deserialize)]
pub(crate) struct ChunkHead {
    pub snapshot_crc: u32,
    pub offset: u64,
    pub crc: u32,
}

/// The receiver's answer to announcements and chunks.
#[derive(Serialize, Deserialize)]
pub(crate) enum Progress {
    /// Send on from here.
    At { offset: u64 },
    /// The receiver follows a higher vote.
    Deposed { vote: VoteV1 },
    /// It does not (or no longer) know of the snapshot: announce it again.
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

/// Sends the whole snapshot and waits for its installation. Gives the receiver's vote.
pub(crate) async fn send(
    transport: &Arc<Transport>,
    target: &Target,
    vote: Vote,
    snapshot: Snapshot<StoredSnapshot>,
) -> Result<Vote, SendError> {
    let deadline = Duration::from_millis(transport.timing.snapshot_chunk_ms);
    let stored = snapshot.snapshot;
    let index = snapshot.meta.last_log_id.map_or(0, |id| id.index);
    tracing::info!(
        peer = target.id,
        index,
        bytes = stored.bytes(),
        "sending a snapshot"
    );
    let announcement = || Announcement {
        vote: (&vote).into(),
        meta: (&snapshot.meta).into(),
        bytes: stored.bytes(),
        crc: stored.crc(),
    };
    let broken = |why: String| CallError::Broken {
        id: target.id,
        addr: target.addr.clone(),
        why,
    };
    let mut progress = ask(
        transport,
        target,
        "/raft/snapshot/announce",
        &announcement(),
        deadline,
    )
    .await?;
    let mut announced_again = 0;
    loop {
        let offset = match progress {
            Progress::Deposed { vote } => return Ok(vote.into()),
            Progress::At { offset } => offset,
            Progress::Unannounced if announced_again < 3 => {
                announced_again += 1;
                progress = ask(
                    transport,
                    target,
                    "/raft/snapshot/announce",
                    &announcement(),
                    deadline,
                )
                .await?;
                continue;
            }
            Progress::Unannounced => {
                return Err(broken("it keeps forgetting the snapshot".into()).into());
            }
        };
        if offset >= stored.bytes() {
            break;
        }
        let reader = stored.clone();
        let chunk = tokio::task::spawn_blocking(move || reader.read_at(offset, CHUNK_BYTES))
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(SendError::Local)?;
        let head = ChunkHead {
            snapshot_crc: stored.crc(),
            offset,
            crc: crc32c::crc32c(&chunk),
        };
        let answer = transport
            .call(
                Lane::Snapshot,
                target,
                "/raft/snapshot/chunk",
                |out| {
                    wire::put(out, &head);
                    out.extend_from_slice(&chunk);
                },
                chunk.len() + 32,
                deadline,
            )
            .await?;
        progress =
            wire::decode("the answer to a chunk", &answer).map_err(|e| broken(e.to_string()))?;
    }
    let patience = Duration::from_millis(transport.timing.snapshot_install_ms);
    let answer = transport
        .call(
            Lane::Snapshot,
            target,
            "/raft/snapshot/install",
            |out| wire::put(out, &announcement()),
            256,
            patience,
        )
        .await?;
    let theirs: VoteV1 = wire::decode("the answer to an installation", &answer)
        .map_err(|e| broken(e.to_string()))?;
    tracing::info!(peer = target.id, index, "the snapshot is installed there");
    Ok(theirs.into())
}

async fn ask(
    transport: &Arc<Transport>,
    target: &Target,
    path: &str,
    announcement: &Announcement,
    deadline: Duration,
) -> Result<Progress, SendError> {
    let answer = transport
        .call(
            Lane::Snapshot,
            target,
            path,
            |out| wire::put(out, announcement),
            256,
            deadline,
        )
        .await?;
    wire::decode("the answer to a snapshot", &answer).map_err(|e| {
        SendError::Call(CallError::Broken {
            id: target.id,
            addr: target.addr.clone(),
            why: e.to_string(),
        })
    })
}
