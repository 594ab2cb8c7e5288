//! Handlers of snapshots from the leader: announced, received in chunks, then read, checked and installed.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;

use crate::network::snapshot_transfer::{Announcement, ChunkHead, TransferProgress};
use crate::node::peer_server::{PeerResult, PeerService, Postcard, ServiceState};
use crate::protocol::entry_format::DecodeError;
use crate::protocol::messages;
use crate::protocol::messages::{Envelope, Refusal, VoteV1};
use crate::state_machine::StateMachine;
use crate::storage::snapshot_store::IncomingSnapshot;
use crate::types::{Snapshot, Vote};

/// Returns the routes of snapshots. Admission has checked the sender, and has received the message.
pub(super) fn routes<S: StateMachine>() -> Router<Arc<PeerService<S>>> {
    Router::new()
        .route("/raft/snapshot/announce", post(announce::<S>))
        .route("/raft/snapshot/chunk", post(chunk::<S>))
        .route("/raft/snapshot/install", post(install::<S>))
}

async fn announce<S: StateMachine>(
    State(service): ServiceState<S>,
    Extension(envelope): Extension<Envelope>,
    message: Bytes,
) -> PeerResult<Postcard<TransferProgress>> {
    let body: Announcement = messages::decode("a snapshot", &message)?;
    service.check_term(body.vote.term())?;
    if let Some(mine) = service.higher_vote(&body.vote.into()) {
        return Ok(Postcard(TransferProgress::Deposed {
            vote: (&mine).into(),
        }));
    }
    let vote = Vote::from(body.vote);
    let announced = body.announced(&envelope)?;
    service.contradictions.check_running()?;
    let conflict = service
        .contradictions
        .conflict_with_snapshot(&announced.meta, None);
    service
        .refuse_contradiction(envelope.from, &vote, conflict)
        .await?;
    if service.has_applied(&announced.meta) {
        return Ok(Postcard(TransferProgress::At {
            offset: announced.file_bytes,
        }));
    }
    let mut slot = service.incoming.lock().await;
    if let Some(known) = slot
        .as_ref()
        .filter(|known| *known.announced() == announced)
    {
        return Ok(Postcard(TransferProgress::At {
            offset: known.received(),
        }));
    }
    if !service.snapshots.has_space_for(announced.file_bytes) {
        return Err(Refusal::DiskLow);
    }
    *slot = None;
    let fresh = service.snapshots.receive(announced).map_err(disk_refusal)?;
    let offset = slot.insert(fresh).received();
    Ok(Postcard(TransferProgress::At { offset }))
}

async fn chunk<S: StateMachine>(
    State(service): ServiceState<S>,
    Extension(envelope): Extension<Envelope>,
    message: Bytes,
) -> PeerResult<Postcard<TransferProgress>> {
    let (head, rest) = postcard::take_from_bytes::<ChunkHead>(&message)
        .map_err(|e| DecodeError::new("a chunk of a snapshot", e.to_string()))?;
    let contents = message.slice(message.len() - rest.len()..);
    if crc32c::crc32c(&contents) != head.crc {
        return Err(Refusal::Malformed(
            "a chunk of a snapshot was damaged in transit".into(),
        ));
    }
    if !service.snapshots.has_space_for(contents.len() as u64) {
        return Err(Refusal::DiskLow);
    }
    let mut slot = service.incoming.lock().await;
    let from_here = |incoming: &mut IncomingSnapshot| {
        let announced = incoming.announced();
        announced.sender == envelope.from_incarnation && announced.sequence == head.sequence
    };
    let Some(mut incoming) = slot.take_if(from_here) else {
        return Ok(Postcard(TransferProgress::Unannounced));
    };
    if incoming.received() != head.offset {
        let offset = slot.insert(incoming).received();
        return Ok(Postcard(TransferProgress::At { offset }));
    }
    // After a failed write the received part is discarded. The sender announces the snapshot again and starts over.
    let written = tokio::task::spawn_blocking(move || {
        incoming.write_at(head.offset, &contents).map(|()| incoming)
    });
    let incoming = joined(written.await)?.map_err(disk_refusal)?;
    let offset = slot.insert(incoming).received();
    Ok(Postcard(TransferProgress::At { offset }))
}

async fn install<S: StateMachine>(
    State(service): ServiceState<S>,
    Extension(envelope): Extension<Envelope>,
    message: Bytes,
) -> PeerResult<Postcard<VoteV1>> {
    let body: Announcement = messages::decode("the installation of a snapshot", &message)?;
    service.check_term(body.vote.term())?;
    let vote = Vote::from(body.vote);
    if let Some(mine) = service.higher_vote(&vote) {
        return Ok(Postcard((&mine).into()));
    }
    let announced = body.announced(&envelope)?;
    if service.has_applied(&announced.meta) {
        return Ok(Postcard((&vote).into()));
    }
    let complete = |incoming: &mut IncomingSnapshot| {
        *incoming.announced() == announced && incoming.is_complete()
    };
    let Some(incoming) = service.incoming.lock().await.take_if(complete) else {
        return Err(Refusal::Rule("it does not have that snapshot".into()));
    };
    // Openraft removes what contradicts the snapshot from the log, so the snapshot must be known to be readable before.
    let levels = Arc::clone(&service.levels);
    let stored = tokio::task::spawn_blocking(move || incoming.into_stored(&levels, S::load));
    let stored = joined(stored.await)?.map_err(unreadable_snapshot)?;
    let conflict = service
        .contradictions
        .conflict_with_snapshot(&announced.meta, stored.history());
    service
        .refuse_contradiction(envelope.from, &vote, conflict)
        .await?;
    let snapshot = Snapshot {
        meta: announced.meta,
        snapshot: stored,
    };
    let response = service.raft.install_full_snapshot(vote, snapshot).await?;
    Ok(Postcard((&response.vote).into()))
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> PeerResult<T> {
    result.map_err(|panic| Refusal::Stopping(panic.to_string()))
}

/// Maps an error of a received snapshot to a refusal: malformed, unless the disk failed.
fn unreadable_snapshot(e: std::io::Error) -> Refusal {
    match e.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
            Refusal::Malformed(format!("a snapshot: {e}"))
        }
        _ => disk_refusal(e),
    }
}

/// Maps a disk error during the receipt of a snapshot to a refusal. No node relies on a snapshot before it is
/// installed, so this node continues and the sender retries.
fn disk_refusal(e: std::io::Error) -> Refusal {
    Refusal::Rule(format!("it cannot store the snapshot: {e}"))
}
