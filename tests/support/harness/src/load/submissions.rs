//! Continuous submission load, and the list of acknowledged jobs.
//!
//! Each submitter has one job in flight at a time, sends it again under the same idempotency key until it is
//! acknowledged, and records it. Every recorded job must exist, finish, and finish once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use std::sync::Mutex;
use tokio::task::JoinHandle;

use crate::history;
use crate::http::Api;

/// One acknowledged job.
#[derive(Debug, Clone)]
pub struct Acked {
    /// Idempotency key of the job.
    pub key: String,
    /// Submitted body, with the key.
    pub body: Value,
    /// Id of the job.
    pub job: String,
    /// Ids of its tasks.
    pub tasks: Vec<String>,
    /// Time at which the answered request was sent.
    pub sent: Instant,
    /// Time at which the answer arrived.
    pub acked: Instant,
}

/// Settings of the load.
#[derive(Clone)]
pub struct LoadOptions {
    /// Number of concurrent submitters.
    pub submitters: usize,
    /// Pause of each submitter between two jobs.
    pub pause: Duration,
    /// Timeout of a request. After it, the request is sent again to the next master.
    pub request_timeout: Duration,
    /// Prefix that distinguishes this load's keys from all others.
    pub name: String,
    /// Creates the n-th job, without its key.
    pub make: Arc<dyn Fn(u64) -> Value + Send + Sync>,
}

/// A running load. Dropping it stops it.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acked>>>,
    submitters: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts to submit to these masters.
    pub fn start(masters: &[Api], options: LoadOptions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(AtomicU64::new(0));
        let submitters = (0..options.submitters)
            .map(|nth| {
                let (masters, options) = (masters.to_vec(), options.clone());
                let (stop, acknowledged, next) = (
                    Arc::clone(&stop),
                    Arc::clone(&acknowledged),
                    Arc::clone(&next),
                );
                tokio::spawn(async move {
                    let mut at = nth;
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let mut body = (options.make)(number);
                        let key = format!("{}-{number}", options.name);
                        body["idempotency_key"] = key.into();
                        let Some(acked) =
                            submit_until(&masters, &mut at, &body, options.request_timeout, &stop)
                                .await
                        else {
                            return;
                        };
                        acknowledged
                            .lock()
                            .expect("no submitter panics with the lock")
                            .push(acked);
                        tokio::time::sleep(options.pause).await;
                    }
                })
            })
            .collect();
        Self {
            stop,
            acknowledged,
            submitters,
        }
    }

    /// Returns the number of jobs acknowledged so far.
    pub fn count(&self) -> usize {
        self.acknowledged().len()
    }

    /// Returns a copy of the acknowledged jobs so far.
    pub fn acked(&self) -> Vec<Acked> {
        self.acknowledged().clone()
    }

    /// Returns the time of the first acknowledgement of a submission that was sent after `since`.
    pub fn first_acked_since(&self, since: Instant) -> Option<Instant> {
        let acknowledged = self.acknowledged();
        // The list is in the order of the acknowledgements, except for short races.
        let late = acknowledged
            .iter()
            .rev()
            .take_while(|one| one.acked >= since);
        late.filter(|one| one.sent >= since)
            .map(|one| one.acked)
            .min()
    }

    /// Returns the longest time without an acknowledgement since then.
    pub fn longest_gap_since(&self, since: Instant) -> Duration {
        let acknowledged = self.acknowledged();
        let late = acknowledged
            .iter()
            .rev()
            .take_while(|one| one.acked >= since);
        let mut moments: Vec<Instant> = late.map(|one| one.acked).collect();
        moments.push(since);
        moments.sort_unstable();
        let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    fn acknowledged(&self) -> std::sync::MutexGuard<'_, Vec<Acked>> {
        self.acknowledged
            .lock()
            .expect("no submitter panics with the lock")
    }

    /// Stops the load, and returns the acknowledged jobs. Panics if a submitter met an invalid answer.
    pub async fn finish(mut self) -> Vec<Acked> {
        self.stop.store(true, Ordering::Relaxed);
        for submitter in std::mem::take(&mut self.submitters) {
            if let Err(error) = submitter.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        self.acked()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for submitter in &self.submitters {
            submitter.abort();
        }
    }
}

/// Sends the job until it is acknowledged. Returns `None` if the load stops before; then the job was not acknowledged
/// to anyone.
pub async fn submit_until(
    masters: &[Api],
    at: &mut usize,
    body: &Value,
    request_timeout: Duration,
    stop: &AtomicBool,
) -> Option<Acked> {
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let api = &masters[*at % masters.len()];
        match history::submit("load", api, body, request_timeout).await {
            Ok(reply) if matches!(reply.status, 200 | 201) => {
                let answer = reply.json();
                let text = |value: &Value| value.as_str().expect("an id is a text").to_owned();
                return Some(Acked {
                    key: text(&body["idempotency_key"]),
                    body: body.clone(),
                    job: text(&answer["id"]),
                    tasks: answer["tasks"]
                        .as_array()
                        .expect("tasks")
                        .iter()
                        .map(text)
                        .collect(),
                    sent,
                    acked: Instant::now(),
                });
            }
            // No leader, an unknown outcome, an overloaded master or a failed disk: the client must try again.
            Ok(reply) if matches!(reply.status, 429 | 503 | 504 | 507) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(reply) => panic!("a submission was answered by {reply:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
        *at += 1;
    }
    None
}
