//! One logical call: as many tries as it takes, inside one deadline, under one request id.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::Rng;
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use url::Url;

use super::Client;
use crate::error::{Error, Tried};
use crate::wire::{Problem, ProblemCode, headers};

/// First and longest wait between two rounds over the masters.
const ROUND_WAIT_MIN: Duration = Duration::from_millis(20);
const ROUND_WAIT_MAX: Duration = Duration::from_millis(500);
/// A `Retry-After` beyond this is cut: the call has a deadline of its own.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Two masters that think the other leads must not keep a call busy.
const REDIRECTS_MAX: u32 = 4;
/// So much of an answer that is not understood is quoted.
const QUOTE_CHARS_MAX: usize = 200;

/// What to ask.
#[derive(Debug)]
pub(super) struct Call {
    method: Method,
    path: Vec<String>,
    query: Vec<(String, String)>,
    body: Option<Bytes>,
    content_type: &'static str,
    request_id: Option<String>,
    hold: Duration,
    deadline: Option<Duration>,
    patient: bool,
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
            hold: Duration::ZERO,
            deadline: None,
            patient: false,
        }
    }

    pub(super) fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path)
    }

    /// Adds the fields of a flat struct; those that are `None` are left out.
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

    /// With a body that is not JSON.
    pub(super) fn bytes(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self.content_type = "application/octet-stream";
        self
    }

    /// Makes it happen once, however often it is asked.
    pub(super) fn once(self) -> Self {
        self.keyed(Client::new_request_id())
    }

    /// As [`Call::once`], under an id that was used before.
    pub(super) fn keyed(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = Some(request_id.into());
        self
    }

    /// The cluster was asked to hold its answer for so long.
    pub(super) fn held(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// With its own deadline instead of the client's; what the answer is held for comes on top of either.
    pub(super) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Goes on until the deadline even while no master accepts a connection.
    pub(super) fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    /// Whether it may change anything, so that silence leaves something unknown.
    fn changes(&self) -> bool {
        self.method != Method::GET
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

/// What one try came to.
enum Step {
    Answer(Bytes),
    /// Final: the same everywhere.
    Refused(Problem),
    /// Somebody else is to be asked.
    Redirected(Url),
    /// Refused for now; nothing was changed.
    NotNow {
        problem: Option<Problem>,
        message: String,
        wait: Option<Duration>,
    },
    /// It never arrived.
    Unreachable(String),
    /// It may have arrived; whether it took effect is unknown.
    Silent(String),
    NotUnderstood(String),
}

impl Client {
    /// Makes the call and reads its answer.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
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
        let (master, body) = self.answer(&call).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Protocol {
            master,
            message: format!("{error}: {}", quote(&body)),
        })
    }

    async fn answer(&self, call: &Call) -> Result<(Url, Bytes), Error> {
        let masters = &self.inner.masters;
        let begun = Instant::now();
        let deadline = call
            .deadline
            .unwrap_or(self.inner.options.deadline)
            .saturating_add(call.hold);
        let mut story = Story::default();
        let mut master = masters.first();
        let mut redirects = 0;
        let mut failures_this_round = 0;
        let mut round_wait = ROUND_WAIT_MIN;
        let mut answer_timeout = self.inner.options.answer_timeout;
        loop {
            let left = deadline.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(story.end(call, deadline));
            }
            // The leader is asked for directly, which saves a hop. Once that has gone wrong, any master may forward:
            // the leader's own address may not be reachable from here.
            let direct = story.tried.is_empty();
            let limit = left.min(answer_timeout.saturating_add(call.hold));
            let mut step = self.step(call, &master, direct, limit).await?;
            if let Step::Redirected(to) = step {
                redirects += 1;
                if redirects <= REDIRECTS_MAX {
                    tracing::trace!(%master, %to, "redirected");
                    master = to;
                    continue;
                }
                let message = format!("redirects to {to} without end");
                step = Step::NotNow {
                    problem: None,
                    message,
                    wait: None,
                };
            }
            redirects = 0;
            let mut pause = None;
            let next = match step {
                Step::Answer(body) => {
                    masters.prefer(&master);
                    return Ok((master, body));
                }
                Step::Refused(problem) => {
                    masters.prefer(&master);
                    return Err(Error::Api(Box::new(problem)));
                }
                Step::NotUnderstood(message) => return Err(Error::Protocol { master, message }),
                Step::Redirected(to) => to,
                Step::NotNow {
                    problem,
                    message,
                    wait,
                } => {
                    story.tell(&master, message);
                    story.reached = true;
                    story.unknown &= call.changes();
                    let busy = problem
                        .as_ref()
                        .is_some_and(|problem| problem.status == 429);
                    story.refusal = problem;
                    pause = wait;
                    if busy {
                        // Too much is too much at every door.
                        failures_this_round = masters.count();
                        master
                    } else {
                        masters.forget(&master);
                        masters.after(&master)
                    }
                }
                Step::Unreachable(message) => {
                    masters.forget(&master);
                    story.tell(&master, message);
                    story.unknown &= call.changes();
                    story.refusal = None;
                    masters.after(&master)
                }
                Step::Silent(message) => {
                    masters.forget(&master);
                    story.tell(&master, message);
                    story.reached = true;
                    story.unknown = true;
                    story.refusal = None;
                    answer_timeout = answer_timeout.saturating_mul(2);
                    masters.after(&master)
                }
            };
            master = next;
            self.inner.retries.fetch_add(1, Ordering::Relaxed);
            if !story.reached
                && !call.patient
                && begun.elapsed() >= self.inner.options.unreachable_deadline
            {
                return Err(story.end(call, deadline));
            }
            failures_this_round += 1;
            if failures_this_round >= masters.count() {
                // Everybody was asked. Nobody is told to wait for the sake of a single master's trouble.
                let left = deadline.saturating_sub(begun.elapsed());
                tokio::time::sleep(
                    pause
                        .unwrap_or_default()
                        .max(jittered(round_wait))
                        .min(left),
                )
                .await;
                round_wait = (round_wait * 2).min(ROUND_WAIT_MAX);
                failures_this_round = 0;
            }
        }
    }

    async fn step(
        &self,
        call: &Call,
        master: &Url,
        direct: bool,
        limit: Duration,
    ) -> Result<Step, Error> {
        let url = call.url(master)?;
        let mut request = self.inner.http.request(call.method.clone(), url.clone());
        if let Some(id) = &call.request_id {
            request = request.header(headers::REQUEST_ID, id);
        }
        if direct {
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
                Err(error) if error.is_connect() => return Step::Unreachable(words(&error)),
                Err(error) => return Step::Silent(words(&error)),
            };
            let status = response.status();
            let head = response.headers().clone();
            match self.read(response).await {
                Ok(body) => judge(&url, status, &head, body),
                Err(step) => step,
            }
        };
        Ok(match tokio::time::timeout(limit, exchange).await {
            Ok(step) => step,
            Err(_) => Step::Silent(format!("no answer within {} ms", limit.as_millis())),
        })
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Bytes, Step> {
        let most = self.inner.options.answer_bytes_max;
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(body.freeze()),
                Ok(Some(chunk)) if body.len() + chunk.len() > most => {
                    return Err(Step::NotUnderstood(format!(
                        "the answer is longer than {most} bytes"
                    )));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(error) => return Err(Step::Silent(words(&error))),
            }
        }
    }
}

/// What an answer means.
fn judge(url: &Url, status: StatusCode, head: &HeaderMap, body: Bytes) -> Step {
    if status.is_success() {
        return Step::Answer(body);
    }
    if status == StatusCode::TEMPORARY_REDIRECT || status == StatusCode::PERMANENT_REDIRECT {
        return match head
            .get(LOCATION)
            .and_then(|to| to.to_str().ok())
            .and_then(|to| url.join(to).ok())
        {
            Some(mut to) => {
                to.set_path("");
                to.set_query(None);
                to.set_fragment(None);
                Step::Redirected(to)
            }
            None => Step::NotUnderstood("a redirect to nowhere".to_owned()),
        };
    }
    let problem: Option<Problem> = serde_json::from_slice(&body).ok();
    let message = match &problem {
        Some(problem) => problem.to_string(),
        None => format!("HTTP {status}: {}", quote(&body)),
    };
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            let wait = patience(head, problem.as_ref());
            Step::NotNow {
                problem,
                message,
                wait,
            }
        }
        StatusCode::GATEWAY_TIMEOUT | StatusCode::BAD_GATEWAY => Step::Silent(message),
        _ => match problem {
            Some(problem) => Step::Refused(problem),
            None => Step::NotUnderstood(message),
        },
    }
}

/// How long the cluster asks to be left alone. An election is over long before the whole second that `Retry-After`
/// must round up to, so a missing leader is looked for at the client's own pace unless milliseconds are told.
fn patience(head: &HeaderMap, problem: Option<&Problem>) -> Option<Duration> {
    let asked = match problem {
        Some(Problem {
            retry_after_ms: Some(retry_after_ms),
            ..
        }) => Some(Duration::from_millis(*retry_after_ms)),
        Some(problem) if problem.is(ProblemCode::NoLeader) => None,
        Some(_) | None => {
            let seconds = head
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok())
                .and_then(|text| text.parse().ok());
            seconds.map(Duration::from_secs)
        }
    };
    asked.map(|wait| wait.min(RETRY_AFTER_MAX))
}

/// What is known of a call that has not been answered yet.
#[derive(Default)]
struct Story {
    tried: Vec<Tried>,
    /// Somebody accepted a connection.
    reached: bool,
    /// A try may have taken effect.
    unknown: bool,
    /// The latest word, when it was a refusal for now.
    refusal: Option<Problem>,
}

impl Story {
    fn tell(&mut self, master: &Url, message: String) {
        tracing::debug!(%master, message, "a try failed");
        match self.tried.iter_mut().find(|one| &one.master == master) {
            Some(one) => one.message = message,
            None => self.tried.push(Tried {
                master: master.clone(),
                message,
            }),
        }
    }

    fn end(self, call: &Call, deadline: Duration) -> Error {
        if self.unknown {
            let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            return Error::Timeout {
                request_id: call.request_id.clone(),
                deadline_ms,
                tried: self.tried,
            };
        }
        match self.refusal {
            Some(problem) if !problem.is(ProblemCode::NoLeader) => Error::Api(Box::new(problem)),
            Some(_) | None => Error::NoCluster { tried: self.tried },
        }
    }
}

/// Between half and the whole of it, so that many clients do not come back at once.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// The innermost cause says what happened; the outer ones repeat the URL.
pub(super) fn words(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

pub(super) fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut quoted: String = text.chars().take(QUOTE_CHARS_MAX).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    quoted
}
