//! Load through the client of the Rust SDK: programs that make one call after the other and count failed calls.
//!
//! The client retries by itself. A call fails for its program when the client gives up or when the cluster refuses the
//! call. Under these faults no call may fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tokio::task::JoinHandle;
use triarch_harness::{Acked, Cluster};
use triarch_sdk::wire::SubmitJob;
use triarch_sdk::{Client, parse_masters};

/// Pause of each program between two calls.
const CALL_PAUSE: Duration = Duration::from_millis(10);

/// Results of the calls.
#[derive(Debug, Default)]
pub struct CallStats {
    /// Jobs that the cluster acknowledged to the programs.
    pub acked: Vec<Acked>,
    /// Number of calls, reads included.
    pub made: u64,
    /// Error text of each failed call.
    pub failed: Vec<String>,
    /// Number of retries that the clients made by themselves.
    pub retries: u64,
    /// Duration of the slowest call.
    pub slowest: Duration,
}

impl CallStats {
    fn time(&mut self, begun: Instant) {
        self.made += 1;
        self.slowest = self.slowest.max(begun.elapsed());
    }

    /// Returns the results as one line.
    pub fn summary(&self) -> String {
        format!(
            "calls by the client {}, failed {}, tries it repeated {}, slowest call {} ms",
            self.made,
            self.failed.len(),
            self.retries,
            self.slowest.as_millis()
        )
    }
}

/// Running programs that make calls through the SDK.
pub struct ClientLoad {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<CallStats>>,
}

impl ClientLoad {
    /// Starts this many programs. Each submits a job and reads it.
    pub fn start(count: u16, cluster: &Cluster, job: &Value) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let masters = parse_masters(&cluster.masters())?;
        let mut tasks = Vec::new();
        for nth in 0..count {
            let client = Client::new(&masters)?;
            let (stop, job) = (Arc::clone(&stop), job.clone());
            tasks.push(tokio::spawn(call(client, nth, job, stop)));
        }
        Ok(Self { stop, tasks })
    }

    /// Ends the programs and returns their results.
    pub async fn finish(self) -> anyhow::Result<CallStats> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = CallStats::default();
        for task in self.tasks {
            let one = task.await.context("a caller panicked")?;
            all.acked.extend(one.acked);
            all.made += one.made;
            all.failed.extend(one.failed);
            all.retries += one.retries;
            all.slowest = all.slowest.max(one.slowest);
        }
        Ok(all)
    }
}

async fn call(client: Client, nth: u16, job: Value, stop: Arc<AtomicBool>) -> CallStats {
    let mut calls = CallStats::default();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut body = job.clone();
        let key = format!("caller-{nth}-{number}");
        body["idempotency_key"] = key.clone().into();
        let submit: SubmitJob = match serde_json::from_value(body.clone()) {
            Ok(submit) => submit,
            Err(error) => {
                calls.failed.push(error.to_string());
                break;
            }
        };
        let sent = Instant::now();
        match client.submit(&submit).await {
            Ok(submitted) => {
                calls.time(sent);
                let asked = Instant::now();
                match client.job(&submitted.id).await {
                    Ok(_) => calls.time(asked),
                    Err(error) => calls.failed.push(format!("job {}: {error}", submitted.id)),
                }
                calls.acked.push(Acked {
                    key,
                    body,
                    job: submitted.id,
                    tasks: submitted.tasks,
                    sent,
                    acked: asked,
                });
            }
            Err(error) => {
                calls.time(sent);
                calls.failed.push(format!("{key}: {error}"));
            }
        }
        tokio::time::sleep(CALL_PAUSE).await;
    }
    calls.retries = client.retries();
    calls
}
