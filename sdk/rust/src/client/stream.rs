//! Streamed answers: opening one at one of the masters.

use reqwest::StatusCode;
use tokio::time::{Instant, timeout};
use url::Url;

use super::handle::Client;
use super::retry::{NextStep, StreamAttempts, StreamPolicy};
use super::text::{quote, root_cause};
use crate::error::Error;
use crate::wire::Problem;

/// The reason why a master did not begin a stream.
enum OpenError {
    /// Final: every master would answer the same.
    Final(Error),
    /// Not now, or not by this master.
    Refused(String),
    /// The same, with the reason in the answer.
    Problem(Box<Problem>),
    Unreachable(String),
}

/// Sends the request to one master. Returns its response once that has begun.
async fn open(request: reqwest::RequestBuilder) -> Result<reqwest::Response, OpenError> {
    let response = request.send().await.map_err(|error| {
        let message = root_cause(&error);
        if error.is_connect() {
            OpenError::Unreachable(message)
        } else {
            OpenError::Refused(message)
        }
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.bytes().await.unwrap_or_default();
    Err(match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            OpenError::Final(Error::Api(Box::new(problem)))
        }
        Ok(problem) => OpenError::Problem(Box::new(problem)),
        Err(_) => OpenError::Refused(format!("HTTP {status}: {}", quote(&body))),
    })
}

impl Client {
    /// Opens a stream at the first master that begins one, and returns it with its master. After each failure it calls
    /// `note_next` with the master to try next.
    pub(super) async fn open_stream<F>(
        &self,
        first: Url,
        policy: StreamPolicy,
        request: impl Fn(&Url) -> Result<reqwest::RequestBuilder, Error>,
        mut note_next: F,
    ) -> Result<(Url, reqwest::Response), Error>
    where
        F: FnMut(&Url),
    {
        let mut attempts = StreamAttempts::new(&self.inner.masters, first, policy);
        let begun = Instant::now();
        loop {
            let attempt = match attempts.next(begun.elapsed()) {
                NextStep::Send(attempt) => attempt,
                NextStep::Wait(delay) => {
                    tokio::time::sleep(delay).await;
                    continue;
                }
                NextStep::Fail(error) => return Err(error),
            };
            let opened = timeout(attempt.timeout, open(request(&attempt.master)?)).await;
            match opened {
                Ok(Ok(response)) => return Ok((attempt.master, response)),
                Ok(Err(OpenError::Final(error))) => return Err(error),
                Ok(Err(OpenError::Refused(message))) => attempts.refused(message),
                Ok(Err(OpenError::Problem(problem))) => attempts.refused_with(problem),
                Ok(Err(OpenError::Unreachable(message))) => attempts.unreachable(message),
                Err(_) => {
                    let limit_ms = attempt.timeout.as_millis();
                    attempts.refused(format!("no answer within {limit_ms} ms"));
                }
            }
            note_next(attempts.master());
        }
    }
}
