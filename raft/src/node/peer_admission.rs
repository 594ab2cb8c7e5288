//! Admission of messages from other nodes: middleware of all routes under `/raft/`.
//!
//! A message is refused before most of it is received. Its first bytes are the envelope, which names the sender. The
//! rest is received only if the sender is a member, within the memory budget of that member, and only until the sender
//! has given up.
//!
//! # Invariants
//!
//! - A handler runs only after the receiver, the cluster, the sender and its session have been checked. The routes for
//!   nodes outside of the cluster are the exception: their messages are small, and each handler checks the data that it
//!   relies on.
//! - Every answer carries the session of this process and its version.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use crate::apply::applier::{Raft, membership};
use crate::apply::used_node_ids::UsedNodeIds;
use crate::level::Level;
use crate::membership::hello::{HELLO_PATH, hello_to};
use crate::membership::senders::{SenderLookup, SenderVerdict};
use crate::network::transport::{REMOVED_HEADER, Target, Transport};
use crate::node::contradiction_check::ContradictionCheck;
use crate::node::peer_budget::{MessagePlace, PeerBudgets};
use crate::protocol::acknowledged;
use crate::protocol::identity;
use crate::protocol::identity::Identity;
use crate::protocol::levels::{Levels, VERSION_HEADER};
use crate::protocol::messages;
use crate::protocol::messages::{Envelope, Refusal};
use crate::protocol::sessions::{DUPLICATE, REFUSED_HEADER, SESSION_HEADER, SessionVerdict};
use crate::state_machine::StateMachine;
use crate::types::Member;

/// Maximum size of the version and the envelope at the beginning of a message.
const ENVELOPE_BYTES_MAX: usize = 96;
/// Maximum size of a message from outside of the cluster.
const OUTSIDE_BYTES_MAX: usize = 64 << 10;
/// Maximum time for an envelope, and for a message from outside of the cluster.
const ENVELOPE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum silence in the middle of a message.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Response extension with the id of the member that sent the message. The listener uses it to count the connection as
/// one of that member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentifiedPeer(pub u64);

/// State of the middleware.
pub(crate) struct PeerAdmission<S: StateMachine> {
    pub identity: Arc<Identity>,
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub contradictions: Arc<ContradictionCheck>,
    pub used_ids: UsedNodeIds,
    pub senders: SenderLookup<S>,
    pub budgets: Arc<PeerBudgets>,
    pub message_bytes_max: usize,
    /// Maximum time for a message. Its sender has given up by then.
    pub message_timeout: Duration,
    /// Held during a request for the session at a member's address, so that at most one such request is in flight.
    pub asking_session: tokio::sync::Mutex<()>,
}

/// Refusal of a message, and a header that the sender acts on.
struct Rejection {
    refusal: Refusal,
    header: Option<(HeaderName, HeaderValue)>,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Rejection {
            refusal,
            header: None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = BytesMut::new();
        messages::put(&mut body, &self);
        (StatusCode::CONFLICT, body.freeze()).into_response()
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let mut response = self.refusal.into_response();
        response.headers_mut().extend(self.header);
        response
    }
}

/// Middleware of the routes for members.
pub(crate) async fn of_members<S: StateMachine>(
    State(admission): State<Arc<PeerAdmission<S>>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match admission.admit(request).await {
        Ok((request, from, place)) => {
            let question = acknowledged::question(request.headers());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(IdentifiedPeer(from));
            // These headers show that the message was found to be for this node.
            let headers = admission.transport.acknowledged.answer_headers(&question);
            response.headers_mut().extend(headers);
            drop(place);
            response
        }
        Err(rejection) => rejection.into_response(),
    };
    admission.sign(&mut response);
    response
}

/// Middleware of the routes for nodes outside of the cluster.
pub(crate) async fn of_anyone<S: StateMachine>(
    State(admission): State<Arc<PeerAdmission<S>>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match admission.admit_outside(request).await {
        Ok((request, removed_at)) => {
            let mut response = next.run(request).await;
            response
                .headers_mut()
                .extend(removed_at.map(|index| (REMOVED_HEADER, HeaderValue::from(index))));
            response
        }
        Err(refusal) => refusal.into_response(),
    };
    admission.sign(&mut response);
    response
}

impl<S: StateMachine> PeerAdmission<S> {
    fn sign(&self, response: &mut Response) {
        let session = self.transport.sessions.own();
        response.headers_mut().insert(SESSION_HEADER, session);
        if let Some(announcement) = self.levels().announcement() {
            response.headers_mut().insert(VERSION_HEADER, announcement);
        }
    }

    fn levels(&self) -> &Levels {
        &self.transport.levels
    }

    /// Refuses messages of nodes that understand less than the cluster's level.
    fn check_level(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.levels().refusal_of_sender(headers) {
            None => Ok(()),
            Some(why) => Err(Refusal::Rule(why)),
        }
    }

    async fn admit(&self, request: Request) -> Result<(Request, u64, MessagePlace), Rejection> {
        let (parts, body) = request.into_parts();
        self.check_level(&parts.headers)?;
        let mut incoming = IncomingMessage::new(body, self.message_timeout);
        let envelope = incoming.envelope(self.levels().understood()).await?;
        self.check_sender(&envelope, &parts.headers).await?;
        self.ask_if_contradicted(envelope.from, &parts.headers);
        if declared_bytes(&parts.headers).is_some_and(|bytes| bytes > self.message_bytes_max) {
            return Err(too_large(self.message_bytes_max).into());
        }
        let busy = || {
            Refusal::Rule(format!(
                "it already holds as many messages or bytes from node {} as it accepts at once",
                envelope.from
            ))
        };
        let mut place = self.budgets.admit(envelope.from).ok_or_else(busy)?;
        let mut received = 0;
        let body = incoming
            .rest(|bytes| {
                received += bytes;
                if received > self.message_bytes_max {
                    return Err(too_large(self.message_bytes_max));
                }
                place.reserve(bytes).then_some(()).ok_or_else(busy)
            })
            .await?;
        let from = envelope.from;
        let mut request = Request::from_parts(parts, Body::from(body));
        accept(&mut request, envelope);
        Ok((request, from, place))
    }

    async fn admit_outside(&self, request: Request) -> Result<(Request, Option<u64>), Refusal> {
        let (parts, body) = request.into_parts();
        // A hello is accepted from a node of any level, so that each node can learn which cluster this node belongs to.
        if parts.uri.path() != HELLO_PATH {
            self.check_level(&parts.headers)?;
        }
        if declared_bytes(&parts.headers).is_some_and(|bytes| bytes > OUTSIDE_BYTES_MAX) {
            return Err(too_large(OUTSIDE_BYTES_MAX));
        }
        let mut incoming = IncomingMessage::new(body, ENVELOPE_TIMEOUT);
        let envelope = incoming.envelope(self.levels().understood()).await?;
        self.identity.check_receiver(&envelope)?;
        let mut received = 0;
        let body = incoming
            .rest(|bytes| {
                received += bytes;
                (received <= OUTSIDE_BYTES_MAX)
                    .then_some(())
                    .ok_or_else(|| too_large(OUTSIDE_BYTES_MAX))
            })
            .await?;
        let of_this_cluster = Some(envelope.cluster) == self.identity.cluster();
        let removed_at = of_this_cluster
            .then(|| self.used_ids.removed_at(envelope.from))
            .flatten();
        let mut request = Request::from_parts(parts, Body::from(body));
        accept(&mut request, envelope);
        Ok((request, removed_at))
    }

    /// Checks that a message is from a member of this cluster, and from the process that the cluster knows it by.
    async fn check_sender(
        &self,
        envelope: &Envelope,
        headers: &HeaderMap,
    ) -> Result<(), Rejection> {
        let member = match self.identity.check_peer(envelope)? {
            Some(member) => Some(member),
            None => self.check_unknown_sender(envelope).await?,
        };
        match member {
            Some(member) => self.check_session(envelope, &member, headers).await,
            None => Ok(()),
        }
    }

    /// Checks a sender that is not among the members in the identity. Returns it as a member if it was added a moment
    /// ago. Other senders are looked up: see [`crate::membership::senders`].
    async fn check_unknown_sender(&self, envelope: &Envelope) -> Result<Option<Member>, Rejection> {
        let from = envelope.from;
        if let Some(member) = membership(&self.raft).get_node(&from) {
            return Ok(Some(identity::check_incarnation(member, envelope)?));
        }
        if let Some(index) = self.used_ids.removed_at(from) {
            return Err(Rejection {
                refusal: Refusal::Rule(format!(
                    "node {from} was removed from this cluster by log entry {index}"
                )),
                header: Some((REMOVED_HEADER, HeaderValue::from(index))),
            });
        }
        if mutated!(StrangerHeard) {
            return Ok(None);
        }
        match self.senders.judge(from, envelope.from_incarnation).await {
            SenderVerdict::Member => Ok(None),
            SenderVerdict::Unverifiable => {
                tracing::warn!(
                    peer = from,
                    "node {from} is not a member as far as this node knows, and too few of the known nodes answered to \
                     verify it: its messages are accepted, because it may have been added while this node was away"
                );
                Ok(None)
            }
            SenderVerdict::Stranger => Err(Refusal::Rule(format!(
                "this cluster has no node {from} on that data directory"
            ))
            .into()),
        }
    }

    /// Checks that no other process answers at the member's address. See [`crate::protocol::sessions`].
    async fn check_session(
        &self,
        envelope: &Envelope,
        member: &Member,
        headers: &HeaderMap,
    ) -> Result<(), Rejection> {
        let sessions = &self.transport.sessions;
        let mut verdict = sessions.judge(envelope.from, headers);
        if verdict == SessionVerdict::Unconfirmed {
            let _asking = self.asking_session.lock().await;
            verdict = sessions.judge(envelope.from, headers);
            if verdict == SessionVerdict::Unconfirmed {
                self.ask_for_session(envelope.from, member).await;
                verdict = sessions.judge(envelope.from, headers);
            }
        }
        match verdict {
            SessionVerdict::Genuine | SessionVerdict::Unconfirmed => Ok(()),
            SessionVerdict::Duplicate => {
                sessions.record_duplicate(envelope.from, &member.addr, headers);
                Err(Rejection {
                    refusal: Refusal::Rule(format!(
                        "another process runs as node {} and answers at {}",
                        envelope.from, member.addr
                    )),
                    header: Some((REFUSED_HEADER, HeaderValue::from_static(DUPLICATE))),
                })
            }
        }
    }

    /// Asks a member what it has applied, if a message in its name contradicts this node's history.
    fn ask_if_contradicted(&self, from: u64, headers: &HeaderMap) {
        if self
            .transport
            .acknowledged
            .contradicted_by(headers)
            .is_none()
        {
            return;
        }
        if let Some(member) = membership(&self.raft).get_node(&from).cloned() {
            let contradictions = Arc::clone(&self.contradictions);
            tokio::spawn(async move { contradictions.ask(from, &member).await });
        }
    }

    /// Asks a member's address for the session that answers there. The transport records it.
    async fn ask_for_session(&self, id: u64, member: &Member) {
        let transport = Arc::clone(&self.transport);
        let target = Target::member(id, member);
        // The request goes on when the sender of the message gives up, because later messages need the result too.
        let asked = tokio::spawn(async move {
            if hello_to(&transport, &target).await.is_err() {
                transport.sessions.record_silence(target.id);
            }
        });
        let _ = asked.await;
    }
}

/// Hands the envelope to the handler. The body has been received within its bound, so the default one is lifted.
fn accept(request: &mut Request, envelope: Envelope) {
    DefaultBodyLimit::disable().apply(request);
    request.extensions_mut().insert(envelope);
}

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::Malformed(format!("a message exceeds {bytes_max} bytes"))
}

fn declared_bytes(headers: &HeaderMap) -> Option<usize> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Message that is being received.
struct IncomingMessage {
    frames: axum::body::BodyDataStream,
    /// Bytes received so far. The envelope is removed once it is complete.
    begin: Bytes,
    deadline: Instant,
}

impl IncomingMessage {
    fn new(body: Body, timeout: Duration) -> Self {
        IncomingMessage {
            frames: body.into_data_stream(),
            begin: Bytes::new(),
            deadline: Instant::now() + timeout,
        }
    }

    /// Returns the next part. `None` at the end.
    async fn next(&mut self, deadline: Instant) -> Result<Option<Bytes>, Refusal> {
        match timeout_at(deadline, self.frames.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(part))) => Ok(Some(part)),
            Ok(Some(Err(e))) => Err(Refusal::Malformed(format!("a message broke off: {e}"))),
            Err(_) => Err(Refusal::Malformed(
                "a message did not arrive in time".into(),
            )),
        }
    }

    async fn envelope(&mut self, understood: Level) -> Result<Envelope, Refusal> {
        let deadline = self.deadline.min(Instant::now() + ENVELOPE_TIMEOUT);
        loop {
            let part = self.next(deadline).await?;
            let ended = part.is_none();
            let part = part.unwrap_or_default();
            self.begin = match self.begin.is_empty() {
                true => part,
                false => joined(&[&self.begin, &part]),
            };
            match messages::open_frame(understood, self.begin.clone()) {
                Ok((envelope, rest)) => {
                    self.begin = rest;
                    return Ok(envelope);
                }
                Err(e) if ended || self.begin.len() >= ENVELOPE_BYTES_MAX => return Err(e.into()),
                Err(_) => {}
            }
        }
    }

    /// Returns the bytes after the envelope. `account` is called with the size of each part before it is kept.
    async fn rest(
        mut self,
        mut account: impl FnMut(usize) -> Result<(), Refusal>,
    ) -> Result<Bytes, Refusal> {
        account(self.begin.len())?;
        let mut parts = vec![std::mem::take(&mut self.begin)];
        loop {
            let deadline = self.deadline.min(Instant::now() + STALL_TIMEOUT);
            let Some(part) = self.next(deadline).await? else {
                break;
            };
            account(part.len())?;
            parts.push(part);
        }
        parts.retain(|part| !part.is_empty());
        Ok(match parts.len() {
            0 => Bytes::new(),
            1 => parts.swap_remove(0),
            _ => joined(&parts.iter().map(|part| &part[..]).collect::<Vec<_>>()),
        })
    }
}

fn joined(parts: &[&[u8]]) -> Bytes {
    Bytes::from(parts.concat())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use uuid::Uuid;

    use super::*;

    fn frame() -> Vec<u8> {
        let envelope = Envelope {
            cluster: Uuid::from_u128(7),
            from: 1,
            from_incarnation: Uuid::from_u128(1),
            to: u64::MAX,
            to_incarnation: Uuid::nil(),
        };
        let mut out = messages::frame(Level::ONE, &envelope, 8);
        out.extend_from_slice(b"the rest");
        out.to_vec()
    }

    fn in_parts(bytes: &[u8], part_bytes: usize) -> Body {
        let parts: Vec<Result<Bytes, Infallible>> = bytes
            .chunks(part_bytes)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect();
        Body::from_stream(stream::iter(parts))
    }

    #[tokio::test]
    async fn a_message_is_read_however_it_is_cut_into_parts() {
        for part_bytes in [1, 7, 50, 1_000] {
            let body = in_parts(&frame(), part_bytes);
            let mut incoming = IncomingMessage::new(body, ENVELOPE_TIMEOUT);
            let envelope = incoming.envelope(Level::HIGHEST).await.unwrap();
            assert_eq!((envelope.from, envelope.to), (1, u64::MAX));
            let mut accounted = 0;
            let rest = incoming.rest(|bytes| {
                accounted += bytes;
                Ok(())
            });
            assert_eq!(rest.await.unwrap(), "the rest");
            assert_eq!(accounted, 8);
        }
    }

    #[tokio::test]
    async fn bytes_that_are_no_message_are_refused_without_the_rest() {
        for bytes in [&b"xxxx"[..], &[1; 4], &[]] {
            let mut incoming = IncomingMessage::new(in_parts(bytes, 1), ENVELOPE_TIMEOUT);
            let refused = incoming.envelope(Level::HIGHEST).await;
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{refused:?}");
        }
        // The envelope is never complete, and the body never ends.
        let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[0xff; 32])));
        let mut incoming = IncomingMessage::new(Body::from_stream(endless), ENVELOPE_TIMEOUT);
        assert!(incoming.envelope(Level::HIGHEST).await.is_err());
    }

    #[tokio::test]
    async fn a_message_that_stalls_is_refused() {
        let begun = stream::iter([Ok::<_, Infallible>(Bytes::from(frame()))]);
        let body = Body::from_stream(begun.chain(stream::pending()));
        let mut incoming = IncomingMessage::new(body, Duration::from_millis(200));
        incoming.envelope(Level::HIGHEST).await.unwrap();
        let refused = incoming.rest(|_| Ok(())).await;
        assert!(matches!(refused, Err(Refusal::Malformed(_))), "{refused:?}");
    }
}
