//! Retry policy of calls, free of I/O: which master to ask next, with which timeout, after which wait, and the result.
//!
//! [`CallAttempts`] is the state machine of one logical call, [`StreamAttempts`] that of opening a stream. The driver
//! asks for the [`NextStep`], performs it, and feeds the outcome back. Both get the elapsed time as an argument and
//! touch neither sockets nor clocks. The twin in Python is `sdk/python/src/triarch/_policy.py`.
//!
//! # Invariants
//!
//! - No attempt and no wait extends beyond the deadline.
//! - The first attempt forbids forwarding (`direct`), later ones allow it: the leader may not be reachable from here.
//! - The masters are tried in rounds. There is a wait only after every master has failed, or when the cluster is busy.
//! - A call whose outcome is unknown never ends as a plain failure ([`Error::Timeout`]).
//! - A call that is not safe to repeat ends with its first unknown outcome.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use url::Url;

use super::masters::Masters;
use super::text::quote;
use crate::error::{Error, Tried};
use crate::wire::{Problem, ProblemCode};

/// First and longest wait between two rounds over the masters.
const ROUND_DELAY_MIN: Duration = Duration::from_millis(20);
const ROUND_DELAY_MAX: Duration = Duration::from_millis(500);
/// Upper bound for `Retry-After`: the call has a deadline of its own.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Maximum number of redirects, because two masters that each consider the other the leader must not keep a call busy.
const REDIRECTS_MAX: u32 = 4;

/// Limits of one call.
#[derive(Debug, Clone)]
pub(super) struct RetryPolicy {
    /// Limit of the whole call, hold included.
    pub(super) deadline: Duration,
    /// Limit while no master accepts a connection. `None`: only the deadline applies.
    pub(super) unreachable_deadline: Option<Duration>,
    /// Timeout of the first attempt beyond the hold. Doubled after each attempt without an answer.
    pub(super) answer_timeout: Duration,
    /// Time for which the cluster was asked to hold its answer.
    pub(super) hold: Duration,
    /// Whether the call may change anything, so that a lost answer leaves the outcome unknown.
    pub(super) mutating: bool,
    /// Whether the call ends with the first attempt whose outcome is unknown, because a repetition may change something
    /// more.
    pub(super) once: bool,
    /// The request id of the change, over all attempts.
    pub(super) request_id: Option<String>,
}

/// The next step of the driver.
#[derive(Debug)]
pub(super) enum NextStep {
    /// Ask this master.
    Send(Attempt),
    /// Wait, then ask for the next step.
    Wait(Duration),
    /// The call has failed.
    Fail(Error),
}

/// One request to one master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) master: Url,
    /// The master must not forward the request: it must be answered by the leader itself.
    pub(super) direct: bool,
    pub(super) timeout: Duration,
}

/// The outcome of one [`Attempt`].
#[derive(Debug)]
pub(super) enum AttemptOutcome {
    /// A whole answer.
    Answered {
        /// The URL that was asked, which redirects may be relative to.
        url: Url,
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    },
    /// No connection, so the request never arrived.
    Unreachable(String),
    /// No complete answer, so the request may have arrived.
    NoAnswer(String),
    /// An answer that is not read to its end.
    Unreadable(String),
}

/// The meaning of an outcome for the call.
#[derive(Debug)]
pub(super) enum Progress {
    /// The call has succeeded, by the answer of this master.
    Done(Url, Bytes),
    /// The call has failed for good.
    Failed(Error),
    /// The attempt failed; there is another step.
    Retry,
    /// Another master is to be asked at once.
    Redirected,
}

/// The meaning of a whole answer.
enum Answer {
    Success(Bytes),
    /// Final: every master would answer the same.
    Refused(Problem),
    Redirect(Url),
    /// Refused for now; nothing was changed.
    Unavailable {
        problem: Option<Problem>,
        message: String,
        retry_after: Option<Duration>,
    },
    /// The outcome is unknown to the master that answered.
    Unknown(String),
    NotUnderstood(String),
}

/// The attempts of one call.
#[derive(Debug)]
pub(super) struct CallAttempts<'a> {
    masters: &'a Masters,
    policy: RetryPolicy,
    master: Url,
    answer_timeout: Duration,
    redirects: u32,
    failures_this_round: usize,
    round_delay: Duration,
    /// A wait that is due before the next attempt.
    wait: Option<Duration>,
    /// An attempt has failed since the last step.
    failed: bool,
    tried: Vec<Tried>,
    /// Some master accepted a connection.
    reached: bool,
    /// An attempt may have taken effect.
    unknown: bool,
    /// The latest refusal for now, unless something else has happened since.
    refusal: Option<Problem>,
}

impl<'a> CallAttempts<'a> {
    pub(super) fn new(masters: &'a Masters, policy: RetryPolicy) -> Self {
        Self {
            masters,
            master: masters.first(),
            answer_timeout: policy.answer_timeout,
            policy,
            redirects: 0,
            failures_this_round: 0,
            round_delay: ROUND_DELAY_MIN,
            wait: None,
            failed: false,
            tried: Vec::new(),
            reached: false,
            unknown: false,
            refusal: None,
        }
    }

    /// Returns the next step of a call that began `elapsed` ago.
    pub(super) fn next(&mut self, elapsed: Duration) -> NextStep {
        let left = self.policy.deadline.saturating_sub(elapsed);
        let failed = std::mem::take(&mut self.failed);
        let hopeless = self
            .policy
            .unreachable_deadline
            .is_some_and(|limit| failed && !self.reached && elapsed >= limit);
        if hopeless {
            return NextStep::Fail(self.error());
        }
        if let Some(wait) = self.wait.take() {
            return NextStep::Wait(wait.min(left));
        }
        if left.is_zero() {
            return NextStep::Fail(self.error());
        }
        NextStep::Send(Attempt {
            master: self.master.clone(),
            direct: self.tried.is_empty(),
            timeout: match self.policy.once {
                true => left,
                false => left.min(self.answer_timeout.saturating_add(self.policy.hold)),
            },
        })
    }

    /// Takes the outcome of the latest attempt.
    pub(super) fn record(&mut self, outcome: AttemptOutcome) -> Progress {
        let answer = match outcome {
            AttemptOutcome::Answered {
                url,
                status,
                headers,
                body,
            } => interpret(&url, status, &headers, body),
            AttemptOutcome::Unreachable(message) => return self.unreachable(message),
            AttemptOutcome::NoAnswer(message) => return self.no_answer(message),
            AttemptOutcome::Unreadable(message) => Answer::NotUnderstood(message),
        };
        match answer {
            Answer::Success(body) => {
                self.masters.prefer(&self.master);
                Progress::Done(self.master.clone(), body)
            }
            Answer::Refused(problem) => {
                self.masters.prefer(&self.master);
                Progress::Failed(Error::Api(Box::new(problem)))
            }
            Answer::NotUnderstood(message) => Progress::Failed(Error::Protocol {
                master: self.master.clone(),
                message,
            }),
            Answer::Redirect(to) => self.redirected(to),
            Answer::Unavailable {
                problem,
                message,
                retry_after,
            } => self.unavailable(problem, message, retry_after),
            Answer::Unknown(message) => self.no_answer(message),
        }
    }

    fn redirected(&mut self, to: Url) -> Progress {
        self.redirects += 1;
        if self.redirects > REDIRECTS_MAX {
            return self.unavailable(
                None,
                format!("too many redirects, the last one to {to}"),
                None,
            );
        }
        tracing::trace!(master = %self.master, %to, "redirected");
        self.master = to;
        Progress::Redirected
    }

    fn unavailable(
        &mut self,
        problem: Option<Problem>,
        message: String,
        retry_after: Option<Duration>,
    ) -> Progress {
        self.note_failure(message);
        self.reached = true;
        self.unknown &= self.policy.mutating;
        let busy = problem
            .as_ref()
            .is_some_and(|problem| problem.status == 429);
        self.refusal = problem;
        if busy {
            // Another master would refuse it as well, so the round is over.
            self.failures_this_round = self.masters.count();
            self.retry_at(self.master.clone(), retry_after)
        } else {
            self.masters.forget(&self.master);
            self.retry_at(self.masters.after(&self.master), retry_after)
        }
    }

    fn unreachable(&mut self, message: String) -> Progress {
        self.masters.forget(&self.master);
        self.note_failure(message);
        self.unknown &= self.policy.mutating;
        self.refusal = None;
        self.retry_at(self.masters.after(&self.master), None)
    }

    fn no_answer(&mut self, message: String) -> Progress {
        self.masters.forget(&self.master);
        self.note_failure(message);
        self.reached = true;
        self.unknown = true;
        self.refusal = None;
        if self.policy.once {
            return Progress::Failed(self.error());
        }
        self.answer_timeout = self.answer_timeout.saturating_mul(2);
        self.retry_at(self.masters.after(&self.master), None)
    }

    fn retry_at(&mut self, master: Url, retry_after: Option<Duration>) -> Progress {
        self.master = master;
        self.redirects = 0;
        self.failed = true;
        self.failures_this_round += 1;
        if self.failures_this_round >= self.masters.count() {
            // Every master was asked. A failure of a single master causes no wait.
            let delay = jittered(self.round_delay);
            self.wait = Some(retry_after.unwrap_or_default().max(delay));
            self.round_delay = (self.round_delay * 2).min(ROUND_DELAY_MAX);
            self.failures_this_round = 0;
        }
        Progress::Retry
    }

    fn note_failure(&mut self, message: String) {
        tracing::debug!(master = %self.master, message, "an attempt failed");
        match self.tried.iter_mut().find(|one| one.master == self.master) {
            Some(one) => one.message = message,
            None => self.tried.push(Tried {
                master: self.master.clone(),
                message,
            }),
        }
    }

    /// Returns the error of a call that gives up.
    fn error(&mut self) -> Error {
        let tried = std::mem::take(&mut self.tried);
        if self.unknown {
            let deadline_ms = u64::try_from(self.policy.deadline.as_millis()).unwrap_or(u64::MAX);
            return Error::Timeout {
                request_id: self.policy.request_id.clone(),
                deadline_ms,
                tried,
            };
        }
        match self.refusal.take() {
            Some(problem) if !problem.is(ProblemCode::NoLeader) => Error::Api(Box::new(problem)),
            Some(_) | None => Error::NoCluster { tried },
        }
    }
}

fn interpret(url: &Url, status: StatusCode, headers: &HeaderMap, body: Bytes) -> Answer {
    if status.is_success() {
        return Answer::Success(body);
    }
    if status == StatusCode::TEMPORARY_REDIRECT || status == StatusCode::PERMANENT_REDIRECT {
        return match headers
            .get(LOCATION)
            .and_then(|to| to.to_str().ok())
            .and_then(|to| url.join(to).ok())
        {
            Some(mut to) => {
                to.set_path("");
                to.set_query(None);
                to.set_fragment(None);
                Answer::Redirect(to)
            }
            None => Answer::NotUnderstood("a redirect without a valid Location header".to_owned()),
        };
    }
    let problem: Option<Problem> = serde_json::from_slice(&body).ok();
    let message = match &problem {
        Some(problem) => problem.to_string(),
        None => format!("HTTP {status}: {}", quote(&body)),
    };
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Answer::Unavailable {
            retry_after: retry_after(headers, problem.as_ref()),
            problem,
            message,
        },
        StatusCode::GATEWAY_TIMEOUT | StatusCode::BAD_GATEWAY => Answer::Unknown(message),
        _ => match problem {
            Some(problem) => Answer::Refused(problem),
            // A proxy in between has a limit of its own.
            None if status == StatusCode::PAYLOAD_TOO_LARGE => {
                Answer::Refused(Problem::new(ProblemCode::PayloadTooLarge, message))
            }
            None => Answer::NotUnderstood(message),
        },
    }
}

/// Returns how long the cluster asks the client to wait. `Retry-After` must round up to a whole second, and an election
/// is over long before that. So without milliseconds, the client looks for a missing leader at its own pace.
fn retry_after(headers: &HeaderMap, problem: Option<&Problem>) -> Option<Duration> {
    let asked = match problem {
        Some(Problem {
            retry_after_ms: Some(retry_after_ms),
            ..
        }) => Some(Duration::from_millis(*retry_after_ms)),
        Some(problem) if problem.is(ProblemCode::NoLeader) => None,
        Some(_) | None => {
            let seconds = headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok())
                .and_then(|text| text.parse().ok());
            seconds.map(Duration::from_secs)
        }
    };
    asked.map(|delay| delay.min(RETRY_AFTER_MAX))
}

/// Returns between half and all of `delay`, so that not all clients come back at once.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Limits of opening a stream.
#[derive(Debug, Clone)]
pub(super) struct StreamPolicy {
    /// Limit once some master was reached.
    pub(super) deadline: Duration,
    /// Limit while no master accepts a connection.
    pub(super) unreachable_deadline: Duration,
    /// Timeout of one attempt.
    pub(super) open_timeout: Duration,
    /// First and longest wait between two rounds over the masters.
    pub(super) round_delay: Duration,
    pub(super) round_delay_max: Duration,
}

/// The attempts to open one stream. Limits are checked after whole rounds over the masters.
#[derive(Debug)]
pub(super) struct StreamAttempts<'a> {
    masters: &'a Masters,
    policy: StreamPolicy,
    master: Url,
    round_delay: Duration,
    left_in_round: usize,
    /// A round over the masters has ended.
    round_over: bool,
    tried: Vec<Tried>,
    reached: bool,
    /// The latest refusal of this round that has a reason of its own.
    refusal: Option<Box<Problem>>,
}

impl<'a> StreamAttempts<'a> {
    pub(super) fn new(masters: &'a Masters, first: Url, policy: StreamPolicy) -> Self {
        Self {
            masters,
            master: first,
            round_delay: policy.round_delay,
            policy,
            left_in_round: masters.count(),
            round_over: false,
            tried: Vec::new(),
            reached: false,
            refusal: None,
        }
    }

    /// Returns the next step of an opening that began `elapsed` ago.
    pub(super) fn next(&mut self, elapsed: Duration) -> NextStep {
        if std::mem::take(&mut self.round_over) {
            let limit = if self.reached {
                self.policy.deadline
            } else {
                self.policy.unreachable_deadline
            };
            if elapsed >= limit {
                let tried = std::mem::take(&mut self.tried);
                // A cluster that answers is reached, and says itself why there is no stream.
                return NextStep::Fail(match self.refusal.take() {
                    Some(problem) => Error::Api(problem),
                    None => Error::NoCluster { tried },
                });
            }
            self.refusal = None;
            let delay = jittered(self.round_delay);
            self.round_delay = (self.round_delay * 2).min(self.policy.round_delay_max);
            self.left_in_round = self.masters.count();
            return NextStep::Wait(delay);
        }
        NextStep::Send(Attempt {
            master: self.master.clone(),
            direct: false,
            timeout: self.policy.open_timeout,
        })
    }

    /// Records that the attempt failed on a master that accepted the connection.
    pub(super) fn refused(&mut self, message: String) {
        self.reached = true;
        self.unreachable(message);
    }

    /// Records that a master refused the attempt with this problem.
    pub(super) fn refused_with(&mut self, problem: Box<Problem>) {
        self.refused(problem.to_string());
        if !problem.is(ProblemCode::NoLeader) {
            self.refusal = Some(problem);
        }
    }

    /// Records that the attempt failed on a master that cannot be reached.
    pub(super) fn unreachable(&mut self, message: String) {
        self.tried.retain(|one| one.master != self.master);
        self.tried.push(Tried {
            master: self.master.clone(),
            message,
        });
        self.master = self.masters.after(&self.master);
        self.left_in_round = self.left_in_round.saturating_sub(1);
        self.round_over = self.left_in_round == 0;
    }

    /// Returns the master of the current attempt, or of the next one.
    pub(super) fn master(&self) -> &Url {
        &self.master
    }
}

#[cfg(test)]
mod tests;
