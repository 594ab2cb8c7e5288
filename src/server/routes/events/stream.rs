//! One reader's stream of messages.
//!
//! It holds nothing but a position, and looks for more when the connection takes more: a reader that is slow costs one
//! page of text, and if it is too slow for what is kept, its stream ends by saying so.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};
use triarch_raft::Leadership;
use triarch_sdk::wire;

use super::filter::Filter;
use super::gone;
use crate::feed::{About, Happened, Leased, Outcome, Page, Position};
use crate::server::App;
use crate::server::routes::workers;
use crate::server::routes::{jobs, tasks};

/// A reader hears something at least this often: that the connection lives, and how far it has come.
const BEAT: Duration = Duration::from_secs(10);
/// Between two looks, so that many readers of a busy cluster do not wake for every single entry.
const PACE: Duration = Duration::from_millis(10);
/// What a browser waits before it connects again.
const RETRY_MS: u64 = 1_000;

/// See the module.
pub struct Following {
    app: App,
    filter: Filter,
    after: Position,
    grown: watch::Receiver<u64>,
    ready: VecDeque<Bytes>,
    next_look: Instant,
    next_beat: Instant,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Following {
    /// A stream of what comes after this position; it gives up its place when it ends.
    pub fn new(app: App, filter: Filter, after: Position, place: OwnedSemaphorePermit) -> Self {
        let now = Instant::now();
        // The position comes first, so that who is cut off before anything has happened goes on from here too.
        let hello = format!("retry: {RETRY_MS}\nid: {after}\n\n");
        Self {
            grown: app.table.feed.grown(),
            app,
            filter,
            after,
            ready: VecDeque::from([Bytes::from(hello)]),
            next_look: now,
            next_beat: now + BEAT,
            ended: false,
            _place: place,
        }
    }

    /// The messages, each whole.
    pub fn messages(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        stream::unfold(self, async |mut following| {
            let message = following.next().await?;
            Some((Ok(message), following))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        while !self.ended {
            self.grown.borrow_and_update();
            let page = match self.app.table.feed.read(self.after) {
                Ok(page) => page,
                Err(too_slow) => {
                    self.ended = true;
                    let problem = gone(too_slow).to_json();
                    let event = wire::event::GONE;
                    return Some(format!("event: {event}\ndata: {problem}\n\n").into());
                }
            };
            self.next_look = Instant::now() + PACE;
            let text = self.tell(&page);
            self.after = page.end;
            if !text.is_empty() {
                self.next_beat = Instant::now() + BEAT;
                return Some(text.into());
            }
            if Instant::now() >= self.next_beat {
                return Some(self.beat());
            }
            if !page.is_last {
                // Much that was not asked for: others have their turn in between.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                _ = self.grown.changed() => sleep_until(self.next_look).await,
                () = sleep_until(self.next_beat) => {}
                () = self.app.stopping.cancelled() => {
                    self.ended = true;
                    return Some(Bytes::from_static(b": this node is stopping\n\n"));
                }
            }
        }
        None
    }

    /// Nothing to tell but how far the reader has come.
    fn beat(&mut self) -> Bytes {
        self.next_beat = Instant::now() + BEAT;
        if let Leadership::Unknown { .. } = &*self.app.node.leadership().borrow() {
            // It may be cut off from the others, and hear of nothing for as long as that lasts.
            self.ended = true;
            return Bytes::from_static(
                b": this node knows of no leader, another one may know more\n\n",
            );
        }
        format!(": keep-alive\nid: {}\n\n", self.after).into()
    }

    fn tell(&self, page: &Page) -> String {
        let mut text = String::new();
        for chunk in &page.chunks {
            let at = wire::Timestamp::from_unix_ms(chunk.at_ms());
            let new = chunk
                .events()
                .filter(|(position, _)| *position > self.after);
            for (position, happened) in new {
                let word = type_of(happened);
                if !self.filter.lets_through(word, happened) {
                    continue;
                }
                let id = position.to_string();
                let what = present(happened);
                match serde_json::to_string(&wire::Event { id, at, what }) {
                    Ok(data) => {
                        // Writing to a string does not fail.
                        let _ = write!(text, "id: {position}\nevent: {word}\ndata: {data}\n\n");
                    }
                    Err(error) => tracing::error!(%error, %position, "an event cannot be written"),
                }
            }
        }
        text
    }
}

fn type_of(happened: &Happened) -> &'static str {
    match happened {
        Happened::JobSubmitted { .. } => "job_submitted",
        Happened::TaskChanged { .. } => "task_changed",
        Happened::LeaseGranted { .. } => "lease_granted",
        Happened::LeaseEnded { .. } => "lease_ended",
        Happened::JobFinished { .. } => "job_finished",
        Happened::WorkerRegistered { .. } => "worker_registered",
        Happened::WorkerDraining { .. } => "worker_draining",
        Happened::WorkerLost { .. } => "worker_lost",
        Happened::WorkerLeft { .. } => "worker_left",
        Happened::QueueChanged { .. } => "queue_changed",
        Happened::ScheduleChanged { .. } => "schedule_changed",
        Happened::ScheduleTicked { .. } => "schedule_ticked",
        Happened::WorkerChanged { .. } => "worker_changed",
        Happened::Restored => "restored",
    }
}

fn present(happened: &Happened) -> wire::event::Happened {
    use wire::event::Happened as Told;
    let text = |name: &Option<std::sync::Arc<str>>| name.as_ref().map(|name| name.to_string());
    match happened {
        Happened::JobSubmitted { job, name, tasks } => Told::JobSubmitted {
            job: job.to_string(),
            name: text(name),
            tasks: *tasks,
        },
        Happened::TaskChanged { task, state, lease } => {
            let Subject {
                task,
                job,
                queue,
                kind,
            } = Subject::of(task);
            Told::TaskChanged {
                task,
                job,
                queue,
                kind,
                state: tasks::present_state(*state),
                worker: lease.map(|lease| lease.worker.to_string()),
                attempt: lease.and_then(|lease| lease.attempt),
            }
        }
        Happened::LeaseGranted { task, lease } => {
            let Subject {
                task,
                job,
                queue,
                kind,
            } = Subject::of(task);
            let Leased {
                worker,
                token,
                attempt,
            } = *lease;
            Told::LeaseGranted {
                task,
                job,
                queue,
                kind,
                worker: worker.to_string(),
                attempt,
                token: token.0,
            }
        }
        Happened::LeaseEnded {
            task,
            lease,
            outcome,
        } => {
            let Subject {
                task,
                job,
                queue,
                kind,
            } = Subject::of(task);
            let Leased {
                worker,
                token,
                attempt,
            } = *lease;
            Told::LeaseEnded {
                task,
                job,
                queue,
                kind,
                worker: worker.to_string(),
                attempt,
                token: token.0,
                outcome: outcome.map(present_outcome),
            }
        }
        Happened::JobFinished { job, name, state } => Told::JobFinished {
            job: job.to_string(),
            name: text(name),
            state: jobs::present_state(*state),
        },
        Happened::WorkerRegistered { worker, name } => Told::WorkerRegistered {
            worker: worker.to_string(),
            name: text(name),
        },
        Happened::WorkerDraining { worker, name } => Told::WorkerDraining {
            worker: worker.to_string(),
            name: text(name),
        },
        Happened::WorkerLost { worker, name } => Told::WorkerLost {
            worker: worker.to_string(),
            name: text(name),
        },
        Happened::WorkerLeft { worker, name } => Told::WorkerLeft {
            worker: worker.to_string(),
            name: text(name),
        },
        Happened::WorkerChanged {
            worker,
            name,
            state,
        } => Told::WorkerChanged {
            worker: worker.to_string(),
            name: text(name),
            state: workers::present_state(*state),
        },
        Happened::Restored => Told::Restored,
        Happened::QueueChanged { queue } => Told::QueueChanged {
            queue: queue.to_string(),
        },
        Happened::ScheduleChanged { schedule } => Told::ScheduleChanged {
            schedule: schedule.to_string(),
        },
        Happened::ScheduleTicked {
            schedule,
            tick_ms,
            job,
        } => Told::ScheduleTicked {
            schedule: schedule.to_string(),
            tick_at: wire::Timestamp::from_unix_ms(*tick_ms),
            job: job.map(|job| job.to_string()),
        },
    }
}

/// A task in words.
struct Subject {
    task: String,
    job: Option<String>,
    queue: Option<String>,
    kind: Option<String>,
}

impl Subject {
    fn of(about: &About) -> Self {
        let class = about.class.as_ref();
        Self {
            task: about.task.to_string(),
            job: about.job.map(|job| job.to_string()),
            queue: class.map(|class| class.queue.to_string()),
            kind: class.map(|class| class.kind.to_string()),
        }
    }
}

fn present_outcome(outcome: Outcome) -> wire::AttemptOutcome {
    match outcome {
        Outcome::Succeeded => wire::AttemptOutcome::Succeeded,
        Outcome::Failed => wire::AttemptOutcome::Failed,
        Outcome::TimedOut => wire::AttemptOutcome::TimedOut,
        Outcome::Lost => wire::AttemptOutcome::Lost,
        Outcome::Returned => wire::AttemptOutcome::Returned,
        Outcome::Cancelled => wire::AttemptOutcome::Cancelled,
    }
}
