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
use crate::wire::{LeasedTask, Poll, PollAnswer, ProblemCode, Report, ReportAnswer, RunningTask};
use crate::worker::attempt_registry::{BatchKind, LeaseKey, ResultBatch};
use crate::worker::attempt_runner;
use crate::worker::executor::{Executor, StopReason};

/// Maximum hold of a poll that carries results when there is no work, because the worker waits for their
/// acknowledgements.
const POLL_HOLD_WITH_RESULTS: Duration = Duration::from_millis(50);
/// Maximum time a result waits for the next poll, while there is more work than slots. The poll in flight returns, and
/// the result goes with the next. So one request and one commit carry many results and the tasks that take their place.
/// See [`poll_pacing`](super::poll_pacing).
const RESULT_DELAY_MAX: Duration = Duration::from_millis(20);
/// Maximum time of a poll or a report, in addition to its hold.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

struct Polled {
    asked: usize,
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
        loop {
            while running.try_join_next().is_some() {}
            let free = self.attempts.free();
            let mut delayed_until =
                pacing.delayed_until(Instant::now(), free, self.attempts.slots());
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
                poll = Some(self.poll());
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

    /// Sends one poll with the results and leases to report.
    fn poll(self: &Arc<Self>) -> Pin<Box<dyn Future<Output = Polled> + Send>> {
        let mut batch = self.attempts.take_results(BatchKind::Poll);
        let wait = if batch.is_empty() {
            self.config.poll_wait
        } else {
            POLL_HOLD_WITH_RESULTS
        };
        // The cluster settles the results before it looks at the leases. By then theirs are over.
        let mut sent = self.attempts.held_leases();
        sent.retain(|running| !batch.holds(running));
        let asked = self.attempts.free();
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
            sent,
            begun,
            batch,
            answer,
        } = polled;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(self.exchange_failed("polling for tasks", &error, batch)),
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
        let got_all = answer.tasks.len() >= asked;
        for task in answer.tasks {
            self.start_attempt(task, running);
        }
        Ok(got_all)
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
            }
            Err(error) => return Err(self.exchange_failed("reporting results", &error, batch)),
        }
        Ok(())
    }

    /// Handles a failed exchange. Returns the end of the session, or `None` for another attempt after a pause.
    fn exchange_failed(
        &self,
        doing: &str,
        error: &Error,
        batch: ResultBatch,
    ) -> Option<SessionEnd> {
        match error {
            Error::Api(problem) if problem.is(ProblemCode::UnknownWorker) => {
                tracing::warn!(worker = self.id, %problem, "the cluster does not know this worker");
                return Some(SessionEnd::Unknown);
            }
            Error::Api(problem) if !batch.is_empty() && problem.status < 429 => {
                batch.refused(problem)
            }
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
            attempt = task.attempt,
            token = key.token,
            "begun"
        );
        let session = self.clone();
        running.spawn(async move {
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
            tracing::debug!(task = key.task, token = key.token, "ended");
            session.attempts.end(&key, outcome);
        });
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
