//! One logical call: a request, and the driver of its attempts. [`CallAttempts`] makes all decisions.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use url::Url;

use super::handle::Client;
use super::options::ClientOptions;
use super::retry::{Attempt, AttemptOutcome, CallAttempts, NextStep, Progress, RetryPolicy};
use super::text::{quote, root_cause};
use crate::error::Error;
use crate::wire::{Problem, ProblemCode, headers};

/// A request, and the limits of its attempts.
pub(super) struct Call {
    method: Method,
    path: Vec<String>,
    query: Vec<(String, String)>,
    body: Option<Bytes>,
    content_type: &'static str,
    request_id: Option<String>,
    worker_secret: Option<String>,
    hold: Duration,
    deadline: Option<Duration>,
    patient: bool,
    once: bool,
}

impl Call {
    pub(super) fn new(method: Method, path: &[&str]) -> Self {
        Self {
            method,
            path: path.iter().map(|&segment| segment.to_owned()).collect(),
            query: Vec::new(),
            body: None,
            content_type: "application/json",
            request_id: None,
            worker_secret: None,
            hold: Duration::ZERO,
            deadline: None,
            patient: false,
            once: false,
        }
    }

    pub(super) fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path)
    }

    /// Adds the fields of a flat struct. Fields that are `None` are left out.
    pub(super) fn query<T: Serialize>(mut self, query: &T) -> Result<Self, Error> {
        let fields = serde_json::to_value(query).map_err(unserializable)?;
        for (name, value) in fields.as_object().into_iter().flatten() {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::String(text) => self.query.push((name.clone(), text.clone())),
                other => self.query.push((name.clone(), other.to_string())),
            }
        }
        Ok(self)
    }

    pub(super) fn json<T: Serialize>(mut self, body: &T) -> Result<Self, Error> {
        self.body = Some(serde_json::to_vec(body).map_err(unserializable)?.into());
        Ok(self)
    }

    /// Sets a body that is not JSON.
    pub(super) fn bytes(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self.content_type = "application/octet-stream";
        self
    }

    /// Adds a fresh request id, so that the change is applied once, however often the call is repeated.
    pub(super) fn with_request_id(self) -> Self {
        self.with_given_request_id(Client::new_request_id())
    }

    /// Adds the request id of an earlier call. See [`Call::with_request_id`].
    pub(super) fn with_given_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = Some(request_id.into());
        self
    }

    /// Adds the secret of the worker in whose name the call is made.
    pub(super) fn with_worker_secret(mut self, secret: Option<String>) -> Self {
        self.worker_secret = secret;
        self
    }

    /// Sets how long the cluster is asked to hold its answer.
    pub(super) fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Sets a deadline instead of the client's. The hold is added to either.
    pub(super) fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Keeps trying until the deadline even while no master accepts a connection.
    pub(super) fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    /// Ends the call with the first attempt whose outcome is unknown, because a repetition may change something more.
    pub(super) fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Returns the limits of this call, given those of the client.
    fn policy(&self, options: &ClientOptions) -> RetryPolicy {
        let deadline = self.deadline.unwrap_or(options.deadline);
        RetryPolicy {
            deadline: deadline.saturating_add(self.hold),
            unreachable_deadline: (!self.patient).then_some(options.unreachable_deadline),
            answer_timeout: options.answer_timeout,
            hold: self.hold,
            mutating: self.method != Method::GET,
            once: self.once,
            request_id: self.request_id.clone(),
        }
    }

    pub(super) fn url(&self, master: &Url) -> Result<Url, Error> {
        let mut url = master.clone();
        {
            let Ok(mut segments) = url.path_segments_mut() else {
                return Err(Error::Usage(format!("{master} cannot be a master's URL")));
            };
            segments.pop_if_empty().extend(&self.path);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }
}

fn unserializable(error: serde_json::Error) -> Error {
    Error::Usage(format!("the request cannot be written as JSON: {error}"))
}

impl Client {
    /// Makes the call and reads its answer.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        self.call_with(call, |body| serde_json::from_slice(body))
            .await
    }

    /// Makes the call and reads its answer with `read`.
    pub(super) async fn call_with<T>(
        &self,
        call: Call,
        read: impl FnOnce(&[u8]) -> Result<T, serde_json::Error>,
    ) -> Result<T, Error> {
        if let Some(odd) = call
            .path
            .iter()
            .find(|segment| matches!(segment.as_str(), "" | "." | ".."))
        {
            return Err(Error::Api(Box::new(Problem::new(
                ProblemCode::NotFound,
                format!("\"{odd}\" is not an id"),
            ))));
        }
        let (master, body) = self.perform(&call).await?;
        read(&body).map_err(|error| Error::Protocol {
            master,
            message: format!("{error}: {}", quote(&body)),
        })
    }

    /// Performs the steps of the call's attempts until there is a result.
    async fn perform(&self, call: &Call) -> Result<(Url, Bytes), Error> {
        let policy = call.policy(&self.inner.options);
        let mut attempts = CallAttempts::new(&self.inner.masters, policy);
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
            let outcome = self.send(call, &attempt).await?;
            match attempts.record(outcome) {
                Progress::Done(master, body) => return Ok((master, body)),
                Progress::Failed(error) => return Err(error),
                Progress::Retry => {
                    self.inner.retries.fetch_add(1, Ordering::Relaxed);
                }
                Progress::Redirected => {}
            }
        }
    }

    async fn send(&self, call: &Call, attempt: &Attempt) -> Result<AttemptOutcome, Error> {
        let url = call.url(&attempt.master)?;
        let mut request = self.inner.http.request(call.method.clone(), url.clone());
        if let Some(id) = &call.request_id {
            request = request.header(headers::REQUEST_ID, id);
        }
        if let Some(secret) = &call.worker_secret {
            request = request.header(headers::WORKER_SECRET, secret);
        }
        if attempt.direct {
            request = request.header(headers::FORWARD, "never");
        }
        if let Some(body) = &call.body {
            request = request
                .header(CONTENT_TYPE, call.content_type)
                .body(body.clone());
        }
        let exchange = async {
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) if error.is_connect() => {
                    return AttemptOutcome::Unreachable(root_cause(&error));
                }
                Err(error) => return AttemptOutcome::NoAnswer(root_cause(&error)),
            };
            let status = response.status();
            let headers = response.headers().clone();
            match self.read(response).await {
                Ok(body) => AttemptOutcome::Answered {
                    url,
                    status,
                    headers,
                    body,
                },
                Err(outcome) => outcome,
            }
        };
        Ok(
            match tokio::time::timeout(attempt.timeout, exchange).await {
                Ok(outcome) => outcome,
                Err(_) => AttemptOutcome::NoAnswer(format!(
                    "no answer within {} ms",
                    attempt.timeout.as_millis()
                )),
            },
        )
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Bytes, AttemptOutcome> {
        let most = self.inner.options.answer_bytes_max;
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(body.freeze()),
                Ok(Some(chunk)) if body.len() + chunk.len() > most => {
                    return Err(AttemptOutcome::Unreadable(format!(
                        "the answer is longer than {most} bytes"
                    )));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(error) => return Err(AttemptOutcome::NoAnswer(root_cause(&error))),
            }
        }
    }
}
