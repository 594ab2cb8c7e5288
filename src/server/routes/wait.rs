//! Long polling: the requested wait, and the problem for a node that holds too many waiting requests.

use std::time::Duration;

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
