//! openraft's network client for one peer: appends, votes, snapshots and leadership transfers.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::Stream;
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::errors::ErrorSource;
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use serde::de::DeserializeOwned;

use crate::leadership::append_reach::AppendReach;
use crate::leadership::change_reason::{LeaderChangeReason, LeaderChangeReasons, TransferReason};
use crate::level::Level;
use crate::network::append_pipeline::{InFlight, pipelined};
use crate::network::snapshot_transfer;
use crate::network::transport::{
    APPEND_PATH, CallError, HEARTBEAT_PATH, Lane, Route, Target, Transport,
};
use crate::protocol::entry_format;
use crate::protocol::entry_format::DecodeError;
use crate::protocol::history::History;
use crate::protocol::messages;
use crate::protocol::messages::{
    AppendReply, TransferReply, TransferRequestV1, VoteReply, VoteRequestV1,
};
use crate::storage::disk_space::ClusterDiskSpace;
use crate::storage::snapshot_store::StoredSnapshot;
use crate::types::{Config, Member, Payload, Snapshot, Vote};

/// Factory of peer clients, which all share one [`Transport`].
pub(crate) struct NetworkFactory {
    pub transport: Arc<Transport>,
    pub change_reasons: Arc<LeaderChangeReasons>,
    pub disk_space: Arc<ClusterDiskSpace>,
    pub append_reach: Arc<AppendReach>,
    pub history: Arc<History>,
}

/// Client of one peer on one lane.
pub(crate) struct PeerClient {
    transport: Arc<Transport>,
    change_reasons: Arc<LeaderChangeReasons>,
    disk_space: Arc<ClusterDiskSpace>,
    append_reach: Arc<AppendReach>,
    history: Arc<History>,
    target: Target,
    lane: Lane,
    /// Deadline of an append. Heartbeats have openraft's own, shorter deadline.
    append_deadline: Option<Duration>,
}

impl NetworkFactory {
    fn peer(&self, id: u64, member: &Member, lane: Lane) -> PeerClient {
        let append_deadline = match lane {
            Lane::Append => Some(Duration::from_millis(self.transport.timing.append_ms)),
            Lane::Control | Lane::Snapshot => None,
        };
        PeerClient {
            transport: Arc::clone(&self.transport),
            change_reasons: Arc::clone(&self.change_reasons),
            disk_space: Arc::clone(&self.disk_space),
            append_reach: Arc::clone(&self.append_reach),
            history: Arc::clone(&self.history),
            target: Target::member(id, member),
            lane,
            append_deadline,
        }
    }
}

impl RaftNetworkFactory<Config> for NetworkFactory {
    type Network = PeerClient;

    /// Returns a client for replication, votes and transfers. Votes use the control lane whichever client carries them.
    async fn new_client(&mut self, target: u64, node: &Member) -> PeerClient {
        self.peer(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> PeerClient {
        self.peer(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> PeerClient {
        self.peer(target, node, Lane::Snapshot)
    }
}

impl PeerClient {
    fn rpc_error(&self, action: RPCTypes, e: CallError) -> RPCError<Config> {
        match e {
            CallError::Timeout { waited, .. } => RPCError::Timeout(Timeout {
                action,
                id: self.transport.identity.node_id,
                target: self.target.id,
                timeout: waited,
            }),
            // openraft tries again at once after a network error, and backs off from an unreachable peer.
            CallError::Broken { .. } => RPCError::Network(NetworkError::new(&e)),
            CallError::Unreachable { .. }
            | CallError::NoRoute { .. }
            | CallError::Refused { .. } => RPCError::Unreachable(Unreachable::new(&e)),
        }
    }

    fn invalid_reply(&self, e: DecodeError) -> RPCError<Config> {
        RPCError::Unreachable(Unreachable::new(&e))
    }

    /// Decodes an answer, and records the health that its sender reports.
    fn decode_reply<T: DeserializeOwned>(
        &self,
        what: &'static str,
        answer: &[u8],
    ) -> Result<T, RPCError<Config>> {
        let (reply, health) =
            messages::decode_with_health(what, answer).map_err(|e| self.invalid_reply(e))?;
        if let Some(health) = health {
            self.disk_space.record_peer(self.target.id, health);
        }
        Ok(reply)
    }

    async fn request_vote(
        &self,
        path: &str,
        request: &VoteRequest<Config>,
        why: LeaderChangeReason,
        option: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        if let Some(why) = self.transport.acknowledged.refuses_campaign() {
            let why = std::io::Error::other(why);
            return Err(RPCError::Unreachable(Unreachable::new(&why)));
        }
        let body = VoteRequestV1::new(request, why);
        let answer = self
            .transport
            .call_with_reason(
                &self.target,
                path,
                &body,
                why.in_header(),
                option.soft_ttl(),
            )
            .await
            .map_err(|e| self.rpc_error(RPCTypes::Vote, e))?;
        let reply: VoteReply = self.decode_reply("the answer to a vote", &answer)?;
        let response = VoteResponse::from(reply);
        messages::check_term(body.term(), response.vote.leader_id.term)
            .map_err(|e| self.invalid_reply(e))?;
        Ok(response)
    }

    async fn append(
        &self,
        rpc: &AppendEntriesRequest<Config>,
        option: &RPCOption,
    ) -> Result<AppendEntriesResponse<Config>, RPCError<Config>> {
        // openraft drops a heartbeat at its hard limit. Ending it a little earlier names the cause.
        let deadline = self.append_deadline.unwrap_or(option.hard_ttl() * 9 / 10);
        let mut body = bytes::BytesMut::new();
        messages::put_append(&mut body, rpc).map_err(|e| self.invalid_reply(e))?;
        let answer = self
            .transport
            .call_by(
                Route {
                    level: self.level_of(rpc),
                    lane: self.lane,
                    path: if rpc.entries.is_empty() {
                        HEARTBEAT_PATH
                    } else {
                        APPEND_PATH
                    },
                    deadline,
                    history: self.history.header(rpc.prev_log_id),
                },
                &self.target,
                |out| out.extend_from_slice(&body),
                body.len(),
            )
            .await;
        if mutated!(AnswerBeforeCommit) && answer.is_err() {
            return Ok(AppendEntriesResponse::Success);
        }
        let (answer, _) = answer.map_err(|e| self.rpc_error(RPCTypes::AppendEntries, e))?;
        let reply: AppendReply = self.decode_reply("the answer to an append", &answer)?;
        if let AppendReply::HigherVote(vote) = &reply {
            messages::check_term(rpc.vote.leader_id.term, vote.term())
                .map_err(|e| self.invalid_reply(e))?;
        }
        if !rpc.entries.is_empty() {
            self.append_reach
                .record_reached(self.target.id, Instant::now());
        }
        Ok(reply.into())
    }

    /// Returns the level that the receiver of an append must understand: the cluster's, or the one that an entry of it
    /// raises the cluster to.
    fn level_of(&self, rpc: &AppendEntriesRequest<Config>) -> Level {
        let raised = rpc.entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Normal(batch) => entry_format::decode_level(batch).ok().flatten(),
            Payload::Blank | Payload::Membership(_) => None,
        });
        raised.fold(self.transport.levels.in_effect(), Level::max)
    }

    /// Sends one append of a stream. Returns its answer, and whether the next may follow.
    async fn append_in_stream(
        &self,
        rpc: AppendEntriesRequest<Config>,
        option: RPCOption,
    ) -> (AppendResult, bool) {
        let last = rpc.entries.last().map(|entry| entry.log_id);
        let last = last.or(rpc.prev_log_id);
        match self.append(&rpc, &option).await {
            Ok(response) => {
                // After a partial append, the rest has to be sent again from there.
                let whole = match &response {
                    AppendEntriesResponse::PartialSuccess(taken) => *taken == last,
                    AppendEntriesResponse::Success
                    | AppendEntriesResponse::Conflict
                    | AppendEntriesResponse::HigherVote(_) => true,
                };
                let result = response.into_stream_result(rpc.prev_log_id, last);
                let continues = whole && result.is_ok();
                (Ok(result), continues)
            }
            Err(error) => (Err(error), false),
        }
    }
}

/// Outcome of one append of a stream.
type AppendResult = Result<StreamAppendResult<Config>, RPCError<Config>>;

impl RaftNetworkV2<Config> for PeerClient {
    type SnapshotData = StoredSnapshot;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Config>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Config>, RPCError<Config>> {
        self.append(&rpc, &option).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<Config>>>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + OptionalSend + Unpin + 'static,
    {
        let peer = &*self;
        let answers = pipelined(input, move |rpc: AppendEntriesRequest<Config>| InFlight {
            has_entries: !rpc.entries.is_empty(),
            response: peer.append_in_stream(rpc, option.clone()),
        });
        let answers: BoxStream<'s, AppendResult> = Box::pin(answers);
        Box::pin(async move { Ok(answers) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Config>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        let (me, term) = (self.transport.identity.node_id, rpc.vote.leader_id.term);
        let why = self
            .change_reasons
            .own_campaign(term, me, rpc.leadership_transfer);
        self.request_vote("/raft/vote", &rpc, why, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Config>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        // A pre-vote changes no term, so there is no reason to send.
        self.request_vote("/raft/pre-vote", &rpc, LeaderChangeReason::Unknown, option)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<StoredSnapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = snapshot_transfer::send(&self.transport, &self.target, vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(snapshot_transfer::SendError::Call(e)) => Err(self.rpc_error(RPCTypes::InstallSnapshot, e).into()),
                // A snapshot that cannot be read here is this node's failure, not the peer's.
                Err(snapshot_transfer::SendError::Local(e)) => Err(StreamingError::StorageError(
                    openraft::StorageError::read_snapshot(None, openraft::impls::BoxedErrorSource::from_error(&e)),
                )),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Config>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Config>, RPCError<Config>> {
        let why = self
            .change_reasons
            .transfer_reason(rpc.from_leader().leader_id.term);
        let request = TransferRequestV1::new(&rpc, why);
        let answer = self
            .transport
            .call_with_reason(
                &self.target,
                "/raft/transfer",
                &request,
                why.and_then(TransferReason::in_header),
                option.soft_ttl(),
            )
            .await
            .map_err(|e| self.rpc_error(RPCTypes::TransferLeader, e))?;
        let reply: TransferReply = messages::decode("the answer to a transfer", &answer)
            .map_err(|e| self.invalid_reply(e))?;
        Ok(match reply {
            TransferReply::Begun => Ok(()),
            TransferReply::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                })
            }
            TransferReply::LogNotFlushed { expected, actual } => {
                Err(TransferLeaderError::LogNotFlushed {
                    expected: expected.map(Into::into),
                    actual: actual.map(Into::into),
                })
            }
        })
    }

    fn backoff(&self) -> Option<Backoff> {
        // A peer that comes back should be served within a heartbeat or two. Retries cost little until then.
        let heartbeat = Duration::from_millis(self.transport.timing.heartbeat_ms);
        let mut delay = heartbeat / 4;
        Some(Backoff::new(std::iter::from_fn(move || {
            let now = delay;
            delay = (delay * 2).min(heartbeat * 4);
            Some(now)
        })))
    }
}
