//! A pool of fake workers that complete every task they get, and measurements of how many tasks ran at once.
//!
//! Each worker reports its results only after its next poll, so that as many tasks run at once as the cluster allows.
//! Concurrency is measured afterwards from the attempts of the tasks. Their times are those of the table, in the order
//! of the log, under any leader.
//!
//! A pool with a limit of results reports no more than that until it is released. A fault that needs unfinished work
//! therefore finds it on a machine of any speed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::cluster::{Cluster, WAIT_TIMEOUT};
use crate::wait::until;
use crate::workers::fake_worker::{FakeWorker, KIND, Lease};

/// Wait of a poll by a worker that has results to report.
const BUSY_POLL_MS: u64 = 20;
/// Wait of a poll by a worker without results.
const IDLE_POLL_MS: u64 = 1_000;

/// A pool of workers. Dropping it stops them.
#[derive(Debug)]
pub struct FakeWorkers {
    members: Vec<tokio::task::JoinHandle<()>>,
    results: Arc<ReportBudget>,
}

/// Number of results that a pool may report, and number of accepted results.
#[derive(Debug)]
struct ReportBudget {
    /// The limit with which the pool was started.
    initial: usize,
    allowed: AtomicUsize,
    accepted: AtomicUsize,
}

impl ReportBudget {
    /// Returns how many of this many finished results may be reported now.
    fn take(&self, ready: usize) -> usize {
        let rest = |allowed: usize| Some(allowed.saturating_sub(ready));
        let before = self
            .allowed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        before.expect("always some").min(ready)
    }
}

impl FakeWorkers {
    /// Starts this many workers, each with these slots and queues.
    pub async fn start(cluster: &Cluster, workers: usize, slots: u32, queues: &[&str]) -> Self {
        Self::start_limited(usize::MAX, cluster, workers, slots, queues).await
    }

    /// As above, with a limit of results. Further ones are held until [`release`](Self::release).
    pub async fn start_limited(
        results: usize,
        cluster: &Cluster,
        workers: usize,
        slots: u32,
        queues: &[&str],
    ) -> Self {
        let results = Arc::new(ReportBudget {
            initial: results,
            allowed: AtomicUsize::new(results),
            accepted: AtomicUsize::new(0),
        });
        let mut members = Vec::new();
        for nth in 0..workers {
            let body = json!({"name": format!("fake-{nth}"), "slots": slots, "kinds": [KIND], "queues": queues});
            let fake_worker = FakeWorker::register_as(cluster, &body).await;
            let run = run(fake_worker, slots as usize, Arc::clone(&results));
            members.push(tokio::spawn(run));
        }
        Self { members, results }
    }

    /// Waits until as many results as the limit are accepted.
    pub async fn wait_spent(&self) {
        let ReportBudget {
            initial, accepted, ..
        } = &*self.results;
        let what = format!("{initial} results are accepted");
        until(WAIT_TIMEOUT, what, async || {
            let panicked = self.members.iter().any(|member| member.is_finished());
            assert!(!panicked, "one of the crew has panicked");
            accepted.load(Ordering::Relaxed) >= *initial
        })
        .await;
    }

    /// Removes the limit.
    pub fn release(&self) {
        self.results.allowed.store(usize::MAX, Ordering::Relaxed);
    }

    /// Panics if one of the workers did, because a report was not accepted, for example.
    pub async fn finish(mut self) {
        for member in std::mem::take(&mut self.members) {
            member.abort();
            if let Err(error) = member.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

impl Drop for FakeWorkers {
    fn drop(&mut self) {
        for member in &self.members {
            member.abort();
        }
    }
}

async fn run(fake_worker: FakeWorker, slots: usize, allowed: Arc<ReportBudget>) {
    let mut running: Vec<Lease> = Vec::new();
    loop {
        let free = u32::try_from(slots - running.len()).expect("few slots");
        let wait_ms = if running.is_empty() {
            IDLE_POLL_MS
        } else {
            BUSY_POLL_MS
        };
        let new = fake_worker.poll(free, wait_ms, &running).await;
        let ended: Vec<Lease> = running.drain(..allowed.take(running.len())).collect();
        let results: Vec<Value> = ended
            .iter()
            .map(|lease| lease.succeeded(lease.payload.clone()))
            .collect();
        if !results.is_empty() {
            fake_worker.report_all(&results).await;
            allowed.accepted.fetch_add(results.len(), Ordering::Relaxed);
        }
        let waits = !running.is_empty() && ended.is_empty() && new.is_empty();
        if waits {
            tokio::time::sleep(Duration::from_millis(BUSY_POLL_MS)).await;
        }
        running.extend(new);
    }
}

/// Time span of an attempt. A running attempt has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Time of the grant.
    pub from: DateTime<Utc>,
    /// Time of the end.
    pub to: Option<DateTime<Utc>>,
}

/// Returns the time spans of all attempts of these tasks, each task given with its attempts.
pub fn spans<'a>(tasks: impl IntoIterator<Item = &'a Value>) -> Vec<Span> {
    let mut spans = Vec::new();
    for task in tasks {
        let attempts = task["attempts"].as_array();
        let attempts = attempts.unwrap_or_else(|| panic!("not shown as a whole: {task}"));
        spans.extend(attempts.iter().map(|attempt| Span {
            from: time(&attempt["started_at"]).unwrap_or_else(|| panic!("no start: {task}")),
            to: time(&attempt["ended_at"]),
        }));
    }
    spans
}

/// Returns the maximum number of attempts that ran at once. An attempt that ends and one that starts in the same
/// millisecond do not overlap.
pub fn most_at_once(spans: &[Span]) -> usize {
    let at = |moment: DateTime<Utc>| {
        let runs = |span: &&Span| span.from <= moment && span.to.is_none_or(|to| to > moment);
        spans.iter().filter(runs).count()
    };
    spans.iter().map(|span| at(span.from)).max().unwrap_or(0)
}

/// Parses a time of the HTTP interface.
pub fn time(text: &Value) -> Option<DateTime<Utc>> {
    text.as_str()?.parse().ok()
}
