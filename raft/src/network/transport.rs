//! HTTP transport to peers: a lane of connections for each kind of traffic, deadlines, and errors of calls.
//!
//! Each lane has connections of its own, so that a heartbeat never waits behind an append, nor an append behind a
//! snapshot. Idle connections are closed quickly, because a connection to a peer that has restarted is of no use. The
//! append probe uses the append lane more often than that, so each peer has a warm connection for entries. A call that
//! reaches its deadline closes its connection, so a hung peer occupies no resources of this node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use crate::config::Timing;
use crate::error::StartError;
use crate::leadership::change_reason::CHANGE_REASON_HEADER;
use crate::level::{Level, NodeVersion};
use crate::node_address::NodeAddress;
use crate::protocol::acknowledged::{ACKNOWLEDGED_HEADER, Acknowledged};
use crate::protocol::history::HISTORY_HEADER;
use crate::protocol::identity::Identity;
use crate::protocol::levels::{self, Levels, VERSION_HEADER};
use crate::protocol::messages;
use crate::protocol::messages::Refusal;
use crate::protocol::printable::printable;
use crate::protocol::sessions::{DUPLICATE, REFUSED_HEADER, SESSION_HEADER, Sessions};
use crate::removal::RemovalSignal;
use crate::status::SnapshotTransfer;
use crate::types::Member;

/// Lane of connections that a call uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Heartbeats, votes and bootstrap: small messages whose delay causes an election.
    Control,
    /// Log entries.
    Append,
    /// Snapshots.
    Snapshot,
}

/// Way of a message to its receiver.
#[derive(Debug, Clone)]
pub(crate) struct Route<'a> {
    /// Level that the receiver must understand to handle the message.
    pub level: Level,
    pub lane: Lane,
    pub path: &'a str,
    pub deadline: Duration,
    /// Checksums of the entry that the message continues.
    pub history: Option<HeaderValue>,
}

/// Address of a call, and the node that is expected there.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub id: u64,
    pub addr: String,
    /// The nil UUID while the incarnation is not known.
    pub incarnation: Uuid,
}

impl Target {
    /// Returns the target for a member of the cluster.
    pub(crate) fn member(id: u64, member: &Member) -> Self {
        Target {
            id,
            addr: member.addr.clone(),
            incarnation: member.incarnation,
        }
    }

    /// Returns the URL of a path on the target.
    fn url(&self, path: &str) -> Result<String, CallError> {
        match self.addr.parse::<NodeAddress>() {
            Ok(addr) => Ok(format!("http://{addr}{path}")),
            // A membership from before addresses were checked may hold anything.
            Err(e) => Err(CallError::Unreachable {
                id: self.id,
                addr: printable(&self.addr),
                why: e.to_string(),
            }),
        }
    }
}

/// Reason why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// No process listens at the address, or it cannot be reached.
    #[error("node {id} at {addr} cannot be reached: {why}")]
    Unreachable { id: u64, addr: String, why: String },
    /// The connection broke, or the answer cannot be decoded. The message may have been handled.
    #[error("the call to node {id} at {addr} broke: {why}")]
    Broken { id: u64, addr: String, why: String },
    /// The answer did not arrive in time. The message may have been handled.
    #[error("node {id} at {addr} did not answer within {} ms", waited.as_millis())]
    Timeout {
        id: u64,
        addr: String,
        waited: Duration,
    },
    /// The peer runs an older version, which does not know the message.
    #[error("node {id} at {addr} does not know this message: it runs an older version")]
    NoRoute { id: u64, addr: String },
    /// The peer refused the message.
    #[error("node {id} at {addr} refuses: {refusal}")]
    Refused {
        id: u64,
        addr: String,
        refusal: Refusal,
    },
}

/// HTTP clients of this node for calls to all of its peers. Shared by the network clients of the peers.
#[derive(Debug)]
pub(crate) struct Transport {
    pub identity: Arc<Identity>,
    pub levels: Arc<Levels>,
    pub sessions: Sessions,
    pub acknowledged: Arc<Acknowledged>,
    pub timing: Timing,
    removal: RemovalSignal,
    control: reqwest::Client,
    append: reqwest::Client,
    snapshot: reqwest::Client,
    /// Client of the failure detector. Never times out, never pooled.
    liveness: reqwest::Client,
    /// Last refusal of each peer that was logged, so that each is logged once.
    refusals: Mutex<HashMap<u64, Refusal>>,
    /// Snapshot transfers in progress, by receiver.
    transfers: Mutex<BTreeMap<u64, SnapshotTransfer>>,
}

impl Transport {
    pub(crate) fn new(
        identity: Arc<Identity>,
        levels: Arc<Levels>,
        acknowledged: Arc<Acknowledged>,
        timing: Timing,
        removal: RemovalSignal,
    ) -> Result<Self, StartError> {
        let announcement = levels
            .announcement()
            .map(|announcement| (VERSION_HEADER, announcement));
        let announcements = HeaderMap::from_iter(announcement);
        let builder = || {
            reqwest::Client::builder()
                .no_proxy()
                .default_headers(announcements.clone())
                .redirect(reqwest::redirect::Policy::none())
                .tcp_nodelay(true)
                .connect_timeout(Duration::from_millis(timing.connect_ms))
                .pool_idle_timeout(Duration::from_millis(timing.election_max_ms * 3))
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|e| {
                StartError::Config(format!("cannot set up HTTP to the other nodes: {e}"))
            })
        };
        Ok(Transport {
            control: build(builder())?,
            append: build(builder())?,
            snapshot: build(builder())?,
            liveness: build(
                builder()
                    .pool_max_idle_per_host(0)
                    .tcp_keepalive(Duration::from_secs(5)),
            )?,
            identity,
            levels,
            sessions: Sessions::new(),
            acknowledged,
            timing,
            removal,
            refusals: Mutex::default(),
            transfers: Mutex::default(),
        })
    }

    fn client(&self, lane: Lane) -> &reqwest::Client {
        match lane {
            Lane::Control => &self.control,
            Lane::Append => &self.append,
            Lane::Snapshot => &self.snapshot,
        }
    }

    /// Frames and posts one message of the cluster's level, and returns the body of the answer.
    pub(crate) async fn call(
        &self,
        lane: Lane,
        target: &Target,
        path: &str,
        body: impl FnOnce(&mut bytes::BytesMut),
        body_bytes: usize,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let route = Route {
            level: self.levels.in_effect(),
            lane,
            path,
            deadline,
            history: None,
        };
        let called = self.call_by(route, target, body, body_bytes);
        called.await.map(|(answer, _)| answer)
    }

    /// Frames and posts one message. Returns the body of the answer, and the version that its sender announces.
    pub(crate) async fn call_by(
        &self,
        route: Route<'_>,
        target: &Target,
        body: impl FnOnce(&mut bytes::BytesMut),
        body_bytes: usize,
    ) -> Result<(Bytes, NodeVersion), CallError> {
        let Route {
            level,
            lane,
            path,
            deadline,
            history,
        } = route;
        let mut message = messages::frame(
            level,
            &self.identity.envelope(target.id, target.incarnation),
            body_bytes,
        );
        body(&mut message);
        let mut request = self.client(lane).post(target.url(path)?);
        if let Some(history) = history {
            request = request.header(HISTORY_HEADER, history);
        }
        self.send(target, request.body(message.freeze()), deadline)
            .await
    }

    /// Posts one message on the control lane, with the reason of a leader change in a header where the body cannot carry
    /// it.
    pub(crate) async fn call_with_reason<T: Serialize>(
        &self,
        target: &Target,
        path: &str,
        body: &T,
        reason: Option<&'static str>,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let envelope = self.identity.envelope(target.id, target.incarnation);
        let mut message = messages::frame(self.levels.in_effect(), &envelope, 64);
        messages::put(&mut message, body);
        let mut request = self.control.post(target.url(path)?);
        if let Some(reason) = reason {
            request = request.header(CHANGE_REASON_HEADER, reason);
        }
        let sent = self.send(target, request.body(message.freeze()), deadline);
        sent.await.map(|(answer, _)| answer)
    }

    async fn send(
        &self,
        target: &Target,
        request: reqwest::RequestBuilder,
        deadline: Duration,
    ) -> Result<(Bytes, NodeVersion), CallError> {
        let mut request = request.header(SESSION_HEADER, self.sessions.own());
        let known = self.acknowledged.acknowledged_by(target.id);
        if let Some(acknowledged) = self.acknowledged.header() {
            request = request.header(ACKNOWLEDGED_HEADER, acknowledged);
        }
        let sent = request.timeout(deadline).send().await;
        let response = sent.map_err(|e| failed(target, &e, deadline))?;
        let status = response.status();
        self.read_headers(target, status.is_success(), response.headers());
        // Only a node that has found the message to be for it adds these headers.
        if !target.incarnation.is_nil() {
            self.acknowledged
                .record_answer(target.id, known, response.headers());
        }
        let version = levels::announced(response.headers());
        let answer = response
            .bytes()
            .await
            .map_err(|e| failed(target, &e, deadline))?;
        if status.is_success() {
            self.levels.record_peer(target.id, &version);
            self.refusals.lock().remove(&target.id);
            return Ok((answer, version));
        }
        let (id, addr) = (target.id, target.addr.clone());
        if status == reqwest::StatusCode::CONFLICT
            && let Ok(refusal) = messages::decode::<Refusal>("a refusal", &answer)
        {
            self.levels.record_peer(target.id, &version);
            let refusal = refusal.printable();
            self.log_refusal(target, &refusal);
            return Err(CallError::Refused { id, addr, refusal });
        }
        if status == reqwest::StatusCode::NOT_FOUND {
            return Err(CallError::NoRoute { id, addr });
        }
        Err(CallError::Broken {
            id,
            addr,
            why: format!("status {status}"),
        })
    }

    /// Reads what the headers of an answer say about this process and the other one.
    fn read_headers(&self, target: &Target, accepted: bool, headers: &HeaderMap) {
        if accepted {
            self.sessions.record_acceptance(target.id);
            // Without an incarnation, the answer may be that of another data directory.
            if !target.incarnation.is_nil() {
                self.sessions.record_answer(target.id, headers);
            }
        } else if headers
            .get(REFUSED_HEADER)
            .is_some_and(|why| why == DUPLICATE)
        {
            self.sessions.record_refusal(target.id);
        }
        let removed_at = headers
            .get(REMOVED_HEADER)
            .and_then(|index| index.to_str().ok()?.parse().ok());
        if let Some(index) = removed_at
            && self.identity.cluster().is_some()
        {
            self.removal.set(index);
        }
    }

    fn log_refusal(&self, target: &Target, refusal: &Refusal) {
        // A peer that is not in the cluster yet is expected; low disks are logged by the disk pressure task.
        let expected = matches!(refusal, Refusal::NotFormed | Refusal::DiskLow);
        let changed = self
            .refusals
            .lock()
            .insert(target.id, refusal.clone())
            .as_ref()
            != Some(refusal);
        if changed && !expected {
            tracing::warn!(peer = target.id, addr = %target.addr, "the other node refuses this node's messages: {refusal}");
        }
    }

    /// Returns the snapshot transfers in progress, by receiver.
    pub(crate) fn transfers(&self) -> BTreeMap<u64, SnapshotTransfer> {
        self.transfers.lock().clone()
    }

    pub(crate) fn set_transfer(&self, to: u64, transfer: Option<SnapshotTransfer>) {
        let mut transfers = self.transfers.lock();
        match transfer {
            Some(transfer) => transfers.insert(to, transfer),
            None => transfers.remove(&to),
        };
    }

    /// Opens a connection that ends when the peer's process does, for the failure detector.
    pub(crate) async fn open_liveness_connection(
        &self,
        target: &Target,
    ) -> Result<reqwest::Response, CallError> {
        let deadline = Duration::from_millis(self.timing.connect_ms);
        let level = self.levels.in_effect();
        let envelope = self.identity.envelope(target.id, target.incarnation);
        let message = messages::frame(level, &envelope, 0).freeze();
        let request = self
            .liveness
            .post(target.url(LIVENESS_PATH)?)
            .header(SESSION_HEADER, self.sessions.own())
            .body(message)
            .send();
        let (id, addr) = (target.id, target.addr.clone());
        match tokio::time::timeout(deadline * 2, request).await {
            Err(_) => Err(CallError::Timeout {
                id,
                addr,
                waited: deadline * 2,
            }),
            Ok(Err(e)) => Err(failed(target, &e, deadline)),
            Ok(Ok(response)) if response.status().is_success() => Ok(response),
            Ok(Ok(response)) => Err(CallError::Broken {
                id,
                addr,
                why: format!("status {}", response.status()),
            }),
        }
    }
}

/// Header of an answer to a removed node: index of the log entry by which it was removed, or of a later one.
pub(crate) const REMOVED_HEADER: HeaderName = HeaderName::from_static("triarch-removed-at");
pub(crate) const LIVENESS_PATH: &str = "/raft/watch";
pub(crate) const APPEND_PATH: &str = "/raft/append";
pub(crate) const HEARTBEAT_PATH: &str = "/raft/heartbeat";
pub(crate) const CLOCK_PATH: &str = "/raft/clock";

fn failed(target: &Target, e: &reqwest::Error, waited: Duration) -> CallError {
    let (id, addr) = (target.id, target.addr.clone());
    // reqwest's own text repeats the URL and hides the cause. The innermost cause is the one that an operator needs.
    let mut cause: &dyn std::error::Error = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let why = cause.to_string();
    if e.is_connect() {
        CallError::Unreachable { id, addr, why }
    } else if e.is_timeout() {
        CallError::Timeout { id, addr, waited }
    } else {
        CallError::Broken { id, addr, why }
    }
}
