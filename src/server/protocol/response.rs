//! What a handler is given and gives: the index its answer stands for, and JSON.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use triarch_table::Table;

use super::problem::{Failure, Problem};
use crate::server::App;
use crate::server::leader_proxy::REQUEST_ID;
use crate::server::protocol::json::Query;

/// On every answer: the log index it stands for.
pub const INDEX: HeaderName = HeaderName::from_static("triarch-index");
/// On a read: wait until the answering node has applied this index.
pub const MIN_INDEX: HeaderName = HeaderName::from_static("triarch-min-index");

/// Longest wait for an index that a client names.
const MIN_INDEX_WAIT: Duration = Duration::from_secs(5);

/// A success: JSON and the log index it stands for.
pub struct Answer {
    status: StatusCode,
    index: u64,
    body: Vec<u8>,
}

impl Answer {
    /// `200` with this body.
    pub fn ok<T: Serialize>(index: u64, body: &T) -> Result<Self, Failure> {
        Self::with(StatusCode::OK, index, body)
    }

    /// `200` with what was read from the table as it is now: the index it stands for, or later.
    ///
    /// Others may have changed the table since `index` was taken, and the answer shows that, too. Who asks another node
    /// for this index must not be shown less there.
    pub fn shown<T: Serialize>(table: &Table, index: u64, body: &T) -> Result<Self, Failure> {
        Self::ok(index.max(table.last_index()), body)
    }

    /// `201` with this body.
    pub fn created<T: Serialize>(index: u64, body: &T) -> Result<Self, Failure> {
        Self::with(StatusCode::CREATED, index, body)
    }

    /// `202` with this body.
    pub fn accepted<T: Serialize>(index: u64, body: &T) -> Result<Self, Failure> {
        Self::with(StatusCode::ACCEPTED, index, body)
    }

    fn with<T: Serialize>(status: StatusCode, index: u64, body: &T) -> Result<Self, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::Unknown(format!("the answer cannot be written: {error}")))?;
        Ok(Self {
            status,
            index,
            body,
        })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
            .headers_mut()
            .insert(INDEX, HeaderValue::from(self.index));
        response
    }
}

/// Before a read: this node has applied everything that was acknowledged anywhere when the request came (unless it asked
/// for a stale answer), and the index the request names. Holds the applied index.
pub struct ReadIndex(pub u64);

impl FromRequestParts<App> for ReadIndex {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let query = Query::read_any(parts.uri.query());
        let stale = query.as_ref().map_or(Ok(false), asks_for_stale)?;
        let mut index = if stale || mutated!(FollowerAnswersReads) {
            app.node.applied_index()
        } else {
            app.node.read_barrier().await?
        };
        if let Some(reached) = reach_min_index(app, &parts.headers).await? {
            index = reached;
        }
        Ok(Self(index))
    }
}

/// Waits until this node has applied the index that the request names, if it names one; gives what is applied then.
pub async fn reach_min_index(app: &App, headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let Some(given) = headers.get(MIN_INDEX) else {
        return Ok(None);
    };
    let wanted: u64 = given
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::invalid(MIN_INDEX.as_str(), "must be a log index"))?;
    let reached = app.node.wait_applied(wanted, MIN_INDEX_WAIT).await;
    reached
        .map(Some)
        .map_err(|error| match Failure::from(error) {
            Failure::Problem(problem) => Failure::Problem(problem),
            Failure::NotLeader | Failure::Unknown(_) => Failure::Problem(Problem::new(
                super::problem::Code::Timeout,
                format!(
                    "this node has not applied index {wanted} in time; retry, or ask another node"
                ),
            )),
        })
}

/// Whether a query asks for what the node has, whoever has more.
pub fn asks_for_stale(query: &Query) -> Result<bool, Problem> {
    match query.text("consistency") {
        Some("stale") => Ok(true),
        Some("linearizable") | None => Ok(false),
        Some(_) => Err(Problem::invalid(
            "consistency",
            "must be \"linearizable\" (the default) or \"stale\"",
        )),
    }
}

/// The request id of a change; made by the gate when the client sent none.
pub struct RequestId(pub Option<String>);

impl FromRequestParts<App> for RequestId {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, Self::Rejection> {
        Ok(Self(
            parts
                .headers
                .get(REQUEST_ID)
                .and_then(|id| id.to_str().ok())
                .map(str::to_string),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use triarch_table::{Limits, Stamp};

    #[test]
    fn an_answer_stands_for_all_that_it_shows() {
        let mut table = Table::new(Limits::default());
        let stamp = Stamp {
            index: 5,
            now_ms: 1,
        };
        table.apply(stamp, Vec::new(), &mut Vec::new());
        for (index, stands_for) in [(3, 5), (5, 5), (7, 7)] {
            let answer = Answer::shown(&table, index, &()).unwrap().into_response();
            assert_eq!(answer.headers()[INDEX], stands_for.to_string());
        }
    }
}
