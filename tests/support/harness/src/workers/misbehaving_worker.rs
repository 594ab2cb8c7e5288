//! Misbehaving workers: they fail tasks, report results twice, fall silent for longer than their leases, and then
//! resume. Every lease and every report is recorded in the history.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::history::{self, WORKLOAD_KIND};
use crate::http::{Api, Reply};

/// Number of concurrent attempts.
const SLOTS: usize = 4;
/// Wait of a poll without running attempts, and with some.
const IDLE_POLL_MS: u64 = 500;
const BUSY_POLL_MS: u64 = 20;
/// Additional time, beyond the wait of a poll, for the answer to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum duration of an attempt.
const MAX_WORK_MS: u64 = 60;
/// One in this many attempts fails.
const FAILURE_ONE_IN: u32 = 20;
/// One in this many reports is sent again although it was answered.
const DUPLICATE_REPORT_ONE_IN: u32 = 20;
/// One in this many rounds with running attempts, the worker falls silent for longer than its lease.
const SILENCE_ONE_IN: u32 = 200;

/// The running workers. Dropping them stops them.
#[derive(Debug)]
pub struct MisbehavingWorkers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl MisbehavingWorkers {
    /// Starts this many workers of these masters. Once `calm` is set, none falls silent any more.
    pub fn start(masters: &[Api], count: u64, seed: u64, calm: &Arc<AtomicBool>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let misbehaving_workers = (1..=count).map(|nth| {
            let misbehaving_worker = MisbehavingWorker {
                name: format!("player-{nth}"),
                api: masters[nth as usize % masters.len()].clone(),
                masters: masters.to_vec(),
                random: StdRng::seed_from_u64(seed.wrapping_add(nth)),
                id: String::new(),
                lease: Duration::ZERO,
                held: Vec::new(),
                calm: Arc::clone(calm),
            };
            tokio::spawn(misbehaving_worker.run(Arc::clone(&stop)))
        });
        let tasks = misbehaving_workers.collect();
        Self { stop, tasks }
    }

    /// Stops the workers. Panics if one of them met an invalid answer.
    pub async fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for misbehaving_worker in std::mem::take(&mut self.tasks) {
            if let Err(error) = misbehaving_worker.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

impl Drop for MisbehavingWorkers {
    fn drop(&mut self) {
        for misbehaving_worker in &self.tasks {
            misbehaving_worker.abort();
        }
    }
}

/// A lease, with the report that will be sent and its time.
#[derive(Debug, Clone)]
struct Held {
    task: String,
    token: u64,
    attempt: u64,
    due: Instant,
    result: Value,
}

struct MisbehavingWorker {
    name: String,
    masters: Vec<Api>,
    /// The last known leader.
    api: Api,
    random: StdRng,
    id: String,
    lease: Duration,
    held: Vec<Held>,
    calm: Arc<AtomicBool>,
}

impl MisbehavingWorker {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            if self.id.is_empty() && !self.register().await {
                continue;
            }
            self.report().await;
            if self.id.is_empty() {
                continue;
            }
            self.poll().await;
            if !self.held.is_empty() && self.random.random_ratio(1, SILENCE_ONE_IN) {
                self.stay_silent().await;
            }
        }
        let path = format!("/v1/workers/{}", self.id);
        let _ = self.api.call(Method::DELETE, &path).send().await;
    }

    /// The worker is silent but alive: it does not know that it counts as lost, and later reports its results under the
    /// old leases.
    async fn stay_silent(&self) {
        let until = Instant::now() + self.lease + self.lease / 4;
        while Instant::now() < until && !self.calm.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where to ask next, by an answer that was none.
    async fn choose_master(&mut self, reply: &Result<Reply, String>) {
        if let Ok(reply) = reply
            && reply.status == 307
            && let Some(location) = reply.header("location")
            && let Some(base) = location.split("/v1/").next()
        {
            let node = reply.header("triarch-leader").unwrap_or_default();
            let node = node.parse().unwrap_or(0);
            let history_writer = self.api.history_writer().cloned();
            self.api = self.api.at(base).of_node(node, history_writer);
            return;
        }
        let next = self.random.random_range(0..self.masters.len());
        self.api = self.masters[next].clone();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    async fn register(&mut self) -> bool {
        // The name of a silent worker may still be taken, so each registration uses a new name.
        let name = format!("{}-{:08x}", self.name, self.random.random::<u32>());
        let body = json!({"name": name, "slots": SLOTS, "kinds": [WORKLOAD_KIND]});
        let post = self
            .api
            .call(Method::POST, "/v1/workers")
            .timeout(REQUEST_TIMEOUT);
        let reply = post.json(&body).send().await;
        match &reply {
            Ok(answer) if answer.status == 201 => {
                let answer = answer.json();
                self.id = answer["id"].as_str().unwrap_or_default().to_owned();
                let lease_ms = answer["lease_ms"].as_u64().unwrap_or(10_000);
                self.lease = Duration::from_millis(lease_ms);
                true
            }
            _ => {
                self.choose_master(&reply).await;
                false
            }
        }
    }

    /// Sends the due reports. A report without an answer stays due.
    async fn report(&mut self) {
        let now = Instant::now();
        let due: Vec<Held> = self
            .held
            .iter()
            .filter(|one| one.due <= now)
            .cloned()
            .collect();
        if due.is_empty() {
            return;
        }
        let results: Vec<Value> = due.iter().map(|one| one.result.clone()).collect();
        let attempts: Vec<u64> = due.iter().map(|one| one.attempt).collect();
        let reply = history::report(&self.name, &self.api, &self.id, &results, &attempts).await;
        match &reply {
            Ok(answer) if answer.status == 200 => {
                if self.random.random_ratio(1, DUPLICATE_REPORT_ONE_IN) {
                    return;
                }
                self.held
                    .retain(|one| !due.iter().any(|done| done.token == one.token));
            }
            Ok(answer) if answer.status == 404 => self.forget_registration(),
            _ => self.choose_master(&reply).await,
        }
    }

    async fn poll(&mut self) {
        let running: Vec<Value> = self
            .held
            .iter()
            .map(|one| json!({"task": one.task, "token": one.token}))
            .collect();
        let wait_ms = if running.is_empty() {
            IDLE_POLL_MS
        } else {
            BUSY_POLL_MS
        };
        let free = SLOTS.saturating_sub(running.len());
        let timeout = REQUEST_TIMEOUT + Duration::from_millis(wait_ms);
        if free == 0 {
            // No report is due: only a heartbeat is sent.
            let path = format!("/v1/workers/{}/heartbeat", self.id);
            let post = self.api.call(Method::POST, &path).timeout(REQUEST_TIMEOUT);
            let reply = post.json(&json!({ "running": running })).send().await;
            match &reply {
                Ok(answer) if answer.status == 200 => {
                    tokio::time::sleep(Duration::from_millis(BUSY_POLL_MS)).await;
                }
                Ok(answer) if answer.status == 404 => self.forget_registration(),
                _ => self.choose_master(&reply).await,
            }
            return;
        }
        let body = json!({"max": free, "wait_ms": wait_ms, "running": running});
        let reply = history::poll(&self.name, &self.api, &self.id, &body, timeout).await;
        match &reply {
            Ok(answer) if answer.status == 200 => {
                let tasks = answer.json()["tasks"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                for task in &tasks {
                    self.take(task);
                }
            }
            Ok(answer) if answer.status == 404 => self.forget_registration(),
            _ => self.choose_master(&reply).await,
        }
    }

    fn take(&mut self, task: &Value) {
        let id = task["id"].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| {
            task[name]
                .as_u64()
                .unwrap_or_else(|| panic!("a lease without {name}: {task}"))
        };
        let (token, attempt) = (number("token"), number("attempt"));
        if self.held.iter().any(|one| one.token == token) {
            return;
        }
        let result = if self.random.random_ratio(1, FAILURE_ONE_IN) {
            let error = json!({"type": "played", "message": "failed by chance"});
            json!({"task": id, "token": token, "status": "failed", "error": error, "retryable": true})
        } else {
            let result = json!({"token": token});
            json!({"task": id, "token": token, "status": "succeeded", "result": result})
        };
        let work = Duration::from_millis(self.random.random_range(0..=MAX_WORK_MS));
        self.held.push(Held {
            task: id,
            token,
            attempt,
            due: Instant::now() + work,
            result,
        });
    }

    /// The cluster no longer knows the worker. The worker registers again and abandons its attempts.
    fn forget_registration(&mut self) {
        self.id.clear();
        self.held.clear();
    }
}
