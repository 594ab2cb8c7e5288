//! Handler of `/v1/events`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use triarch_raft::Readiness;
use triarch_sdk::wire::{self, event};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::filter::Filter;
use super::stream::{EventStream, position_gone};
use crate::feed::Position;
use crate::server::app::{App, CLIENT_EVENT_STREAMS_MAX, EVENT_STREAMS_MAX};
use crate::server::http::shared_pool::PoolFull;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::headers::{INDEX, NO_BUFFERING};
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;
use crate::server::routes::extractors::Client;

/// Maximum wait for a position that this node has not applied yet.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(follow))
}

/// Streams the events of the cluster as server-sent events, in the order of the log. Every node sends the same events
/// under the same ids.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    params(wire::EventsQuery),
    responses((status = 200, description = "Unbounded stream of messages; the data of each is one event.", body = wire::Event, content_type = "text/event-stream"))
)]
async fn follow(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    Client(client): Client,
    headers: HeaderMap,
) -> Result<Response, HandlerError> {
    let query = Query::parse(
        query.as_deref(),
        &["queue", "job", "task", "state", "type", "after"],
    )?;
    if query.text("consistency").is_some() {
        return Err(Problem::invalid(
            "consistency",
            "is not supported here: every node streams the events that it has applied itself",
        )
        .into());
    }
    let filter = Filter::read(&query)?;
    if let Some(elapsed) = app.out_of_touch() {
        return Err(Problem::no_leader(format!(
            "this node has been out of touch with a majority of the masters for {} ms, so it learns of no event; follow \
             another one",
            elapsed.as_millis()
        ))
        .into());
    }
    let asked = requested_position(&query, &headers)?;
    let place = app.event_places.take(client, 1).map_err(|full| match full {
        PoolFull::All => Problem::new(
            Code::Unavailable,
            format!("this node already serves {EVENT_STREAMS_MAX} event streams, its limit; use another node"),
        ),
        PoolFull::Client => Problem::new(
            Code::RateLimited,
            format!(
                "this node already serves {CLIENT_EVENT_STREAMS_MAX} event streams to your address, its limit for one; use another \
                 node, or share a stream"
            ),
        ),
    })?;
    let after = match asked {
        Some((asked, field)) => {
            wait_until_applied(&app, asked, field).await?;
            asked
        }
        // On a node that still catches up, the end of its feed would begin the stream with old events.
        None => Position::entry_end(
            app.table
                .feed
                .last_index()
                .max(app.node.status().commit_index),
        ),
    };
    app.table.feed.read(after).map_err(position_gone)?;
    let index = app.table.feed.last_index();
    let stream = EventStream::new(app, filter, after, place);
    let mut response = Response::new(Body::from_stream(stream.messages()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(event::CONTENT_TYPE),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NO_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(INDEX, HeaderValue::from(index));
    Ok(response)
}

fn after_the_end(field: &'static str, asked: Position, end: u64) -> Problem {
    let detail = format!(
        "{asked} is after the end of this cluster's log, which is {end}: give the id of an event, or the triarch-index of an \
         answer, of this cluster; without a position, the stream begins with the next event"
    );
    Problem::invalid(field, detail).with("end", end)
}

/// Returns the position to continue at, and the name of its field. The header wins, because a reader that reconnects repeats its URL and the
/// header is newer.
fn requested_position(
    query: &Query,
    headers: &HeaderMap,
) -> Result<Option<(Position, &'static str)>, Problem> {
    let header = headers
        .get(event::LAST_EVENT_ID)
        .filter(|given| !given.is_empty());
    let (field, given) = match (header, query.text("after")) {
        (Some(given), _) => (event::LAST_EVENT_ID, given.to_str().unwrap_or_default()),
        (None, Some(given)) => ("after", given),
        (None, None) => return Ok(None),
    };
    let position = given.parse().map(|position| Some((position, field)));
    position.map_err(|_| {
        Problem::invalid(
            field,
            "must be the id of an event, such as 42.3, or a log index, such as 42",
        )
    })
}

/// Waits until this node has applied the position that the reader saw on another node. A position after the end of the
/// log is refused: nobody can have seen it.
async fn wait_until_applied(
    app: &App,
    asked: Position,
    field: &'static str,
) -> Result<(), HandlerError> {
    if asked.index() <= app.table.feed.last_index() {
        return Ok(());
    }
    // A leader knows the end of the log at once.
    if let Ok(end) = app.node.read_barrier().await
        && end < asked.index()
    {
        return Err(after_the_end(field, asked, end).into());
    }
    let reached = app.node.wait_applied(asked.index(), CATCH_UP_TIMEOUT).await;
    reached
        .map(|_| ())
        .map_err(|error| match HandlerError::from(error) {
            HandlerError::Problem(problem) => HandlerError::Problem(problem),
            HandlerError::NotLeader | HandlerError::OutcomeUnknown(_)
                if matches!(app.node.readiness(), Readiness::Ready { .. }) =>
            {
                after_the_end(field, asked, app.node.applied_index()).into()
            }
            HandlerError::NotLeader | HandlerError::OutcomeUnknown(_) => {
                HandlerError::Problem(Problem::new(
                    Code::Timeout,
                    format!(
                        "this node has not applied {asked} in time; retry, or use another node"
                    ),
                ))
            }
        })
}
