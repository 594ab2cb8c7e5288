//! Workers played by hand that take whatever they are given and report it, on and on, and what bounds their tasks kept.
//!
//! Each ends what it has only after it has asked for more, so that as much runs at once as the cluster allows. What ran at once is judged afterwards, by the attempts that the tasks show: their times are the
//! table's own and in the order of the log, whoever led.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::hand::{Hand, KIND, Lease};

/// How long a worker that has something to do waits for more of it.
const MORE_MS: u64 = 20;
/// How long one that has nothing does.
const IDLE_MS: u64 = 1_000;

/// See the module. They stop when it is dropped.
#[derive(Debug)]
pub struct Crew(Vec<tokio::task::JoinHandle<()>>);

impl Crew {
    /// So many workers, each with these slots, taking from these queues.
    pub async fn start(cluster: &Cluster, workers: usize, slots: u32, queues: &[&str]) -> Self {
        let mut crew = Vec::new();
        for nth in 0..workers {
            let body = json!({"name": format!("crew-{nth}"), "slots": slots, "kinds": [KIND], "queues": queues});
            let hand = Hand::register_as(cluster, &body).await;
            crew.push(tokio::spawn(work(hand, slots as usize)));
        }
        Self(crew)
    }

    /// Panics if one of them did: a report of theirs was not accepted, say.
    pub async fn finish(mut self) {
        for member in std::mem::take(&mut self.0) {
            member.abort();
            if let Err(error) = member.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &self.0 {
            member.abort();
        }
    }
}

async fn work(hand: Hand, slots: usize) {
    let mut running: Vec<Lease> = Vec::new();
    loop {
        let free = u32::try_from(slots - running.len()).expect("few slots");
        let wait_ms = if running.is_empty() { IDLE_MS } else { MORE_MS };
        let new = hand.poll(free, wait_ms, &running).await;
        let results: Vec<Value> = running
            .iter()
            .map(|lease| lease.succeeded(lease.payload.clone()))
            .collect();
        if !results.is_empty() {
            hand.report_all(&results).await;
        }
        running = new;
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
pub fn time(told: &Value) -> Option<DateTime<Utc>> {
    told.as_str()?.parse().ok()
}
