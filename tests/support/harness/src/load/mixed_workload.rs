//! A mixed workload for the history: chains and batches, priorities and delays, cancellations, manual retries, repeated
//! requests, and readers at every master while faults go on.
//!
//! The workload checks no answer itself. Every request is recorded, and the history checker judges the recording at the
//! end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use triarch_check::record::Op;

use crate::history::{self, HistoryWriter, Read, WORKLOAD_KIND};
use crate::http::Api;
use crate::workers::misbehaving_worker::MisbehavingWorkers;

/// A request that is not answered within this is sent again to another master.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses of each submitter and of each reader.
const SUBMIT_PAUSE_MS: u64 = 120;
const READ_PAUSE_MS: u64 = 25;
/// Pause before a repeated request. Each try may be the one that takes effect.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Numbers of the submitters, readers and misbehaving workers.
const SUBMITTERS: u64 = 2;
const READERS: u64 = 2;
const MISBEHAVING_WORKERS: u64 = 3;
/// Maximum wait of one read at the end.
const LONG_POLL_MS: u64 = 5_000;
/// Number of concurrent reads at the end.
const MAX_CONCURRENT_READS: usize = 16;

/// A running workload. Dropping it stops it.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    misbehaving_workers: MisbehavingWorkers,
    made: Arc<Mutex<Vec<String>>>,
}

impl Workload {
    /// Starts the workload. These masters must have a history writer.
    pub fn start(masters: &[Api], seed: u64) -> Self {
        let history_writer = masters[0].history_writer();
        let history_writer =
            Arc::clone(history_writer.expect("the requests of the workload are recorded"));
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for nth in 1..=SUBMITTERS {
            let submitter = Submitter {
                name: format!("mix-{nth}"),
                masters: masters.to_vec(),
                random: StdRng::seed_from_u64(seed.wrapping_add(1_000 + nth)),
                stop: Arc::clone(&stop),
                made: Arc::clone(&made),
                next: Arc::clone(&next),
            };
            tasks.push(tokio::spawn(submitter.run()));
        }
        for nth in 1..=READERS {
            let random = StdRng::seed_from_u64(seed.wrapping_add(2_000 + nth));
            let (masters, stop) = (masters.to_vec(), Arc::clone(&stop));
            let history_writer = Arc::clone(&history_writer);
            let name = format!("reader-{nth}");
            tasks.push(tokio::spawn(read(
                name,
                masters,
                history_writer,
                random,
                stop,
            )));
        }
        Self {
            misbehaving_workers: MisbehavingWorkers::start(
                masters,
                MISBEHAVING_WORKERS,
                seed,
                &stop,
            ),
            stop,
            tasks,
            made,
        }
    }

    /// Stops submitters and readers. Acknowledged work continues. Panics if one of them met an invalid
    /// answer.
    pub async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// Reads every acknowledged task until it has ended, at most until the deadline, and stops the workers. The last
    /// read in the history shows the tasks that have not ended by then.
    pub async fn settle(mut self, masters: &[Api], deadline: Duration) {
        let until = Instant::now() + deadline;
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let mut reads = JoinSet::new();
        for (nth, task) in made.into_iter().enumerate() {
            if reads.len() == MAX_CONCURRENT_READS {
                reads
                    .join_next()
                    .await
                    .expect("not empty")
                    .expect("no panic");
            }
            let masters = masters.to_vec();
            reads.spawn(async move {
                for attempt in nth.. {
                    let api = &masters[attempt % masters.len()];
                    let name = format!("settler-{}", nth % MAX_CONCURRENT_READS);
                    let reply =
                        history::read_task(&name, api, &task, &Read::held(LONG_POLL_MS)).await;
                    let ended = reply.is_ok_and(|reply| match reply.status {
                        200 => !reply.json()["finished_at"].is_null(),
                        // `not_found` is an answer too.
                        status => status == 404,
                    });
                    if ended || Instant::now() >= until {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
        while let Some(attempt) = reads.join_next().await {
            attempt.expect("no panic");
        }
        self.misbehaving_workers.finish().await;
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Submitter {
    name: String,
    masters: Vec<Api>,
    random: StdRng,
    stop: Arc<AtomicBool>,
    made: Arc<Mutex<Vec<String>>>,
    next: Arc<AtomicU64>,
}

impl Submitter {
    async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let key = format!("mix-{number}");
            let mut body = job(&mut self.random, &key);
            body["idempotency_key"] = key.into();
            if let Some((job, tasks)) = self.submit(&body).await {
                self.afterwards(&body, &job, &tasks).await;
            }
            let pause = self.random.random_range(0..=SUBMIT_PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn any(&mut self) -> Api {
        let nth = self.random.random_range(0..self.masters.len());
        self.masters[nth].clone()
    }

    /// Repeats the submission until it is acknowledged or refused.
    async fn submit(&mut self, body: &Value) -> Option<(String, Vec<String>)> {
        while !self.stop.load(Ordering::Relaxed) {
            let api = self.any();
            match history::submit(&self.name, &api, body, REQUEST_TIMEOUT).await {
                Ok(reply) if matches!(reply.status, 200 | 201) => {
                    let answer = reply.json();
                    let tasks = answer["tasks"].as_array().into_iter().flatten();
                    let tasks = tasks.filter_map(|id| id.as_str().map(str::to_owned));
                    let tasks: Vec<String> = tasks.collect();
                    let job = answer["id"].as_str().unwrap_or_default().to_owned();
                    let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
                    made.extend(tasks.iter().cloned());
                    return Some((job, tasks));
                }
                // The unique key is taken.
                Ok(reply) if reply.status == 409 => return None,
                Ok(reply) if matches!(reply.status, 429 | 503 | 504 | 507) => {}
                Ok(reply) => panic!("a submission was answered by {reply:?}"),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Acts on a submitted task like a user: repeats the submission, cancels or retries.
    async fn afterwards(&mut self, body: &Value, job: &str, tasks: &[String]) {
        let pause = self.random.random_range(0..=SUBMIT_PAUSE_MS);
        match self.random.random_range(0..100) {
            // The user is not sure that the submission succeeded.
            0..10 => {
                let _ = self.submit(body).await;
            }
            // The user no longer wants the task.
            10..15 => {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let task = tasks[self.random.random_range(0..tasks.len())].clone();
                self.change(Op::CancelTask { task }).await;
            }
            15..20 => {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let job = job.to_owned();
                self.change(Op::CancelJob { job }).await;
            }
            // The user wants the task to run again.
            20..23 => {
                let back = self.random.random_range(10..40);
                let history_writer = self.masters[0].history_writer().cloned();
                let before = history_writer.and_then(|history_writer| history_writer.recent(back));
                if let Some(before) = before.filter(|before| before.alone) {
                    self.change(Op::RetryTask { task: before.task }).await;
                }
            }
            _ => {}
        }
    }

    /// Repeats the request until it is answered.
    async fn change(&mut self, op: Op) {
        while !self.stop.load(Ordering::Relaxed) {
            let api = self.any();
            match history::change(&self.name, &api, op.clone()).await {
                Ok(reply) if matches!(reply.status, 429 | 503 | 504 | 507) => {}
                Ok(_) => return,
                Err(_) => {}
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

/// Returns a job of a random kind.
fn job(random: &mut StdRng, key: &str) -> Value {
    let backoff = json!({"initial_ms": 20, "factor": 2.0, "max_ms": 200, "jitter": 0.1});
    let played = |nth: u64| json!({"kind": WORKLOAD_KIND, "payload": {"of": key, "nth": nth}, "max_attempts": 10, "max_losses": 50, "backoff": backoff});
    let chained = |nth: u64, own: &str, after: &[&str]| {
        let mut task = played(nth);
        task["key"] = own.into();
        task["after"] = json!(after);
        task
    };
    let mut one = played(0);
    let tasks = match random.random_range(0..100) {
        0..35 => {
            one["priority"] = random.random_range(0..=9).into();
            vec![one]
        }
        35..50 => {
            one["delay_ms"] = random.random_range(10..=600).into();
            vec![one]
        }
        50..55 => {
            // The task stays unfinished long enough for another submission with the same unique key.
            one["unique_key"] = format!("unique-{}", random.random_range(0..3)).into();
            one["delay_ms"] = random.random_range(500..=2_000).into();
            vec![one]
        }
        55..65 => (0..10).map(played).collect(),
        65..85 => vec![
            chained(0, "a", &[]),
            chained(1, "b", &["a"]),
            chained(2, "c", &["a"]),
            chained(3, "d", &["b", "c"]),
        ],
        85..92 => vec![
            json!({"kind": "exec", "key": "e", "payload": {"argv": ["true"]}}),
            chained(1, "f", &["e"]),
        ],
        _ => {
            // The task may expire before it starts.
            one["expires_ms"] = random.random_range(1..=400).into();
            vec![one]
        }
    };
    json!({"name": "mix", "tasks": tasks})
}

async fn read(
    name: String,
    masters: Vec<Api>,
    history_writer: Arc<HistoryWriter>,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(
            random.random_range(0..=READ_PAUSE_MS),
        ))
        .await;
        // The latest tasks are read most often.
        let within = [4, 30, 500][random.random_range(0..3)];
        let Some(recent) = history_writer.recent(random.random_range(0..within)) else {
            continue;
        };
        let api = &masters[random.random_range(0..masters.len())];
        let how = match random.random_range(0..10) {
            0 => Read {
                stale: true,
                ..Read::default()
            },
            1 => Read {
                stale: true,
                min_index: recent.index,
                ..Read::default()
            },
            _ => Read::default(),
        };
        // A request without an answer is recorded as such, and nothing else is to be done.
        let _ = if random.random_ratio(1, 5) {
            history::read_job(&name, api, &recent.job, &how).await
        } else {
            history::read_task(&name, api, &recent.task, &how).await
        };
    }
}
