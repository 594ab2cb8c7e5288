//! Extractors: inputs of handlers in addition to path and body.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use bytes::Bytes;

use crate::server::app::App;
use crate::server::http::client_address::ClientAddress;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::headers::{MIN_INDEX, REQUEST_ID};
use crate::server::protocol::json;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;

/// Maximum wait for the index in `triarch-min-index`.
const MIN_INDEX_TIMEOUT: Duration = Duration::from_secs(5);

/// Extractor of a request without query parameters of its own. [`ReadIndex`] handles those that every read takes.
pub struct NoQuery;

impl FromRequestParts<App> for NoQuery {
    type Rejection = HandlerError;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, HandlerError> {
        Query::parse(parts.uri.query(), &[])?;
        Ok(Self)
    }
}

/// Extractor of a request that is complete in its path: no query, and no body or an empty object.
pub struct PathOnly;

impl FromRequest<App> for PathOnly {
    type Rejection = HandlerError;

    async fn from_request(request: Request, app: &App) -> Result<Self, HandlerError> {
        Query::parse(request.uri().query(), &[])?;
        let body = Bytes::from_request(request, app).await;
        json::parse_empty(&body.map_err(|error| Problem::invalid("", error.body_text()))?)?;
        Ok(Self)
    }
}

/// Read barrier. This node has applied everything that was acknowledged anywhere when the request came (unless it asked
/// for a stale response), and the index in `triarch-min-index`. Holds the applied index.
pub struct ReadIndex(pub u64);

impl FromRequestParts<App> for ReadIndex {
    type Rejection = HandlerError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, HandlerError> {
        let query = Query::parse_any(parts.uri.query());
        let stale = query.as_ref().map_or(Ok(false), Query::asks_for_stale)?;
        let mut index = if stale || mutated!(FollowerAnswersReads) {
            app.node.applied_index()
        } else {
            app.node.read_barrier().await?
        };
        if let Some(reached) = wait_for_min_index(app, &parts.headers).await? {
            index = reached;
        }
        Ok(Self(index))
    }
}

/// Waits until this node has applied the index in `triarch-min-index`, if there is one. Returns the applied index.
pub async fn wait_for_min_index(
    app: &App,
    headers: &HeaderMap,
) -> Result<Option<u64>, HandlerError> {
    let Some(given) = headers.get(MIN_INDEX) else {
        return Ok(None);
    };
    let wanted: u64 = given
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::invalid(MIN_INDEX.as_str(), "must be a log index"))?;
    let reached = app.node.wait_applied(wanted, MIN_INDEX_TIMEOUT).await;
    reached
        .map(Some)
        .map_err(|error| match HandlerError::from(error) {
            HandlerError::Problem(problem) => HandlerError::Problem(problem),
            HandlerError::NotLeader | HandlerError::OutcomeUnknown(_) => {
                HandlerError::Problem(Problem::new(
                    Code::Timeout,
                    format!(
                        "this node has not applied index {wanted} in time; retry, or use another node"
                    ),
                ))
            }
        })
}

/// Request id of a change. The leader proxy generates one if the client sent none.
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

/// Address of the client, for the bounds per client.
pub struct Client(pub ClientAddress);

impl FromRequestParts<App> for Client {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, Self::Rejection> {
        Ok(Self(ClientAddress::of_request(
            &parts.extensions,
            &parts.headers,
        )))
    }
}
