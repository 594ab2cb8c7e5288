//! Traffic of all kinds for the history: chains and batches, priorities and delays, cancellations, retries by hand, requests
//! sent twice, and readers who look at all of it through any master while faults go on.
//!
//! Nothing here is judged on the spot. Everything is written down, and the checker of histories judges it in the end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use triarch_check::record::Op;

use crate::history::{self, PLAYED, Read, Witness};
use crate::http::Api;
use crate::player::Players;

/// A request that is not answered within this is sent again to another master.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pauses of one who submits, and of one who reads.
const SUBMIT_PAUSE_MS: u64 = 120;
const READ_PAUSE_MS: u64 = 25;
/// Before asking again for what was not answered: each time it is asked may be the one that is done.
const CHANGE_PAUSE: Duration = Duration::from_millis(200);
/// Who there are.
const SUBMITTERS: u64 = 2;
const READERS: u64 = 2;
const PLAYERS: u64 = 3;
/// One held look at the end.
const HOLD_MS: u64 = 5_000;
/// Looks at the end at once.
const AT_ONCE: usize = 16;

/// See the module. It stops when it is dropped.
#[derive(Debug)]
pub struct Mix {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    players: Players,
    made: Arc<Mutex<Vec<String>>>,
}

impl Mix {
    /// Starts it. These masters must have a witness.
    pub fn start(masters: &[Api], seed: u64) -> Self {
        let witness = masters[0].witness();
        let witness = Arc::clone(witness.expect("somebody writes down what the traffic asks"));
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
            let witness = Arc::clone(&witness);
            let name = format!("reader-{nth}");
            tasks.push(tokio::spawn(read(name, masters, witness, random, stop)));
        }
        Self {
            players: Players::start(masters, PLAYERS, seed, &stop),
            stop,
            tasks,
            made,
        }
    }

    /// Stops submitting and reading; what was acknowledged goes on. Panics if somebody met an answer that cannot be.
    pub async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// Looks at every acknowledged task until it has ended, at most until the deadline, and sends the workers away. What
    /// has not ended by then is told by the last look in the history.
    pub async fn settle(mut self, masters: &[Api], deadline: Duration) {
        let until = Instant::now() + deadline;
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let mut looks = JoinSet::new();
        for (nth, task) in made.into_iter().enumerate() {
            if looks.len() == AT_ONCE {
                looks
                    .join_next()
                    .await
                    .expect("not empty")
                    .expect("no panic");
            }
            let masters = masters.to_vec();
            looks.spawn(async move {
                for look in nth.. {
                    let api = &masters[look % masters.len()];
                    let name = format!("settler-{}", nth % AT_ONCE);
                    let reply = history::read_task(&name, api, &task, &Read::held(HOLD_MS)).await;
                    let ended = reply.is_ok_and(|reply| match reply.status {
                        200 => !reply.json()["finished_at"].is_null(),
                        // That it is not there is an answer, too.
                        status => status == 404,
                    });
                    if ended || Instant::now() >= until {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
        while let Some(look) = looks.join_next().await {
            look.expect("no panic");
        }
        self.players.finish().await;
    }
}

impl Drop for Mix {
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

    /// Until it is acknowledged or refused.
    async fn submit(&mut self, body: &Value) -> Option<(String, Vec<String>)> {
        while !self.stop.load(Ordering::Relaxed) {
            let api = self.any();
            match history::submit(&self.name, &api, body, PATIENCE).await {
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

    /// What people do with what they have submitted.
    async fn afterwards(&mut self, body: &Value, job: &str, tasks: &[String]) {
        let pause = self.random.random_range(0..=SUBMIT_PAUSE_MS);
        match self.random.random_range(0..100) {
            // They are not sure that they did.
            0..10 => {
                let _ = self.submit(body).await;
            }
            // They think better of it.
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
            // They want it once more.
            20..23 => {
                let back = self.random.random_range(10..40);
                let witness = self.masters[0].witness().cloned();
                let before = witness.and_then(|witness| witness.recent(back));
                if let Some(before) = before.filter(|before| before.alone) {
                    self.change(Op::RetryTask { task: before.task }).await;
                }
            }
            _ => {}
        }
    }

    /// Until it is answered.
    async fn change(&mut self, op: Op) {
        while !self.stop.load(Ordering::Relaxed) {
            let api = self.any();
            match history::change(&self.name, &api, op.clone()).await {
                Ok(reply) if matches!(reply.status, 429 | 503 | 504 | 507) => {}
                Ok(_) => return,
                Err(_) => {}
            }
            tokio::time::sleep(CHANGE_PAUSE).await;
        }
    }
}

/// A job of one kind or another.
fn job(random: &mut StdRng, key: &str) -> Value {
    let backoff = json!({"initial_ms": 20, "factor": 2.0, "max_ms": 200, "jitter": 0.1});
    let played = |nth: u64| json!({"kind": PLAYED, "payload": {"of": key, "nth": nth}, "max_attempts": 10, "max_losses": 50, "backoff": backoff});
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
            // Unfinished for long enough that another one comes meanwhile.
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
            // It may well be too late.
            one["expires_ms"] = random.random_range(1..=400).into();
            vec![one]
        }
    };
    json!({"name": "mix", "tasks": tasks})
}

async fn read(
    name: String,
    masters: Vec<Api>,
    witness: Arc<Witness>,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(
            random.random_range(0..=READ_PAUSE_MS),
        ))
        .await;
        // The latest are looked at most.
        let within = [4, 30, 500][random.random_range(0..3)];
        let Some(recent) = witness.recent(random.random_range(0..within)) else {
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
        // No answer is in the history, and that is all there is to it.
        let _ = if random.random_ratio(1, 5) {
            history::read_job(&name, api, &recent.job, &how).await
        } else {
            history::read_task(&name, api, &recent.task, &how).await
        };
    }
}
