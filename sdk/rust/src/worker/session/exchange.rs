//! The exchange with the leader: polls for work and reports of results.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

use super::backoff::Backoff;
use super::poll_pacing::PollPacing;
use super::state::{LeaderContact, Session, SessionEnd};
use crate::error::Error;
use crate::wire::{
    LeasedTask, PartProblem, Poll, PollAnswer, ProblemCode, Report, ReportAnswer, RunningTask,
    UnreadableTask,
};
use crate::worker::attempt_registry::{BatchKind, LeaseKey, ResultBatch};
use crate::worker::attempt_runner;
use crate::worker::executor::{Executor, Outcome, StopReason, error_summary};

/// Maximum hold of a poll that carries results when there is no work, because the worker waits for their
/// acknowledgements.
const POLL_HOLD_WITH_RESULTS: Duration = Duration::from_millis(50);
/// Maximum time a result waits for the next poll, while there is more work than slots. The poll in flight returns, and
/// the result goes with the next. So one request and one commit carry many results and the tasks that take their place.
/// See [`poll_pacing`](super::poll_pacing).
const RESULT_DELAY_MAX: Duration = Duration::from_millis(20);
/// Maximum time of a poll or a report, in addition to its hold.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Minimum hold of an answer with nothing in it. One that comes sooner is followed by a pause, so that a broken cluster
/// is not polled in a tight loop.
const EMPTY_ANSWER_MIN: Duration = Duration::from_millis(20);
type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

struct Polled {
    asked: usize,
    /// How long the cluster was asked to hold an empty answer.
    wait: Duration,
    /// The leases it confirmed, to which the answer refers.
    sent: Vec<RunningTask>,
    begun: Instant,
    batch: ResultBatch,
    answer: Result<PollAnswer, Error>,
}

pub(super) struct Reported {
    begun: Instant,
    batch: ResultBatch,
    answer: Result<ReportAnswer, Error>,
}

impl<E: Executor> Session<E> {
    /// Polls for work whenever a slot is free, and reports results as they come. Ends when the worker is asked to leave
    /// and is idle or out of time, or is no longer known.
    pub(super) async fn exchange(self: &Arc<Self>, running: &mut JoinSet<()>) -> SessionEnd {
        let mut poll: Pending<Polled> = None;
        let mut report: Pending<Reported> = None;
        let mut poll_backoff = Backoff::default();
        let mut report_backoff = Backoff::default();
        let mut contact = self.leader_contact.subscribe();
        let mut polled_in = LeaderContact::default();
        let mut polled_at = Instant::now();
        let mut pacing = PollPacing::default();
        let mut grace: Pending<()> = None;
        // Lowered when an answer with this many tasks could not be read.
        let mut ask_max = usize::MAX;
        loop {
            while running.try_join_next().is_some() {}
            let free = self.attempts.free();
            let mut delayed_until =
                pacing.delayed_until(Instant::now(), free, self.attempts.slots());
            if let Some(until) = self.attempts.paused_until() {
                // A poll that waits would take the same tasks again.
                (poll, delayed_until) = (None, Some(until));
            }
            if self.is_leaving() {
                (poll, delayed_until) = (None, None);
                if self.attempts.is_idle() {
                    return SessionEnd::Leaving;
                }
                if grace.is_none() {
                    let left = self.attempts.running();
                    tracing::info!(running = left, "draining: taking no more tasks");
                    grace = Some(Box::pin(self.clone().grace()));
                }
            } else if poll.is_none()
                && poll_backoff.is_over()
                && free > 0
                && delayed_until.is_none()
            {
                polled_in = contact.borrow_and_update().clone();
                polled_at = Instant::now();
                poll = Some(self.poll(ask_max));
            }
            // A result that no poll carries is reported alone, so that it never waits for new work.
            let next_poll_soon = pacing.has_backlog()
                && (poll.is_some() || delayed_until.is_some())
                && polled_at.elapsed() < RESULT_DELAY_MAX;
            let has_results = self.attempts.has_results();
            if has_results && report.is_none() && report_backoff.is_over() && !next_poll_soon {
                report = Some(self.report());
            }
            tokio::select! {
                polled = ready(&mut poll) => {
                    poll = None;
                    ask_max = match &polled.answer {
                        Err(Error::Protocol { .. }) => (polled.asked / 2).max(1),
                        Ok(_) | Err(_) => usize::MAX,
                    };
                    match self.polled(polled, running) {
                        Ok(got_all) => {
                            pacing.record_poll(polled_at, Instant::now(), got_all);
                            poll_backoff.reset();
                        }
                        Err(Some(end)) => return end,
                        Err(None) => poll_backoff.increase(),
                    }
                }
                reported = ready(&mut report) => {
                    report = None;
                    match self.reported(reported) {
                        Ok(()) => report_backoff.reset(),
                        Err(Some(end)) => return end,
                        Err(None) => report_backoff.increase(),
                    }
                }
                () = self.attempts.changed() => {}
                () = tokio::time::sleep_until(polled_at + RESULT_DELAY_MAX), if has_results && next_poll_soon => {}
                () = until(delayed_until), if poll.is_none() => {}
                () = poll_backoff.over(), if !poll_backoff.is_over() => {}
                () = report_backoff.over(), if !report_backoff.is_over() => {}
                Ok(()) = contact.changed() => {
                    let now = contact.borrow().clone();
                    if poll.is_some() && now != polled_in {
                        let leader = now.leader.as_ref().map(Url::as_str);
                        tracing::info!(leader, "polling again after a lapse or a change of leader");
                        poll = None;
                    }
                }
                () = self.leaving(), if grace.is_none() => {}
                () = ready(&mut grace) => return SessionEnd::Leaving,
            }
        }
    }

    /// Sends one poll with the results and leases to report. Asks for `ask_max` tasks at most.
    fn poll(self: &Arc<Self>, ask_max: usize) -> Pin<Box<dyn Future<Output = Polled> + Send>> {
        let mut batch = self.attempts.take_results(BatchKind::Poll);
        let wait = if batch.is_empty() {
            self.config.poll_wait
        } else {
            POLL_HOLD_WITH_RESULTS
        };
        // The cluster settles the results before it looks at the leases. By then theirs are over.
        let mut sent = self.attempts.held_leases();
        sent.retain(|running| !batch.holds(running));
        let asked = self.attempts.free().min(ask_max);
        let request = Poll {
            max: u32::try_from(asked).unwrap_or(u32::MAX),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            results: batch.results(),
            running: Some(sent.clone()),
        };
        let session = self.clone();
        Box::pin(async move {
            let begun = Instant::now();
            let answer = session
                .client
                .poll(&session.id, &request, EXCHANGE_TIMEOUT)
                .await;
            Polled {
                asked,
                wait,
                sent,
                begun,
                batch,
                answer,
            }
        })
    }

    /// Applies the answer of a poll. Returns whether it brought all the tasks it asked for.
    fn polled(
        self: &Arc<Self>,
        polled: Polled,
        running: &mut JoinSet<()>,
    ) -> Result<bool, Option<SessionEnd>> {
        let Polled {
            asked,
            wait,
            sent,
            begun,
            batch,
            answer,
        } = polled;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                return Err(self.exchange_failed(
                    "polling for tasks",
                    &error,
                    batch,
                    BatchKind::Poll,
                ));
            }
        };
        self.acknowledge(begun);
        tracing::trace!(
            tasks = answer.tasks.len(),
            verdicts = answer.results.len(),
            took_us = begun.elapsed().as_micros(),
            "polled"
        );
        batch.settle(&answer.results);
        self.apply_directives(&answer.cancel, &answer.lost, answer.drain, &sent);
        log_problems(&answer.problems);
        let got_all = answer.tasks.len() >= asked;
        let got_nothing = answer.tasks.is_empty() && answer.results.is_empty() && !answer.drain;
        let has_directives = !answer.cancel.is_empty() || !answer.lost.is_empty();
        for task in answer.tasks {
            self.start_attempt(task, running);
        }
        if self.fail_unreadable(answer.unreadable) {
            return Err(None);
        }
        if got_nothing && !has_directives && begun.elapsed() < wait.min(EMPTY_ANSWER_MIN) {
            tracing::debug!("a poll was answered at once without tasks");
            return Err(None);
        }
        Ok(got_all)
    }

    /// Reports each task that cannot be read as a failed attempt. Returns whether there is one without even a lease: the
    /// cluster will send that again.
    fn fail_unreadable(&self, tasks: Vec<UnreadableTask>) -> bool {
        let mut without_lease = false;
        for UnreadableTask { lease, message } in tasks {
            let Some((task, token)) = lease else {
                tracing::error!(
                    error = message,
                    "a leased task without a readable id was ignored"
                );
                without_lease = true;
                continue;
            };
            tracing::warn!(
                task,
                token,
                error = message,
                "a leased task cannot be read: its attempt fails"
            );
            let key = LeaseKey { task, token };
            if self.attempts.begin(key.clone()).is_some() {
                let message = format!("this worker cannot read the task: {message}");
                self.attempts
                    .end(&key, Outcome::failed("unreadable_task", &message));
            }
        }
        without_lease
    }

    /// Sends one report with as many results as it can carry.
    pub(super) fn report(self: &Arc<Self>) -> Pin<Box<dyn Future<Output = Reported> + Send>> {
        let mut batch = self.attempts.take_results(BatchKind::Report);
        let request = Report {
            results: batch.results(),
        };
        let session = self.clone();
        Box::pin(async move {
            let begun = Instant::now();
            let answer = if request.results.is_empty() {
                Ok(ReportAnswer::default())
            } else {
                session
                    .client
                    .report(&session.id, &request, EXCHANGE_TIMEOUT)
                    .await
            };
            Reported {
                begun,
                batch,
                answer,
            }
        })
    }

    pub(super) fn reported(&self, reported: Reported) -> Result<(), Option<SessionEnd>> {
        let Reported {
            begun,
            batch,
            answer,
        } = reported;
        match answer {
            Ok(_) if batch.is_empty() => {}
            Ok(answer) => {
                self.acknowledge(begun);
                tracing::trace!(
                    verdicts = answer.results.len(),
                    took_us = begun.elapsed().as_micros(),
                    "reported"
                );
                batch.settle(&answer.results);
                log_problems(&answer.problems);
            }
            Err(error) => {
                return Err(self.exchange_failed(
                    "reporting results",
                    &error,
                    batch,
                    BatchKind::Report,
                ));
            }
        }
        Ok(())
    }

    /// Handles a failed exchange. Returns the end of the session, or `None` for another attempt after a pause.
    fn exchange_failed(
        &self,
        doing: &str,
        error: &Error,
        batch: ResultBatch,
        kind: BatchKind,
    ) -> Option<SessionEnd> {
        match error {
            Error::Api(problem) if problem.is(ProblemCode::UnknownWorker) => {
                tracing::warn!(worker = self.id, %problem, "the cluster does not know this worker");
                return Some(SessionEnd::Unknown);
            }
            Error::Api(problem) if !batch.is_empty() && problem.status < 429 => match kind {
                BatchKind::Poll => batch.refused_with_poll(),
                BatchKind::Report => batch.refused(problem),
            },
            Error::Api(_)
            | Error::NoCluster { .. }
            | Error::Timeout { .. }
            | Error::Protocol { .. }
            | Error::Usage(_) => {}
        }
        tracing::warn!(worker = self.id, %error, "{doing} failed, retrying");
        None
    }

    fn start_attempt(self: &Arc<Self>, task: LeasedTask, running: &mut JoinSet<()>) {
        let key = LeaseKey {
            task: task.id.clone(),
            token: task.token,
        };
        if self.is_fenced() {
            tracing::warn!(task = key.task, "a lease arrived too late to be used");
            return;
        }
        let Some(context) = self.attempts.begin(key.clone()) else {
            return;
        };
        tracing::debug!(
            task = key.task,
            kind = task.kind,
            attempt = task.attempt,
            token = key.token,
            "task received"
        );
        let session = self.clone();
        running.spawn(async move {
            let begun = Instant::now();
            let attempt = task.attempt;
            let on_time_limit = || session.attempts.stop_one(&key, StopReason::TimedOut);
            let abandon_after = session.config.abandon_after;
            let outcome = attempt_runner::run(
                &*session.executor,
                task,
                context,
                on_time_limit,
                abandon_after,
            )
            .await;
            log_outcome(&key, attempt, begun.elapsed(), &outcome);
            session.attempts.end(&key, outcome);
        });
    }
}

/// Logs how an attempt ended.
fn log_outcome(key: &LeaseKey, attempt: u32, took: Duration, outcome: &Outcome) {
    let took_ms = took.as_millis();
    match outcome {
        Outcome::Succeeded(_) => {
            tracing::info!(task = key.task, attempt, took_ms, "task succeeded");
        }
        Outcome::Failed { error, retryable } => {
            let reason = error_summary(error);
            tracing::warn!(
                task = key.task,
                attempt,
                took_ms,
                retryable,
                reason,
                "task failed"
            );
        }
        Outcome::RetryAfter { error, delay } => {
            let reason = error_summary(error);
            let retry_after_ms = delay.as_millis();
            tracing::warn!(
                task = key.task,
                attempt,
                took_ms,
                retry_after_ms,
                reason,
                "task failed"
            );
        }
        Outcome::Stopped => tracing::info!(task = key.task, attempt, took_ms, "task stopped"),
        Outcome::Returned { reason } => {
            tracing::info!(
                task = key.task,
                attempt,
                reason,
                "task returned to its queue"
            );
        }
    }
}

/// Logs the parts of a request that the cluster did not take.
pub(super) fn log_problems(problems: &[PartProblem]) {
    for PartProblem { field, detail } in problems {
        tracing::warn!(
            field,
            detail,
            "the cluster did not take a part of a request"
        );
    }
}

async fn ready<T>(pending: &mut Pending<T>) -> T {
    match pending {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
