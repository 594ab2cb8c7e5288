//! Reverse proxy to the leader: middleware that decides which node answers a request.
//!
//! A client may send its request to any node. A node that does not lead forwards the request to the leader and relays
//! its response. If the leader changes, the node retries within the request's deadline. That is safe for a route that
//! reads, that has the same effect when it is repeated, or whose reply the table remembers by the request id. A worker is
//! redirected instead, so that its heartbeats go straight to the leader.
//!
//! # Invariants
//!
//! - The leader receives the path and the query byte for byte, so it matches the route that this node matched.
//! - Forwarding never loops: a forwarded request is answered by a leader or refused.
//! - A request whose outcome is unknown is retried under the same request id, and only on a route that is safe to repeat.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use triarch_raft::Leadership;

use crate::server::app::App;
use crate::server::http::admission::MemoryReservation;
use crate::server::http::body;
use crate::server::http::body::BodyError;
use crate::server::http::client_address::ClientAddress;
use crate::server::http::forward_client::{ForwardFailure, ForwardedRequest};
use crate::server::protocol::handler_error::Retryable;
use crate::server::protocol::headers::{
    CLIENT, CONSISTENCY, EXECUTED, FORWARD, FORWARDED_BY, INDEX, LEADER, MIN_INDEX, REQUEST_ID,
};
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::{Query, WAIT_MS_MAX};
use crate::server::protocol::validate::NAME_BYTES_MAX;

/// Maximum time to find a leader that answers, in addition to the wait that the client asked for.
const LEADER_TIMEOUT: Duration = Duration::from_secs(8);
/// Minimum duration of an attempt in which a leader served the request. Afterwards the time to find a leader begins again.
const SERVED_MIN: Duration = Duration::from_secs(2);
/// Delay before a retry when leadership is not known to have changed.
const RETRY_DELAY: Duration = Duration::from_millis(30);

/// Whether a request may be executed again after an unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// The second execution changes nothing more.
    Safe,
    /// The second execution would change something more.
    Never,
}

/// Middleware of client routes that are safe to repeat: admission, then the handler on the leader or forwarding.
pub async fn client(State(app): State<App>, request: Request, next: Next) -> Response {
    admit_and_answer(&app, request, next, Repeat::Safe).await
}

/// Middleware of client routes that must not be repeated. Like [`client`], but an unknown outcome is the answer.
pub async fn client_once(State(app): State<App>, request: Request, next: Next) -> Response {
    let repeat = match mutated!(OnceRepeated) {
        true => Repeat::Safe,
        false => Repeat::Never,
    };
    admit_and_answer(&app, request, next, repeat).await
}

async fn admit_and_answer(app: &App, request: Request, next: Next, repeat: Repeat) -> Response {
    let long_poll = !wait_time(request.uri().query()).is_zero();
    let permit = match app.admission.admit(long_poll) {
        Ok(permit) => permit,
        Err(reason) => {
            let (parts, body) = request.into_parts();
            // A client that is still sending reads no response before it is done.
            let discarded = body::discard(&parts.headers, body);
            let _ = tokio::time::timeout(app.limits.body_timeout, discarded).await;
            return app.admission.reject(reason).into_response();
        }
    };
    let reservation = app.admission.client_bodies().reserve();
    let response = match buffer(app, request, reservation).await {
        Ok(request) => forward_or_handle(app, request, next, repeat).await,
        Err(problem) => problem.into_response(),
    };
    drop(permit);
    response
}

/// Middleware of worker routes: the handler on the leader, or a redirect.
pub async fn worker(State(app): State<App>, request: Request, next: Next) -> Response {
    let reservation = app.admission.worker_bodies().reserve();
    let request = match buffer(&app, request, reservation).await {
        Ok(request) => request,
        Err(problem) => return problem.into_response(),
    };
    if app.node.leads_now()
        && matches!(&*app.node.leadership().borrow(), Leadership::Leading { .. })
    {
        let BufferedRequest {
            parts,
            body,
            _reservation: reservation,
        } = request;
        let uri = parts.uri.clone();
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        drop(reservation);
        return match response.extensions().get::<Retryable>() {
            None => response,
            Some(_) => redirect(&app, &uri),
        };
    }
    redirect(&app, &request.parts.uri)
}

/// Middleware of routes that take no body: discards it.
pub async fn without_body(State(app): State<App>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let discarded = body::discard(&parts.headers, body);
    // A slow client is answered all the same.
    let _ = tokio::time::timeout(app.limits.body_timeout, discarded).await;
    next.run(Request::from_parts(parts, Body::empty())).await
}

/// Request whose body has arrived, so that it can be sent more than once.
struct BufferedRequest {
    parts: Parts,
    body: Bytes,
    /// Memory reserved for the body until the request is answered.
    _reservation: MemoryReservation,
}

impl BufferedRequest {
    fn to_request(&self) -> Request {
        Request::from_parts(self.parts.clone(), Body::from(self.body.clone()))
    }
}

/// Reads the body within its bound, and gives every change a request id.
async fn buffer(
    app: &App,
    request: Request,
    mut reservation: MemoryReservation,
) -> Result<BufferedRequest, Problem> {
    let (mut parts, body) = request.into_parts();
    let bound = app.limits.body_bytes_max;
    let too_large = || {
        Problem::new(
            Code::PayloadTooLarge,
            format!("the body exceeds the limit of {bound} bytes; submit in parts"),
        )
        .with("body_bytes_max", bound)
    };
    let received = body::read(&parts.headers, body, bound, &mut reservation);
    let body = match tokio::time::timeout(app.limits.body_timeout, received).await {
        Ok(Ok(body)) => body,
        Ok(Err(BodyError::TooLarge)) => return Err(too_large()),
        Ok(Err(BodyError::Incomplete(why))) => {
            return Err(Problem::invalid(
                "",
                format!("the body is incomplete: {why}"),
            ));
        }
        Ok(Err(BodyError::Shed(reason))) => return Err(app.admission.reject(reason)),
        Ok(Err(BodyError::Stalled)) | Err(_) => {
            return Err(Problem::new(
                Code::Timeout,
                "the body did not arrive in time; nothing was done",
            ));
        }
    };
    match parts.headers.get(REQUEST_ID) {
        Some(given) => {
            let plain = given
                .to_str()
                .is_ok_and(|id| (1..=NAME_BYTES_MAX).contains(&id.len()) && is_visible(id));
            if !plain {
                return Err(Problem::invalid(
                    REQUEST_ID.as_str(),
                    format!("must be 1 to {NAME_BYTES_MAX} visible ASCII characters"),
                ));
            }
        }
        None if parts.method != Method::GET => {
            if let Ok(made) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
                parts.headers.insert(REQUEST_ID, made);
            }
        }
        None => {}
    }
    Ok(BufferedRequest {
        parts,
        body,
        _reservation: reservation,
    })
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

async fn forward_or_handle(
    app: &App,
    request: BufferedRequest,
    next: Next,
    repeat: Repeat,
) -> Response {
    if asks_for_stale(&request.parts) {
        let mut response = next.run(request.to_request()).await;
        response
            .headers_mut()
            .insert(CONSISTENCY, HeaderValue::from_static("stale"));
        return response;
    }
    let forwarded = request.parts.headers.contains_key(FORWARDED_BY);
    let never_forward = request
        .parts
        .headers
        .get(FORWARD)
        .is_some_and(|value| value == "never");
    let deadline = Instant::now() + LEADER_TIMEOUT + requested_wait(&request.parts);
    let mut give_up_at = deadline;
    let mut leadership = app.node.leadership();
    let mut unknown: Option<String> = None;
    loop {
        let seen = leadership.borrow_and_update().clone();
        let tried_at = Instant::now();
        // What this node knows of the leader may be old, because the others do not speak to it. Another node must be asked.
        if !matches!(seen, Leadership::Leading { .. })
            && let Some(why) = app.node.exclusion()
        {
            return match unknown {
                Some(_) => deadline_problem(&request.parts, unknown),
                None => not_executed(Problem::no_leader(why)),
            };
        }
        match seen {
            Leadership::Leading { .. } => {
                let response = next.clone().run(request.to_request()).await;
                match response.extensions().get::<Retryable>() {
                    None => return response,
                    Some(Retryable::NotExecuted) => {}
                    Some(Retryable::OutcomeUnknown(why)) => match repeat {
                        Repeat::Safe => unknown = Some(why.clone()),
                        Repeat::Never => return outcome_unknown(why).into_response(),
                    },
                }
                if forwarded {
                    let stopped = Problem::no_leader(
                        "this node lost leadership while it processed the request",
                    );
                    return match &unknown {
                        Some(_) => stopped.into_response(),
                        None => not_executed(stopped),
                    };
                }
            }
            Leadership::Following { .. } | Leadership::Unknown { .. } if forwarded => {
                return not_executed(Problem::no_leader(
                    "the request was forwarded to this node, which does not lead",
                ));
            }
            Leadership::Following { .. } | Leadership::Unknown { .. } if never_forward => {
                return redirect(app, &request.parts.uri);
            }
            Leadership::Following { addr, leader, .. } => {
                let forwarding = forward(app, &addr, &request, deadline);
                let response = match repeat {
                    // The wait for a leader that hangs ends once another node leads.
                    Repeat::Safe => tokio::select! {
                        response = forwarding => response,
                        () = leader_change(&mut leadership, leader) => Err(ForwardError::OutcomeUnknown("the leader changed".into())),
                    },
                    // The request itself may be what changes the leader, and the old one answers.
                    Repeat::Never => forwarding.await,
                };
                match (response, repeat) {
                    (Ok(response), _) => return response,
                    (Err(ForwardError::NotExecuted), _) => {}
                    (Err(ForwardError::OutcomeUnknown(why)), Repeat::Safe) => unknown = Some(why),
                    (Err(ForwardError::OutcomeUnknown(why)), Repeat::Never) => {
                        return outcome_unknown(&why).into_response();
                    }
                }
            }
            Leadership::Unknown { .. } => {}
        }
        // The wait that the client asked for is for a leader that serves it, not for finding one.
        if give_up_at == deadline || tried_at.elapsed() > SERVED_MIN {
            give_up_at = deadline.min(Instant::now() + LEADER_TIMEOUT);
        }
        if Instant::now() >= give_up_at {
            return deadline_problem(&request.parts, unknown);
        }
        let pause = Instant::now() + RETRY_DELAY;
        let _ = timeout_at(pause.min(give_up_at), leadership.changed()).await;
    }
}

/// Builds the problem for a request that must not be repeated and whose outcome is unknown.
fn outcome_unknown(why: &str) -> Problem {
    Problem::new(
        Code::Timeout,
        format!(
            "the outcome is unknown ({why}), and no master repeats this request, because a repeat may change something more; \
             look at the state of the cluster before you send it again"
        ),
    )
    .with("repeatable", false)
}

/// Marks a refusal to another node: the request was certainly not executed here.
fn not_executed(problem: Problem) -> Response {
    let mut response = problem.into_response();
    let headers = response.headers_mut();
    headers.insert(EXECUTED, HeaderValue::from_static("no"));
    response
}

fn deadline_problem(parts: &Parts, unknown: Option<String>) -> Response {
    let request_id = parts
        .headers
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    match (unknown, request_id) {
        (Some(why), Some(request_id)) if parts.method != Method::GET => Problem::new(
            Code::Timeout,
            format!("the outcome is unknown ({why}); retry with the same {REQUEST_ID} header, which is always safe"),
        )
        .with("request_id", request_id)
        .into_response(),
        (Some(_), _) | (None, _) => Problem::no_leader(
            "the cluster has no leader (a majority of the masters must be up and reach each other); retry",
        )
        .into_response(),
    }
}

async fn leader_change(leadership: &mut tokio::sync::watch::Receiver<Leadership>, known: u64) {
    let other = leadership
        .wait_for(|now| match now {
            Leadership::Following { leader, .. } => *leader != known,
            Leadership::Leading { .. } => true,
            Leadership::Unknown { .. } => false,
        })
        .await
        .is_ok();
    if !other {
        std::future::pending::<()>().await;
    }
}

enum ForwardError {
    /// Certainly not executed on the leader.
    NotExecuted,
    /// Possibly executed on the leader.
    OutcomeUnknown(String),
}

async fn forward(
    app: &App,
    addr: &str,
    request: &BufferedRequest,
    deadline: Instant,
) -> Result<Response, ForwardError> {
    let Parts {
        method,
        uri,
        headers,
        ..
    } = &request.parts;
    let mut outgoing = HeaderMap::new();
    for name in [header::CONTENT_TYPE, header::ACCEPT, REQUEST_ID, MIN_INDEX] {
        if let Some(value) = headers.get(&name) {
            outgoing.insert(name, value.clone());
        }
    }
    outgoing.insert(FORWARDED_BY, HeaderValue::from(app.node_id));
    let client = ClientAddress::of_request(&request.parts.extensions, headers);
    if let Ok(client) = HeaderValue::from_str(&client.to_string()) {
        outgoing.insert(CLIENT, client);
    }
    if mutated!(RequestIdReplaced) {
        outgoing.remove(REQUEST_ID);
    }
    let forwarded = ForwardedRequest {
        method: method.clone(),
        path: uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
        headers: outgoing,
        body: request.body.clone(),
    };
    // Held until the answer is here.
    let Ok(Ok(_permit)) = timeout_at(deadline, app.forward_permits.acquire()).await else {
        return Err(ForwardError::NotExecuted);
    };
    let upstream = match timeout_at(deadline, app.forward_client.send(addr, forwarded)).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(ForwardFailure::NotSent(_))) => return Err(ForwardError::NotExecuted),
        Ok(Err(ForwardFailure::Broken(why))) => {
            return Err(ForwardError::OutcomeUnknown(format!(
                "the connection to the leader broke: {why}"
            )));
        }
        Err(_) => {
            return Err(ForwardError::OutcomeUnknown(
                "the leader did not answer in time".into(),
            ));
        }
    };
    // Only a node that does not lead answers 503. A node answers 507 when its disk has failed and it is about to stop;
    // a change it had begun may still be done. A leader whose disk is nearly full also answers 507, but has done
    // nothing, stays, and sends `Retry-After`.
    let status = upstream.status();
    let disk_failed = status == StatusCode::INSUFFICIENT_STORAGE
        && !upstream.headers().contains_key(header::RETRY_AFTER);
    let not_executed = upstream
        .headers()
        .get(EXECUTED)
        .is_some_and(|value| value == "no");
    if status == StatusCode::SERVICE_UNAVAILABLE && not_executed {
        return Err(ForwardError::NotExecuted);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE || disk_failed {
        return Err(ForwardError::OutcomeUnknown(
            "leadership changed while the request was forwarded".into(),
        ));
    }
    let (head, body) = upstream.into_parts();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = head.status;
    let is_head = *method == Method::HEAD;
    for (name, value) in &head.headers {
        // Headers of one connection are not relayed. The length is that of the relayed body, except for a response to
        // `HEAD`, which has no body and states the length of the one that `GET` would give.
        let own = name == header::CONTENT_LENGTH && !is_head;
        if !own && ![header::CONNECTION, header::TRANSFER_ENCODING, header::DATE].contains(name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    match timeout_at(deadline, body.collect()).await {
        Ok(Ok(body)) => {
            *response.body_mut() = Body::from(body.to_bytes());
            Ok(response)
        }
        Ok(Err(error)) => Err(ForwardError::OutcomeUnknown(format!(
            "the leader's answer was interrupted: {error}"
        ))),
        Err(_) => Err(ForwardError::OutcomeUnknown(
            "the leader's answer did not end in time".into(),
        )),
    }
}

/// Returns the log index that the leader at `addr` has acknowledged, if it confirms that it leads.
pub async fn leader_index(app: &App, addr: &str, deadline: Instant) -> Option<u64> {
    let ask = ForwardedRequest {
        method: Method::GET,
        path: PathAndQuery::from_static("/v1/cluster"),
        headers: HeaderMap::from_iter([(FORWARDED_BY, HeaderValue::from(app.node_id))]),
        body: Bytes::new(),
    };
    let asked = app.forward_client.send(addr, ask);
    let upstream = timeout_at(deadline, asked).await.ok()?.ok()?;
    let index = upstream.headers().get(INDEX)?;
    let confirmed = upstream.status().is_success();
    confirmed
        .then(|| index.to_str().ok()?.parse().ok())
        .flatten()
}

fn redirect(app: &App, uri: &Uri) -> Response {
    let leadership = app.node.leadership().borrow().clone();
    match leadership {
        Leadership::Following { leader, addr, .. } => {
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            let detail = format!(
                "node {leader} leads; send the request to the address in the Location header"
            );
            let mut response = Problem::new(Code::NotLeader, detail)
                .with("leader", leader)
                .into_response();
            if let Ok(location) = HeaderValue::from_str(&format!("http://{addr}{path}")) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
                .headers_mut()
                .insert(LEADER, HeaderValue::from(leader));
            response
        }
        Leadership::Leading { .. } | Leadership::Unknown { .. } => {
            Problem::no_leader("this node knows no leader; retry").into_response()
        }
    }
}

fn asks_for_stale(parts: &Parts) -> bool {
    (parts.method == Method::GET || parts.method == Method::HEAD)
        && (mutated!(FollowerAnswersReads)
            || query(parts).is_some_and(|query| matches!(query.asks_for_stale(), Ok(true))))
}

/// Returns the wait that the client asked for, bounded.
fn requested_wait(parts: &Parts) -> Duration {
    wait_time(parts.uri.query())
}

fn wait_time(query: Option<&str>) -> Duration {
    let asked = Query::parse_any(query).and_then(|query| {
        let wait = query.text("wait_ms").or_else(|| query.text("follow_ms"));
        wait?.parse().ok()
    });
    Duration::from_millis(asked.unwrap_or(0).min(WAIT_MS_MAX))
}

/// Returns the query, if it can be parsed at all; handlers refuse an invalid one with a proper problem.
fn query(parts: &Parts) -> Option<Query> {
    Query::parse_any(parts.uri.query())
}
