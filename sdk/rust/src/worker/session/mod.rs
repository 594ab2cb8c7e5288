//! One registration of a worker, from the cluster's welcome until the worker leaves or is no longer known.
//!
//! Several things go on at once: the exchange (ask for work, report results), the heartbeats, the fence, and the output of
//! what runs. None of them
//! waits for ever: every request has a deadline and is asked anew, and when a heartbeat finds a new leader or is answered
//! again after a lapse, a poll from before is abandoned.

mod backoff;
mod heartbeat;
mod output_sender;
mod poll_pacing;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::executor::{Executor, StopReason};
use super::shutdown::Shutdown;
use crate::client::Client;
use crate::error::Error;
use crate::wire::{
    LeasedTask, Poll, PollAnswer, ProblemCode, Registered, Report, ReportAnswer, RunningTask,
};
use crate::worker::attempt_registry::{Attempts, Batch, Key, Taken};
use crate::worker::session::backoff::Pause;
use crate::worker::session::heartbeat::Contact;
use crate::worker::session::poll_pacing::Pace;
use crate::worker::{WorkerConfig, attempt_runner};

/// A poll that brings results is not held longer than this when there is no work, for the worker waits for its verdicts.
const POLL_WITH_RESULTS_WAIT: Duration = Duration::from_millis(50);
/// While there is more work than slots, a result waits so long for the poll that is on its way to come back, and goes with
/// the next: one request and one commit for many results and the tasks that take their place. See [`pace`].
const RESULTS_WAIT: Duration = Duration::from_millis(20);
/// How long a poll or a report may take beyond what it is held for.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The cluster does not know this worker (any more).
    Unknown,
    /// The worker is to go, and has done what could be done before.
    Leaving,
}

/// See the module.
pub(super) struct Session<E> {
    client: Client,
    config: WorkerConfig,
    executor: Arc<E>,
    shutdown: Shutdown,
    attempts: Arc<Attempts>,
    id: String,
    heartbeat_interval: Duration,
    lease: Duration,
    /// When the latest request was sent that the cluster acknowledged.
    acknowledged: watch::Sender<Instant>,
    /// By whom and since when heartbeats are answered.
    contact: watch::Sender<Contact>,
    /// The cluster asked the worker to go.
    drain: CancellationToken,
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

struct Polled {
    asked: usize,
    /// What it confirmed: the answer's word on leases is about these.
    sent: Vec<RunningTask>,
    begun: Instant,
    taken: Taken,
    answer: Result<PollAnswer, Error>,
}

struct Reported {
    begun: Instant,
    taken: Taken,
    answer: Result<ReportAnswer, Error>,
}

impl<E: Executor> Session<E> {
    pub(super) fn new(
        client: Client,
        config: WorkerConfig,
        executor: Arc<E>,
        shutdown: Shutdown,
        registered: &Registered,
        registered_at: Instant,
    ) -> Arc<Self> {
        let attempts = Arc::new(Attempts::new(config.register.slots));
        Arc::new(Self {
            attempts,
            id: registered.id.clone(),
            heartbeat_interval: Duration::from_millis(registered.heartbeat_ms.max(10)),
            lease: Duration::from_millis(registered.lease_ms.max(100)),
            acknowledged: watch::Sender::new(registered_at),
            contact: watch::Sender::new(Contact {
                leader: client.leader(),
                lapses: 0,
            }),
            drain: CancellationToken::new(),
            client,
            config,
            executor,
            shutdown,
        })
    }

    /// Works until the session is over. No attempt runs any more when it returns.
    pub(super) async fn run(self: &Arc<Self>) -> End {
        let mut running = JoinSet::new();
        let end = tokio::select! {
            end = self.exchange(&mut running) => end,
            () = self.heartbeats() => End::Unknown,
            () = self.fence() => End::Unknown,
            () = self.learn_masters() => End::Unknown,
            () = self.send_output() => End::Unknown,
        };
        match end {
            End::Unknown => {
                self.attempts.disown_all();
                self.wind_down(&mut running).await;
            }
            End::Leaving => {
                self.hand_back(&mut running).await;
            }
        }
        end
    }

    /// Asks for work whenever a slot is free and reports results as they come, until the worker is to go and is idle or
    /// out of time, or is not known any more.
    async fn exchange(self: &Arc<Self>, running: &mut JoinSet<()>) -> End {
        let mut poll: Pending<Polled> = None;
        let mut report: Pending<Reported> = None;
        let mut poll_pause = Pause::default();
        let mut report_pause = Pause::default();
        let mut contact = self.contact.subscribe();
        let mut polled_in = Contact::default();
        let mut polled_at = Instant::now();
        let mut pace = Pace::default();
        let mut grace: Pending<()> = None;
        loop {
            while running.try_join_next().is_some() {}
            let free = self.attempts.free();
            let mut paced = pace.waits(Instant::now(), free, self.attempts.slots());
            if self.is_leaving() {
                (poll, paced) = (None, None);
                if self.attempts.is_idle() {
                    return End::Leaving;
                }
                if grace.is_none() {
                    let left = self.attempts.running();
                    tracing::info!(running = left, "taking no more tasks");
                    grace = Some(Box::pin(self.clone().grace()));
                }
            } else if poll.is_none() && poll_pause.is_over() && free > 0 && paced.is_none() {
                polled_in = contact.borrow_and_update().clone();
                polled_at = Instant::now();
                poll = Some(self.poll());
            }
            // What no poll has taken along goes by itself, so that a result never waits for work to come.
            let next_poll_soon = pace.has_backlog()
                && (poll.is_some() || paced.is_some())
                && polled_at.elapsed() < RESULTS_WAIT;
            let has_results = self.attempts.has_results();
            if has_results && report.is_none() && report_pause.is_over() && !next_poll_soon {
                report = Some(self.report());
            }
            tokio::select! {
                polled = ready(&mut poll) => {
                    poll = None;
                    match self.polled(polled, running) {
                        Ok(got_all) => {
                            pace.polled(polled_at, Instant::now(), got_all);
                            poll_pause.reset();
                        }
                        Err(Some(end)) => return end,
                        Err(None) => poll_pause.lengthen(),
                    }
                }
                reported = ready(&mut report) => {
                    report = None;
                    match self.reported(reported) {
                        Ok(()) => report_pause.reset(),
                        Err(Some(end)) => return end,
                        Err(None) => report_pause.lengthen(),
                    }
                }
                () = self.attempts.changed() => {}
                () = tokio::time::sleep_until(polled_at + RESULTS_WAIT), if has_results && next_poll_soon => {}
                () = until(paced), if poll.is_none() => {}
                () = poll_pause.over(), if !poll_pause.is_over() => {}
                () = report_pause.over(), if !report_pause.is_over() => {}
                Ok(()) = contact.changed() => {
                    let now = contact.borrow().clone();
                    if poll.is_some() && now != polled_in {
                        let leader = now.leader.as_ref().map(Url::as_str);
                        tracing::info!(leader, "asking for work anew after a lapse or a change of leader");
                        poll = None;
                    }
                }
                () = self.leaving(), if grace.is_none() => {}
                () = ready(&mut grace) => return End::Leaving,
            }
        }
    }

    /// Sends one poll with everything that is to be told.
    fn poll(self: &Arc<Self>) -> Pin<Box<dyn Future<Output = Polled> + Send>> {
        let mut taken = self.attempts.take_results(Batch::WithWork);
        let wait = if taken.is_empty() {
            self.config.poll_wait
        } else {
            POLL_WITH_RESULTS_WAIT
        };
        // The results are settled before the rest is looked at: by then their leases are over.
        let mut sent = self.attempts.confirmed();
        sent.retain(|running| !taken.holds(running));
        let asked = self.attempts.free();
        let request = Poll {
            max: u32::try_from(asked).unwrap_or(u32::MAX),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            results: taken.results(),
            running: Some(sent.clone()),
        };
        let session = self.clone();
        Box::pin(async move {
            let begun = Instant::now();
            let answer = session
                .client
                .poll(&session.id, &request, EXCHANGE_PATIENCE)
                .await;
            Polled {
                asked,
                sent,
                begun,
                taken,
                answer,
            }
        })
    }

    /// Does what an answered poll says; tells whether it was given all it asked for.
    fn polled(
        self: &Arc<Self>,
        polled: Polled,
        running: &mut JoinSet<()>,
    ) -> Result<bool, Option<End>> {
        let Polled {
            asked,
            sent,
            begun,
            taken,
            answer,
        } = polled;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(self.failed("asking for work", &error, taken)),
        };
        self.acknowledge(begun);
        tracing::trace!(
            tasks = answer.tasks.len(),
            verdicts = answer.results.len(),
            took_us = begun.elapsed().as_micros(),
            "polled"
        );
        taken.settle(&answer.results);
        self.obey(&answer.cancel, &answer.lost, answer.drain, &sent);
        let got_all = answer.tasks.len() >= asked;
        for task in answer.tasks {
            self.begin(task, running);
        }
        Ok(got_all)
    }

    /// Sends one report with as much as one carries.
    fn report(self: &Arc<Self>) -> Pin<Box<dyn Future<Output = Reported> + Send>> {
        let mut taken = self.attempts.take_results(Batch::Report);
        let request = Report {
            results: taken.results(),
        };
        let session = self.clone();
        Box::pin(async move {
            let begun = Instant::now();
            let answer = if request.results.is_empty() {
                Ok(ReportAnswer::default())
            } else {
                session
                    .client
                    .report(&session.id, &request, EXCHANGE_PATIENCE)
                    .await
            };
            Reported {
                begun,
                taken,
                answer,
            }
        })
    }

    fn reported(&self, reported: Reported) -> Result<(), Option<End>> {
        let Reported {
            begun,
            taken,
            answer,
        } = reported;
        match answer {
            Ok(_) if taken.is_empty() => {}
            Ok(answer) => {
                self.acknowledge(begun);
                tracing::trace!(
                    verdicts = answer.results.len(),
                    took_us = begun.elapsed().as_micros(),
                    "reported"
                );
                taken.settle(&answer.results);
            }
            Err(error) => return Err(self.failed("reporting results", &error, taken)),
        }
        Ok(())
    }

    /// What a failed exchange means: the end of the session, or another try after a pause.
    fn failed(&self, doing: &str, error: &Error, taken: Taken) -> Option<End> {
        match error {
            Error::Api(problem) if problem.is(ProblemCode::UnknownWorker) => {
                tracing::warn!(worker = self.id, %problem, "the cluster does not know this worker");
                return Some(End::Unknown);
            }
            Error::Api(problem) if !taken.is_empty() && problem.status < 429 => {
                taken.refused(problem)
            }
            Error::Api(_)
            | Error::NoCluster { .. }
            | Error::Timeout { .. }
            | Error::Protocol { .. }
            | Error::Usage(_) => {}
        }
        tracing::warn!(worker = self.id, %error, "{doing} failed, asking again");
        None
    }

    fn begin(self: &Arc<Self>, task: LeasedTask, running: &mut JoinSet<()>) {
        let key = Key {
            task: task.id.clone(),
            token: task.token,
        };
        if self.is_fenced() {
            tracing::warn!(task = key.task, "a lease arrived too late to be trusted");
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
            let time_is_up = || session.attempts.stop_one(&key, StopReason::TimedOut);
            let abandon_after = session.config.abandon_after;
            let outcome =
                attempt_runner::run(&*session.executor, task, context, time_is_up, abandon_after)
                    .await;
            tracing::debug!(task = key.task, token = key.token, "ended");
            session.attempts.end(&key, outcome);
        });
    }

    fn obey(&self, cancel: &[String], lost: &[String], drain: bool, sent: &[RunningTask]) {
        self.attempts.disown(cancel, sent, StopReason::Cancelled);
        self.attempts.disown(lost, sent, StopReason::Lost);
        if drain && !self.drain.is_cancelled() {
            tracing::info!("the cluster asks this worker to finish and leave");
            self.drain.cancel();
        }
    }

    fn is_leaving(&self) -> bool {
        self.shutdown.is_asked() || self.drain.is_cancelled()
    }

    async fn leaving(&self) {
        tokio::select! {
            () = self.shutdown.asked() => {}
            () = self.drain.cancelled() => {}
        }
    }

    /// A worker told to stop has its grace; one that is drained has all the time its tasks take.
    async fn grace(self: Arc<Self>) {
        let grace = async {
            self.shutdown.asked().await;
            tokio::time::sleep(self.config.grace).await;
        };
        tokio::select! {
            () = grace => {}
            () = self.shutdown.asked_now() => {}
        }
    }

    /// Ends what still runs without counting it as a failure, reports what ended well, and leaves, which gives the rest
    /// back.
    async fn hand_back(self: &Arc<Self>, running: &mut JoinSet<()>) {
        let stopped = self.attempts.stop_running(StopReason::ShuttingDown);
        if stopped > 0 {
            tracing::info!(stopped, "handing back what is not finished");
        }
        self.wind_down(running).await;
        let last_words = async {
            // More than one report carries, perhaps. Whatever the answer, the worker goes.
            while self.attempts.has_results() && self.reported(self.report().await).is_ok() {}
        };
        let _ = tokio::time::timeout(self.config.leave_patience, last_words).await;
        match self
            .client
            .leave(&self.id, self.config.leave_patience)
            .await
        {
            Ok(answer) => tracing::info!(worker = self.id, returned = answer.returned, "left"),
            Err(Error::Api(problem)) if problem.is(ProblemCode::UnknownWorker) => {}
            Err(error) => tracing::warn!(worker = self.id, %error, "could not say goodbye"),
        }
    }

    /// Waits for attempts that were told to stop. They return, or are dropped after `abandon_after`; or at once when
    /// the worker is to go now.
    async fn wind_down(&self, running: &mut JoinSet<()>) {
        let all_ended = async { while running.join_next().await.is_some() {} };
        let heartbeats_go_on = async {
            // The leases are still this worker's while it winds down in order.
            self.heartbeats().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = all_ended => return,
            () = heartbeats_go_on => {}
            () = self.send_output() => {}
            () = self.shutdown.asked_now() => {}
        }
        running.shutdown().await;
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
