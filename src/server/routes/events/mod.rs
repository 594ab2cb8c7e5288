//! `/v1/events`: what happens, in the order of the log, as server-sent events.
//!
//! Every node answers for itself, from what it has applied: the history is the same everywhere, so there is nothing to
//! ask the leader for, and a reader whose node has died goes on at another, after the last event it got. Nothing is
//! ever left out in silence: a reader who asks for something that is no longer kept, or who falls behind that far, is
//! told so.

pub mod filter;
pub mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use triarch_sdk::wire::{self, event};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::feed::{Gone, Position};
use crate::server::App;
use crate::server::protocol::json::Query;
use crate::server::protocol::problem::{Code, Failure, Problem};
use crate::server::protocol::response::INDEX;
use filter::Filter;
use stream::Following;

/// Readers at once on one node.
pub const READERS_MAX: usize = 1_000;
/// How long a reader is waited for that is ahead of this node.
const AHEAD_MAX: Duration = Duration::from_secs(5);

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(follow))
}

/// What happens, in the order of the log, as server-sent events. Every node tells the same under the same ids.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    params(wire::EventsQuery),
    responses((status = 200, description = "Messages without end; the data of each is an event", body = wire::Event, content_type = "text/event-stream"))
)]
async fn follow(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::read(
        query.as_deref(),
        &["queue", "job", "task", "state", "type", "after"],
    )?;
    if query.text("consistency").is_some() {
        return Err(Problem::invalid(
            "consistency",
            "every node tells what it has applied itself; there is nothing to choose",
        )
        .into());
    }
    let filter = Filter::read(&query)?;
    let asked = asked_position(&query, &headers)?;
    let place = Arc::clone(&app.readers).try_acquire_owned().map_err(|_| {
        Problem::new(
            Code::Unavailable,
            format!("{READERS_MAX} readers follow this node's events already; ask another node"),
        )
    })?;
    let after = match asked {
        Some(asked) => {
            wait_for(&app, asked).await?;
            asked
        }
        // A node that still catches up would tell of things long past.
        None => Position::whole(
            app.table
                .feed
                .last_index()
                .max(app.node.status().commit_index),
        ),
    };
    app.table.feed.read(after).map_err(gone)?;
    let index = app.table.feed.last_index();
    let following = Following::new(app, filter, after, place);
    let mut response = Response::new(Body::from_stream(following.messages()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(event::CONTENT_TYPE),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(INDEX, HeaderValue::from(index));
    Ok(response)
}

/// Where to go on. A reader that connects again asks for the same address as before: what it has seen since is newer.
fn asked_position(query: &Query, headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    let header = headers
        .get(event::LAST_EVENT_ID)
        .filter(|given| !given.is_empty());
    let (field, given) = match (header, query.text("after")) {
        (Some(given), _) => (event::LAST_EVENT_ID, given.to_str().unwrap_or_default()),
        (None, Some(given)) => ("after", given),
        (None, None) => return Ok(None),
    };
    given.parse().map(Some).map_err(|_| {
        Problem::invalid(
            field,
            "must be the id of an event, as 42.3, or a log index, as 42",
        )
    })
}

/// Whoever saw more on another node is waited for.
async fn wait_for(app: &App, asked: Position) -> Result<(), Failure> {
    if asked.index() <= app.table.feed.last_index() {
        return Ok(());
    }
    let reached = app.node.wait_applied(asked.index(), AHEAD_MAX).await;
    reached
        .map(|_| ())
        .map_err(|error| match Failure::from(error) {
            Failure::Problem(problem) => Failure::Problem(problem),
            Failure::NotLeader | Failure::Unknown(_) => Failure::Problem(Problem::new(
                Code::Timeout,
                format!("this node has not come to {asked} in time; retry, or ask another node"),
            )),
        })
}

fn gone(gone: Gone) -> Problem {
    Problem::new(
        Code::PositionGone,
        format!(
            "what came after the position asked for is not kept here any more; everything after {} is: read how things \
             stand now, and go on from there",
            gone.oldest
        ),
    )
    .with("oldest", gone.oldest.to_string())
}
