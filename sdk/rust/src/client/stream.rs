//! The beginning of an answer that is read as it comes.

use reqwest::StatusCode;

use super::call::{quote, words};
use crate::error::Error;
use crate::wire::Problem;

/// Why a master did not begin.
pub(super) enum Refused {
    /// All would say the same.
    ForGood(Error),
    NotNow(String),
    Unreachable(String),
}

/// Asks one master, and gives its answer once that has begun.
pub(super) async fn begin(request: reqwest::RequestBuilder) -> Result<reqwest::Response, Refused> {
    let response = request.send().await.map_err(|error| {
        let message = words(&error);
        if error.is_connect() {
            Refused::Unreachable(message)
        } else {
            Refused::NotNow(message)
        }
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.bytes().await.unwrap_or_default();
    Err(match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            Refused::ForGood(Error::Api(Box::new(problem)))
        }
        Ok(problem) => Refused::NotNow(problem.to_string()),
        Err(_) => Refused::NotNow(format!("HTTP {status}: {}", quote(&body))),
    })
}
