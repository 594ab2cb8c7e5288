//! Long polling: the requested wait, and the problem for a node that holds too many waiting requests.

use std::time::Duration;

use crate::server::app::App;
use crate::server::http::client_address::ClientAddress;
use crate::server::http::shared_pool::{PoolFull, Share};
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::{Query, WAIT_MS_MAX};

/// Reads `wait_ms`, bounded by [`WAIT_MS_MAX`].
pub fn wait_time(query: &Query) -> Result<Option<Duration>, Problem> {
    let wait_ms: Option<u64> = query.parsed("wait_ms", "a number of milliseconds")?;
    Ok(wait_ms.map(|wait_ms| Duration::from_millis(wait_ms.min(WAIT_MS_MAX))))
}

/// Builds the problem for a node whose bound of waiting requests is reached.
pub fn too_many_waiters() -> HandlerError {
    Problem::new(
        Code::RateLimited,
        "this node has reached its limit of waiting requests; retry later",
    )
    .into()
}

/// Takes places for a request that waits for this many tasks or jobs.
pub fn take_places(app: &App, client: ClientAddress, count: usize) -> Result<Share, HandlerError> {
    app.wait_places
        .take(client, count)
        .map_err(|full| match full {
            PoolFull::All => too_many_waiters(),
            PoolFull::Client => Problem::new(
                Code::RateLimited,
                format!(
                    "requests from your address wait for as many tasks and jobs as one address may on this node ({}); retry \
                     when some have ended, or wait at another node",
                    app.wait_places.client_max()
                ),
            )
            .into(),
        })
}
