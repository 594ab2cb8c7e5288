//! Which node answers.
//!
//! A client may ask any node: one that does not lead forwards to the leader and relays its answer, and asks again
//! inside its deadline when the leader changes meanwhile. That is safe because every change carries a request id whose
//! answer the table remembers. A worker is redirected instead, so that its heartbeats go straight to whoever leads.
//! Forwarding never loops: a request that was forwarded once is answered by a leader or refused.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use triarch_raft::Leadership;

use super::App;
use crate::server::http::admission::Share;
use crate::server::http::body;
use crate::server::http::body::Refused;
use crate::server::protocol::json::{NAME_BYTES_MAX, Query};
use crate::server::protocol::problem::{Code, Failure, Problem};

/// Names one logical change, over all of its retries.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("triarch-request-id");
/// On a request that a node forwarded: the node.
const FORWARDED_BY: HeaderName = HeaderName::from_static("triarch-forwarded-by");
/// `never` on a request asks for a redirect instead.
const FORWARD: HeaderName = HeaderName::from_static("triarch-forward");
/// On a redirect: the leader's node id.
const LEADER: HeaderName = HeaderName::from_static("triarch-leader");
/// On an answer that may be stale.
const CONSISTENCY: HeaderName = HeaderName::from_static("triarch-consistency");

/// How long a node looks for a leader that answers, beyond the time the client itself asked to wait.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pause before asking again when nothing is known to have changed.
const AGAIN: Duration = Duration::from_millis(30);

/// On an answer that the gate may replace by asking again: not done, or unknown whether done.
#[derive(Clone)]
enum AskAgain {
    NotDone,
    Unknown(String),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (ask_again, problem) = match self {
            Failure::Problem(problem) => return problem.into_response(),
            Failure::NotLeader => (
                AskAgain::NotDone,
                Problem::no_leader("this node does not lead any more"),
            ),
            Failure::Unknown(why) => (
                AskAgain::Unknown(why.clone()),
                Problem::new(Code::Timeout, why),
            ),
        };
        let mut response = problem.into_response();
        response.extensions_mut().insert(ask_again);
        response
    }
}

/// The gate before everything a client asks.
pub async fn client(State(app): State<App>, request: Request, next: Next) -> Response {
    let held = !asks_to_wait(request.uri().query()).is_zero();
    let place = match app.room.place(held) {
        Ok(place) => place,
        Err(shed) => {
            let (parts, body) = request.into_parts();
            // Who is in the middle of sending reads no answer before it is done.
            let discarded = body::discard(&parts.headers, body);
            let _ = tokio::time::timeout(app.limits.body_timeout, discarded).await;
            return app.room.shed(shed).into_response();
        }
    };
    let share = app.room.bodies().share();
    let response = match admit(&app, request, share).await {
        Ok(admitted) => answer_client(&app, admitted, next).await,
        Err(problem) => problem.into_response(),
    };
    drop(place);
    response
}

/// The gate before everything a worker asks for itself.
pub async fn worker(State(app): State<App>, request: Request, next: Next) -> Response {
    let share = app.room.worker_bodies().share();
    let admitted = match admit(&app, request, share).await {
        Ok(admitted) => admitted,
        Err(problem) => return problem.into_response(),
    };
    if app.node.leads_now()
        && matches!(&*app.node.leadership().borrow(), Leadership::Leading { .. })
    {
        let response = next.run(admitted.request()).await;
        if response.extensions().get::<AskAgain>().is_none() {
            return response;
        }
    }
    redirect(&app, &admitted.parts)
}

/// Before everything that has no use for a body.
pub async fn bodiless(State(app): State<App>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let discarded = body::discard(&parts.headers, body);
    // Who dawdles is answered all the same.
    let _ = tokio::time::timeout(app.limits.body_timeout, discarded).await;
    next.run(Request::from_parts(parts, Body::empty())).await
}

/// A request whose body has arrived, ready to be asked more than once.
struct Admitted {
    parts: Parts,
    body: Bytes,
    /// What the body takes of the room for bodies, until the request is answered.
    _share: Share,
}

impl Admitted {
    fn request(&self) -> Request {
        Request::from_parts(self.parts.clone(), Body::from(self.body.clone()))
    }
}

/// Takes the body within its bound, and gives every change a request id.
async fn admit(app: &App, request: Request, mut share: Share) -> Result<Admitted, Problem> {
    let (mut parts, body) = request.into_parts();
    let bound = app.limits.body_bytes_max;
    let too_large = || {
        Problem::new(
            Code::PayloadTooLarge,
            format!("the body is over the bound of {bound} bytes; submit in parts"),
        )
        .with("body_bytes_max", bound)
    };
    let arrival = body::take(&parts.headers, body, bound, &mut share);
    let body = match tokio::time::timeout(app.limits.body_timeout, arrival).await {
        Ok(Ok(body)) => body,
        Ok(Err(Refused::TooLarge)) => return Err(too_large()),
        Ok(Err(Refused::Broken(why))) => {
            return Err(Problem::invalid(
                "",
                format!("the body did not arrive whole: {why}"),
            ));
        }
        Ok(Err(Refused::NoRoom(shed))) => return Err(app.room.shed(shed)),
        Ok(Err(Refused::Stalled)) | Err(_) => {
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
    Ok(Admitted {
        parts,
        body,
        _share: share,
    })
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

async fn answer_client(app: &App, admitted: Admitted, next: Next) -> Response {
    if asks_for_stale(&admitted.parts) {
        let mut response = next.run(admitted.request()).await;
        response
            .headers_mut()
            .insert(CONSISTENCY, HeaderValue::from_static("stale"));
        return response;
    }
    let forwarded = admitted.parts.headers.contains_key(FORWARDED_BY);
    let never_forward = admitted
        .parts
        .headers
        .get(FORWARD)
        .is_some_and(|value| value == "never");
    let deadline = Instant::now() + PATIENCE + asked_wait(&admitted.parts);
    let mut leadership = app.node.leadership();
    let mut unknown: Option<String> = None;
    loop {
        let seen = leadership.borrow_and_update().clone();
        match seen {
            Leadership::Leading { .. } => {
                let response = next.clone().run(admitted.request()).await;
                match response.extensions().get::<AskAgain>() {
                    None => return response,
                    Some(AskAgain::NotDone) => {}
                    Some(AskAgain::Unknown(why)) => unknown = Some(why.clone()),
                }
                if forwarded {
                    return Problem::no_leader(
                        "this node stopped leading while it worked on the request",
                    )
                    .into_response();
                }
            }
            Leadership::Following { .. } | Leadership::Unknown { .. } if forwarded => {
                return Problem::no_leader(
                    "the request was forwarded to this node, which does not lead",
                )
                .into_response();
            }
            Leadership::Following { .. } | Leadership::Unknown { .. } if never_forward => {
                return redirect(app, &admitted.parts);
            }
            Leadership::Following { addr, leader, .. } => {
                // A leader that hangs is not waited for once another one leads.
                let answer = tokio::select! {
                    answer = forward(app, &addr, &admitted, deadline) => answer,
                    () = leader_other_than(&mut leadership, leader) => Err(ForwardError::Unknown("the leader changed".into())),
                };
                match answer {
                    Ok(response) => return response,
                    Err(ForwardError::NotDone) => {}
                    Err(ForwardError::Unknown(why)) => unknown = Some(why),
                }
            }
            Leadership::Unknown { .. } => {}
        }
        if Instant::now() >= deadline {
            return give_up(&admitted.parts, unknown);
        }
        let pause = Instant::now() + AGAIN;
        let _ = timeout_at(pause.min(deadline), leadership.changed()).await;
    }
}

fn give_up(parts: &Parts, unknown: Option<String>) -> Response {
    let request_id = parts
        .headers
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    match (unknown, request_id) {
        (Some(why), Some(request_id)) if parts.method != Method::GET => Problem::new(
            Code::Timeout,
            format!("the outcome is unknown ({why}); ask again with the same {REQUEST_ID} header, which is always safe"),
        )
        .with("request_id", request_id)
        .into_response(),
        (Some(_), _) | (None, _) => Problem::no_leader(
            "no node of the cluster leads at present (a majority of the masters must be up and reach each other); retry",
        )
        .into_response(),
    }
}

async fn leader_other_than(leadership: &mut tokio::sync::watch::Receiver<Leadership>, known: u64) {
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
    /// Certainly not done there.
    NotDone,
    /// It may have been done.
    Unknown(String),
}

async fn forward(
    app: &App,
    addr: &str,
    admitted: &Admitted,
    deadline: Instant,
) -> Result<Response, ForwardError> {
    let Parts {
        method,
        uri,
        headers,
        ..
    } = &admitted.parts;
    let target = format!(
        "http://{addr}{}",
        uri.path_and_query().map_or("/", |path| path.as_str())
    );
    let mut outgoing = HeaderMap::new();
    for name in [
        header::CONTENT_TYPE,
        header::ACCEPT,
        REQUEST_ID,
        crate::server::protocol::response::MIN_INDEX,
    ] {
        if let Some(value) = headers.get(&name) {
            outgoing.insert(name, value.clone());
        }
    }
    outgoing.insert(FORWARDED_BY, HeaderValue::from(app.id));
    if mutated!(RequestIdMadeAnew) {
        outgoing.remove(REQUEST_ID);
    }
    let send = app
        .http
        .request(method.clone(), target)
        .headers(outgoing)
        .body(admitted.body.clone())
        .send();
    let answer = match timeout_at(deadline, send).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.is_connect() => return Err(ForwardError::NotDone),
        Ok(Err(error)) => {
            return Err(ForwardError::Unknown(format!(
                "the connection to the leader broke: {error}"
            )));
        }
        Err(_) => {
            return Err(ForwardError::Unknown(
                "the leader did not answer in time".into(),
            ));
        }
    };
    // 503 from there is said only by a node that does not lead, and 507 by one whose disk has failed and that is about to
    // be gone: what it had begun may still be done. A leader whose disk is nearly full says 507 too, but has done nothing,
    // stays, and says when to ask again.
    let status = answer.status();
    let disk_failed = status == StatusCode::INSUFFICIENT_STORAGE
        && !answer.headers().contains_key(header::RETRY_AFTER);
    if status == StatusCode::SERVICE_UNAVAILABLE || disk_failed {
        return Err(ForwardError::Unknown(
            "leadership changed while the request was on its way".into(),
        ));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    for (name, value) in answer.headers() {
        // What belongs to one connection stays there.
        if ![
            header::CONNECTION,
            header::TRANSFER_ENCODING,
            header::CONTENT_LENGTH,
            header::DATE,
        ]
        .contains(name)
        {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
    match timeout_at(deadline, answer.bytes()).await {
        Ok(Ok(body)) => {
            *response.body_mut() = Body::from(body);
            Ok(response)
        }
        Ok(Err(error)) => Err(ForwardError::Unknown(format!(
            "the leader's answer broke off: {error}"
        ))),
        Err(_) => Err(ForwardError::Unknown(
            "the leader's answer did not end in time".into(),
        )),
    }
}

/// What the leader at `addr` has acknowledged, if it confirms that it leads.
pub async fn index_of_leader(app: &App, addr: &str, deadline: Instant) -> Option<u64> {
    let ask = app
        .http
        .get(format!("http://{addr}/v1/cluster"))
        .header(FORWARDED_BY, app.id)
        .send();
    let answer = timeout_at(deadline, ask).await.ok()?.ok()?;
    let index = answer
        .headers()
        .get(crate::server::protocol::response::INDEX)?;
    let told = answer.status().is_success();
    told.then(|| index.to_str().ok()?.parse().ok()).flatten()
}

fn redirect(app: &App, parts: &Parts) -> Response {
    let leadership = app.node.leadership().borrow().clone();
    match leadership {
        Leadership::Following { leader, addr, .. } => {
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let detail = format!("node {leader} leads; the Location header says where it is");
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
            Problem::no_leader("no leader is known to this node at present; retry").into_response()
        }
    }
}

fn asks_for_stale(parts: &Parts) -> bool {
    parts.method == Method::GET
        && (mutated!(FollowerAnswersReads)
            || query(parts).is_some_and(|query| query.text("consistency") == Some("stale")))
}

/// What the client itself asked to wait, within bounds.
fn asked_wait(parts: &Parts) -> Duration {
    asks_to_wait(parts.uri.query())
}

fn asks_to_wait(query: Option<&str>) -> Duration {
    let asked = Query::read_any(query).and_then(|query| {
        let wait = query.text("wait_ms").or_else(|| query.text("follow_ms"));
        wait?.parse().ok()
    });
    Duration::from_millis(asked.unwrap_or(0).min(super::WAIT_MS_MAX))
}

/// The query, if it can be read at all; handlers refuse it properly otherwise.
fn query(parts: &Parts) -> Option<Query> {
    Query::read_any(parts.uri.query())
}
