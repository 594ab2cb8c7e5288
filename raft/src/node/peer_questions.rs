//! Handlers of questions that nodes ask each other about their state. None of them changes anything here.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;

use crate::error::ReadError;
use crate::node::peer_server::{PeerResult, PeerService, Postcard, ServiceState};
use crate::protocol::messages::Refusal;
use crate::state_machine::StateMachine;
use crate::tasks::append_probe::{PROBE_PATH, ProbeReply};
use crate::tasks::readiness_monitor::{READ_INDEX_PATH, ReadIndexReply};

/// Returns the routes of the questions. Admission has checked the sender, and has received the message.
pub(super) fn routes<S: StateMachine>() -> Router<Arc<PeerService<S>>> {
    Router::new()
        .route(READ_INDEX_PATH, post(read_index::<S>))
        .route(PROBE_PATH, post(probe::<S>))
}

/// Confirms with a majority that this node leads, and answers with what it has applied then.
async fn read_index<S: StateMachine>(
    State(service): ServiceState<S>,
) -> PeerResult<Postcard<ReadIndexReply>> {
    let confirmed = service.read_barrier.wait().await;
    let commit_index = confirmed.map_err(|e| match e {
        ReadError::ShuttingDown | ReadError::StorageFailed(_) => Refusal::Stopping(e.to_string()),
        ReadError::NotLeader { .. } | ReadError::NoQuorum => Refusal::Rule(e.to_string()),
    })?;
    Ok(Postcard(ReadIndexReply { commit_index }))
}

/// Answers a probe, whatever its size, with the reach and the disk of this node.
async fn probe<S: StateMachine>(
    State(service): ServiceState<S>,
) -> PeerResult<Postcard<ProbeReply>> {
    Ok(Postcard(service.prober.report()))
}
