//! A pool of fake workers that complete every task they are given, and measurements of how many tasks ran at once.
//!
//! Each worker reports what it has only after it has polled for more, so that as many tasks run at once as the cluster
//! allows. Concurrency is measured afterwards from the attempts that the tasks show: their times are the table's own, in
//! the order of the log, under any leader.
//!
//! A pool that is started with a limit of results reports no more of them until it is released: a fault that must meet
//! unfinished work finds it, however fast the machine is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::cluster::{Cluster, WAIT_TIMEOUT};
use crate::wait::until;
use crate::workers::fake_worker::{FakeWorker, KIND, Lease};

/// How long a worker that has something to do waits for more of it.
const BUSY_POLL_MS: u64 = 20;
/// How long one that has nothing does.
const IDLE_POLL_MS: u64 = 1_000;

/// See the module. They stop when it is dropped.
#[derive(Debug)]
pub struct FakeWorkers {
    members: Vec<tokio::task::JoinHandle<()>>,
    results: Arc<ReportBudget>,
}

/// How many results a pool may report, and how many were accepted.
#[derive(Debug)]
struct ReportBudget {
    /// The limit that the pool was started with.
    initial: usize,
    allowed: AtomicUsize,
    accepted: AtomicUsize,
}

impl ReportBudget {
    /// How many of so many that are ready may be reported now.
    fn take(&self, ready: usize) -> usize {
        let rest = |allowed: usize| Some(allowed.saturating_sub(ready));
        let before = self
            .allowed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        before.expect("always some").min(ready)
    }
}

impl FakeWorkers {
    /// So many workers, each with these slots, taking from these queues.
    pub async fn start(cluster: &Cluster, workers: usize, slots: u32, queues: &[&str]) -> Self {
        Self::start_limited(usize::MAX, cluster, workers, slots, queues).await
    }

    /// The same with a limit of results: further ones are held until [`release`](Self::release).
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

    /// Waits until all results that they were started for are accepted.
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

    /// From now on they report whatever they have.
    pub fn release(&self) {
        self.results.allowed.store(usize::MAX, Ordering::Relaxed);
    }

    /// Panics if one of them did: a report of theirs was not accepted, say.
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

/// When an attempt ran; one that has not ended has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// When it was granted.
    pub from: DateTime<Utc>,
    /// When it ended.
    pub to: Option<DateTime<Utc>>,
}

/// When the attempts of these tasks ran, each task shown as a whole.
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

/// How many of these ran at once, at most. One that ends and one that starts in the same millisecond did not.
pub fn most_at_once(spans: &[Span]) -> usize {
    let at = |moment: DateTime<Utc>| {
        let runs = |span: &&Span| span.from <= moment && span.to.is_none_or(|to| to > moment);
        spans.iter().filter(runs).count()
    };
    spans.iter().map(|span| at(span.from)).max().unwrap_or(0)
}

/// A time as the interface tells it.
pub fn time(text: &Value) -> Option<DateTime<Utc>> {
    text.as_str()?.parse().ok()
}
