//! Server for peers: the handlers of all routes under `/raft/`.
//!
//! [`peer_admission`] has checked sender and receiver of every message before. Nothing of a message is kept before all of
//! it is decoded and within bounds. Answers are postcard with status 200, or a [`Refusal`] with status 409.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use openraft::LogIdOptionExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, VoteResponse,
};
use serde::Serialize;
use tokio::sync::watch;
use triarch_storage::SpaceLevel;

use crate::apply::applier::{Raft, membership};
use crate::leadership::change_reason::{
    CHANGE_REASON_HEADER, LeaderChangeReason, LeaderChangeReasons, TransferReason,
};
use crate::leadership::role::LeaderContact;
use crate::membership::bootstrap::{Adopt, Bootstrapper, Form};
use crate::membership::hello::{HELLO_PATH, Hello, HelloReply};
use crate::network::transport::{APPEND_PATH, CLOCK_PATH, HEARTBEAT_PATH, LIVENESS_PATH};
use crate::node::contradiction_check::ContradictionCheck;
use crate::node::peer_admission;
use crate::node::peer_admission::PeerAdmission;
use crate::proposals::read_index::ReadBarrier;
use crate::protocol::entry_format;
use crate::protocol::entry_format::{DecodeError, STAMP_MS_MAX};
use crate::protocol::history::Conflict;
use crate::protocol::levels::Levels;
use crate::protocol::messages;
use crate::protocol::messages::{
    AppendReply, Envelope, NodeHealth, Refusal, TransferReply, TransferRequestV1, VoteReply,
    VoteRequestV1,
};
use crate::state_machine::StateMachine;
use crate::storage::disk_space::ClusterDiskSpace;
use crate::storage::snapshot_store::{IncomingSnapshot, Snapshots};
use crate::tasks::append_probe::AppendProber;
use crate::tasks::clock_sync::ClockReply;
use crate::tasks::divergence_check::{DigestHistory, DigestReply, DigestRequest};
use crate::types::{Config, Entry, LogId, Payload, SnapshotMeta, Vote};

/// State of the handlers.
pub(crate) struct PeerService<S: StateMachine> {
    pub admission: Arc<PeerAdmission<S>>,
    pub levels: Arc<Levels>,
    pub contradictions: Arc<ContradictionCheck>,
    pub raft: Raft<S>,
    pub bootstrapper: Arc<Bootstrapper<S>>,
    pub leader_contact: Arc<LeaderContact>,
    pub change_reasons: Arc<LeaderChangeReasons>,
    pub disk_space: Arc<ClusterDiskSpace>,
    pub snapshots: Snapshots,
    pub digest_history: Arc<DigestHistory>,
    pub read_barrier: Arc<ReadBarrier>,
    pub prober: AppendProber<S>,
    /// Last position that this process has acknowledged from its disk, and the vote of the leader it did so to.
    pub acknowledged: parking_lot::Mutex<Option<(Vote, Option<LogId>)>>,
    /// Time that the disk has before a heartbeat is answered without it.
    pub heartbeat_patience: Duration,
    /// Snapshot that is being received, if any. The announcement of another snapshot replaces it.
    pub incoming: tokio::sync::Mutex<Option<IncomingSnapshot>>,
    /// Time from which this node may vote. See [`Node::start`](crate::Node::start).
    pub elections_from: Instant,
    pub stopping: watch::Receiver<bool>,
}

pub(super) type ServiceState<S> = State<Arc<PeerService<S>>>;
pub(super) type PeerResult<T> = Result<T, Refusal>;

/// Returns the routes for peers. `more` are further routes for members.
pub(crate) fn routes<S: StateMachine>(
    service: Arc<PeerService<S>>,
    more: Router<Arc<PeerService<S>>>,
) -> Router {
    let admission = || Arc::clone(&service.admission);
    let members = Router::new()
        .route(APPEND_PATH, post(append::<S>))
        .route(HEARTBEAT_PATH, post(append::<S>))
        .route("/raft/vote", post(vote::<S>))
        .route("/raft/pre-vote", post(pre_vote::<S>))
        .route("/raft/transfer", post(transfer::<S>))
        .route("/raft/digest", post(digest::<S>))
        .route(CLOCK_PATH, post(clock))
        .route(LIVENESS_PATH, post(hold_liveness::<S>))
        .merge(more)
        .route_layer(from_fn_with_state(
            admission(),
            peer_admission::of_members::<S>,
        ));
    let anyone = Router::new()
        .route(HELLO_PATH, post(hello::<S>))
        .route("/raft/form", post(form::<S>))
        .route("/raft/adopt", post(adopt::<S>))
        .route_layer(from_fn_with_state(
            admission(),
            peer_admission::of_anyone::<S>,
        ));
    members.merge(anyone).with_state(service)
}

impl From<DecodeError> for Refusal {
    fn from(e: DecodeError) -> Self {
        Refusal::Malformed(e.to_string())
    }
}

impl From<Fatal<Config>> for Refusal {
    fn from(e: Fatal<Config>) -> Self {
        Refusal::Stopping(e.to_string())
    }
}

impl From<RaftError<Config>> for Refusal {
    fn from(e: RaftError<Config>) -> Self {
        match e {
            RaftError::Fatal(e) => e.into(),
            RaftError::APIError(e) => match e {},
        }
    }
}

/// Answer in postcard.
pub(super) struct Postcard<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Postcard<T> {
    fn into_response(self) -> Response {
        let mut body = BytesMut::new();
        messages::put(&mut body, &self.0);
        body.freeze().into_response()
    }
}

/// Answer in postcard with the health of this node appended.
struct WithHealth<T>(T, NodeHealth);

impl<T: Serialize> IntoResponse for WithHealth<T> {
    fn into_response(self) -> Response {
        let mut body = BytesMut::new();
        messages::put(&mut body, &self.0);
        messages::put(&mut body, &self.1);
        body.freeze().into_response()
    }
}

impl<S: StateMachine> PeerService<S> {
    /// Refuses an absurd term. See [`messages::check_term`].
    pub(super) fn check_term(&self, theirs: u64) -> PeerResult<()> {
        let own = self.raft.metrics().borrow_watched().vote.leader_id.term;
        Ok(messages::check_term(own, theirs)?)
    }

    /// Refuses a message of the leader of `vote` if it contradicts this node's history. Consensus refuses a leader that is
    /// deposed, whatever it sends.
    pub(super) async fn refuse_contradiction(
        &self,
        from: u64,
        vote: &Vote,
        conflict: Option<Conflict>,
    ) -> PeerResult<()> {
        let Some(conflict) = conflict else {
            return Ok(());
        };
        let theirs = vote.leader_id.term;
        let own = self
            .raft
            .with_raft_state(|state| state.vote_ref().leader_id.term);
        if own.await? > theirs {
            return Ok(());
        }
        let sender = membership(&self.raft).get_node(&from).cloned();
        let refusal = self.contradictions.refusal(from, sender.as_ref(), conflict);
        Err(refusal.await)
    }

    /// Returns this node's vote, if it is above `theirs`.
    pub(super) fn higher_vote(&self, theirs: &Vote) -> Option<Vote> {
        let mine = self.raft.metrics().borrow_watched().vote;
        (mine.leader_id.term > theirs.leader_id.term).then_some(mine)
    }

    fn withheld_vote(&self, request: &VoteRequestV1) -> Option<VoteReply> {
        // The leader itself requests a transfer, so its lease need not be waited for.
        let may_vote = request.transfer || Instant::now() >= self.elections_from;
        let refused = self
            .admission
            .transport
            .acknowledged
            .refuses_vote(request.term(), request.last());
        if may_vote && !refused && self.disk_space.own().level != SpaceLevel::Full {
            return None;
        }
        let mine = self.raft.metrics().borrow_watched().vote;
        Some((&VoteResponse::new(mine, None, false)).into())
    }

    /// Refuses entries that this node could not apply. Once they are in the log, no restart could help.
    fn check_commands(&self, request: &AppendEntriesRequest<Config>) -> PeerResult<()> {
        if mutated!(UndecodableCommandAccepted) {
            return Ok(());
        }
        for entry in &request.entries {
            let Payload::Normal(batch) = &entry.payload else {
                continue;
            };
            let bad = |why: String| {
                let what = format!("entry {}: {why}", entry.log_id.index);
                Refusal::from(DecodeError::new("an append", what))
            };
            if let Some(level) = entry_format::decode_level(batch)? {
                self.levels
                    .check_understood("the level of the cluster", level)?;
                continue;
            }
            let decoded = entry_format::decode_commands(batch).map_err(|e| bad(e.to_string()))?;
            if decoded.commands.is_empty() {
                return Err(bad("it has no commands".into()));
            }
            if decoded.now_ms > STAMP_MS_MAX {
                return Err(bad("its stamp is after the year 9999".into()));
            }
            for command in &decoded.commands {
                S::check_command(command).map_err(|e| bad(e.to_string()))?;
            }
        }
        Ok(())
    }

    /// Refuses entries that this node's disk has no space for.
    ///
    /// Entries without commands are small: the first entry of a new leader, and membership changes. They are accepted
    /// until the disk is too full even for a vote, because a membership change may replace the node with the full disk.
    fn check_disk_space(&self, request: &AppendEntriesRequest<Config>) -> PeerResult<()> {
        let (held, vote) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.last_log_index, metrics.vote)
        };
        // A new leader does not know how much of the log this node has, and sends some entries again. Those need no
        // space.
        let is_new = |entry: &&Entry| Some(entry.log_id.index) > held;
        let mut commands_bytes = 0;
        for entry in request.entries.iter().filter(is_new) {
            match &entry.payload {
                Payload::Normal(batch) => commands_bytes += batch.encoded.len(),
                Payload::Blank | Payload::Membership(_) => {}
            }
        }
        if commands_bytes > 0 && !self.disk_space.accepts(commands_bytes) {
            return Err(Refusal::DiskLow);
        }
        let writes = || request.entries.iter().any(|entry| is_new(&entry)) || vote != request.vote;
        if self.disk_space.own().level == SpaceLevel::Full && writes() {
            return Err(Refusal::DiskLow);
        }
        Ok(())
    }

    /// Appends, or answers a heartbeat without waiting for the disk.
    ///
    /// openraft answers a heartbeat when everything before it is on disk. A leader would then lose its followers because
    /// their disks are slow, and the next leader would lose them too. A heartbeat asserts two things of this node: that
    /// it follows this vote now, and that the log up to the heartbeat's position is on its disk. The first is asked of
    /// openraft after it has handled the heartbeat. The second holds if this process has acknowledged that position, or a
    /// later one, in this vote.
    async fn append_or_heartbeat(
        &self,
        request: AppendEntriesRequest<Config>,
    ) -> PeerResult<AppendEntriesResponse<Config>> {
        let (vote, position) = (request.vote, request.prev_log_id);
        let last = request.entries.last().map(|entry| entry.log_id);
        let is_heartbeat = last.is_none();
        let mut appended = std::pin::pin!(self.raft.append_entries(request));
        if is_heartbeat && self.has_acknowledged(&vote, position) {
            let answered = tokio::time::timeout(self.heartbeat_patience, &mut appended).await;
            if let Ok(response) = answered {
                return Ok(response?);
            }
            let follows = self
                .raft
                .with_raft_state(move |state| *state.vote_ref() == vote);
            tokio::select! {
                biased;
                response = &mut appended => return Ok(response?),
                follows = follows => if follows? {
                    return Ok(AppendEntriesResponse::Success);
                },
            }
        }
        let response = appended.await?;
        if matches!(response, AppendEntriesResponse::Success) {
            self.record_acknowledged(vote, last.or(position));
        }
        Ok(response)
    }

    fn has_acknowledged(&self, vote: &Vote, position: Option<LogId>) -> bool {
        let acknowledged = self.acknowledged.lock();
        acknowledged
            .as_ref()
            .is_some_and(|(of, last)| of == vote && *last >= position)
    }

    /// Records that everything up to `position` is on disk, and was acknowledged to the leader of this vote.
    fn record_acknowledged(&self, vote: Vote, position: Option<LogId>) {
        let mut acknowledged = self.acknowledged.lock();
        match acknowledged.as_mut() {
            Some((of, last)) if *of == vote => *last = (*last).max(position),
            Some(_) | None => *acknowledged = Some((vote, position)),
        }
    }

    pub(super) fn has_applied(&self, meta: &SnapshotMeta) -> bool {
        self.raft.metrics().borrow_watched().last_applied >= meta.last_log_id
    }
}

async fn append<S: StateMachine>(
    State(service): ServiceState<S>,
    headers: HeaderMap,
    Extension(envelope): Extension<Envelope>,
    message: Bytes,
) -> PeerResult<WithHealth<AppendReply>> {
    let request = messages::open_append(message)?;
    if request.vote.leader_id.voted_for != envelope.from {
        return Err(Refusal::Malformed(
            "an append in the name of another node".into(),
        ));
    }
    service.check_term(request.vote.leader_id.term)?;
    service.check_disk_space(&request)?;
    service.check_commands(&request)?;
    service.contradictions.check_running()?;
    let conflict = service
        .contradictions
        .conflict_with_append(&request, &headers);
    service
        .refuse_contradiction(envelope.from, &request.vote, conflict)
        .await?;
    let commit_index = request.leader_commit.index().unwrap_or(0);
    let response = service.append_or_heartbeat(request).await?;
    if matches!(response, AppendEntriesResponse::Success) {
        service
            .admission
            .transport
            .acknowledged
            .record_leader(&headers);
    }
    if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
        service.leader_contact.record(commit_index);
    }
    Ok(WithHealth(response.into(), service.disk_space.health()))
}

/// Returns the reason of a leader change in the headers, where the body could not carry it.
fn reason_in(headers: &HeaderMap) -> Option<TransferReason> {
    let value = headers.get(CHANGE_REASON_HEADER)?;
    TransferReason::from_header(value.to_str().ok()?)
}

async fn vote<S: StateMachine>(
    State(service): ServiceState<S>,
    headers: HeaderMap,
    Extension(envelope): Extension<Envelope>,
    message: Bytes,
) -> PeerResult<WithHealth<VoteReply>> {
    let mut request: VoteRequestV1 = messages::decode("a vote", &message)?;
    if let Some(why) = reason_in(&headers) {
        request.why = LeaderChangeReason::Transferred(why);
    }
    let term = request.campaign_of(envelope.from)?;
    service.check_term(term)?;
    if let Some(withheld) = service.withheld_vote(&request) {
        return Ok(WithHealth(withheld, service.disk_space.health()));
    }
    service
        .change_reasons
        .record_campaign(term, envelope.from, request.why);
    let response = service.raft.vote(request.into()).await?;
    Ok(WithHealth((&response).into(), service.disk_space.health()))
}

async fn pre_vote<S: StateMachine>(
    State(service): ServiceState<S>,
    Extension(envelope): Extension<Envelope>,
    message: Bytes,
) -> PeerResult<WithHealth<VoteReply>> {
    let request: VoteRequestV1 = messages::decode("a pre-vote", &message)?;
    service.check_term(request.campaign_of(envelope.from)?)?;
    if let Some(withheld) = service.withheld_vote(&request) {
        return Ok(WithHealth(withheld, service.disk_space.health()));
    }
    let response = service.raft.pre_vote(request.into()).await?;
    Ok(WithHealth((&response).into(), service.disk_space.health()))
}

async fn transfer<S: StateMachine>(
    State(service): ServiceState<S>,
    headers: HeaderMap,
    Extension(envelope): Extension<Envelope>,
    message: Bytes,
) -> PeerResult<Postcard<TransferReply>> {
    let request: TransferRequestV1 = messages::decode("a transfer of leadership", &message)?;
    let term = request.term_of_leader(envelope.from)?;
    service.check_term(term)?;
    if let Some(why) = reason_in(&headers).or(request.why) {
        service
            .change_reasons
            .record_transfer(term, request.to, why);
    }
    let begun = service.raft.handle_transfer_leader(request.into()).await?;
    Ok(Postcard(match begun {
        Ok(()) => TransferReply::Begun,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => TransferReply::VoteChanged {
            expected: (&expected).into(),
            actual: (&actual).into(),
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            TransferReply::LogNotFlushed {
                expected: expected.map(Into::into),
                actual: actual.map(Into::into),
            }
        }
    }))
}

async fn digest<S: StateMachine>(
    State(service): ServiceState<S>,
    message: Bytes,
) -> PeerResult<Postcard<DigestReply>> {
    let request: DigestRequest = messages::decode("a question for a digest", &message)?;
    Ok(Postcard(service.digest_history.reply(&request)))
}

async fn clock() -> Postcard<ClockReply> {
    Postcard(ClockReply::now())
}

async fn hello<S: StateMachine>(
    State(service): ServiceState<S>,
    message: Bytes,
) -> PeerResult<Postcard<HelloReply>> {
    let _: Hello = messages::decode("a hello", &message)?;
    Ok(Postcard(service.bootstrapper.hello()))
}

async fn form<S: StateMachine>(
    State(service): ServiceState<S>,
    Extension(envelope): Extension<Envelope>,
    message: Bytes,
) -> PeerResult<()> {
    let form: Form = messages::decode("the founding of a cluster", &message)?;
    service.bootstrapper.form(form, &envelope).await
}

async fn adopt<S: StateMachine>(State(service): ServiceState<S>, message: Bytes) -> PeerResult<()> {
    let adopt: Adopt = messages::decode("an adoption", &message)?;
    service.bootstrapper.adopt(adopt).await
}

/// Sends a response that ends only when this process ends or the node stops, so that the peer notices that at once. See
/// [`crate::tasks::leader_failure_detector`].
async fn hold_liveness<S: StateMachine>(
    State(service): ServiceState<S>,
    Extension(envelope): Extension<Envelope>,
) -> Body {
    let mut stopping = service.stopping.clone();
    let replaced = service.admission.budgets.watch(envelope.from);
    let never = stream::once(async move {
        tokio::select! {
            // An error means that the node is gone, which also ends the answer.
            _ = stopping.wait_for(|stopping| *stopping) => {}
            _ = replaced => {}
        }
        Ok::<_, std::io::Error>(Bytes::new())
    });
    Body::from_stream(never)
}
