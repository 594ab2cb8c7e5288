//! Scenario: hostile clients of all kinds at once, against a cluster under ordinary load.
//!
//! During the first part, threads only keep the processors busy. During the second part, as many threads run hostile
//! clients. Nothing acknowledged may be lost, no election may happen, no master may exceed its memory bound, and the
//! ordinary load may be slower than in the first part by a bounded factor only.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use triarch_harness::{Acked, Api, Options, submit_until};

use crate::drill::Drill;
use crate::hostile_clients::{Attack, Burners, HostileClients, Targets};
use crate::results::elections::Elections;
use crate::results::latency::Latencies;
use crate::results::report::Report;
use crate::{LoadArgs, Outcome};

/// Attack all masters with hostile clients of all kinds at once, and compare the ordinary load with one on busy
/// processors
#[derive(Debug, Args)]
pub struct HostileClientsArgs {
    /// Duration of each of the two parts. In long parts the load pauses for longer between two jobs, so that they
    /// can be judged in minutes
    #[arg(long, value_name = "N", default_value_t = 1_800, value_parser = clap::value_parser!(u64).range(5..=1_000_000))]
    seconds: u64,
    /// Number of threads with hostile clients, and of busy threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Highest 99th percentile of the ordinary load's latency, as a multiple of the one with busy threads. Default: 3
    /// if the parts last ten minutes or more, else it is only reported
    #[arg(long, value_name = "FACTOR")]
    slower_max: Option<f64>,
    /// Kinds of hostile clients. Default: all
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    attacks: Vec<Attack>,
    /// File to which the report is written as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
}

/// Memory that a master may use, in MiB.
const MEMORY_MIB: u64 = 1_024;
/// Delay of the task that watchers wait for. Longer than any run.
const UNFINISHED_MS: u64 = 30 * 24 * 3_600_000;
/// Maximum number of jobs of the ordinary load, and of measured submissions, over both parts. However long the parts
/// last, the jobs can then be judged in minutes.
const JOBS_MAX: u64 = 40_000;
const PROBES_MAX: u64 = 30_000;
/// Shortest pause between two measured submissions.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Timeout of one try of a measured submission.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum duration of a part for which a slow load breaks the promise.
const LONG: Duration = Duration::from_secs(600);
/// See [`HostileClientsArgs`].
const SLOWER_MAX: f64 = 3.0;

impl HostileClientsArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let part = Duration::from_secs(self.seconds);
        let options = Options {
            more: vec!["--max-memory-mib".to_owned(), MEMORY_MIB.to_string()],
            ..Options::default()
        };
        let mut report = Report::new("hostile clients of all kinds at once");
        let mut drill = Drill::begin_with(&self.bounded_load(), options, 3).await;
        let targets = targets(&drill).await?;
        let elections_before = Elections::read(&drill.cluster).await?;

        println!("{} s with {} busy threads", self.seconds, self.threads);
        let burners = Burners::start(self.threads);
        let beside_burners = measure(&mut drill, "burners", part, self.probe_pause()).await?;
        drop(burners);

        println!(
            "{} s with {} threads of hostile clients",
            self.seconds, self.threads
        );
        let seed = self.load.seed.unwrap_or_else(rand::random);
        let attacks = match self.attacks.is_empty() {
            true => Attack::ALL.to_vec(),
            false => self.attacks.clone(),
        };
        let hostile = HostileClients::start(&attacks, &targets, self.threads, seed);
        let beside_hostile = measure(&mut drill, "hostile", part, self.probe_pause()).await?;
        let effects = hostile.finish();

        let mut exercised = true;
        for (attack, [opened, refused, served]) in effects {
            exercised &= opened > 0;
            let words = format!(
                "{}: {opened} connections, {refused} refused or closed by the master, {served} served",
                attack.name()
            );
            let figures = json!({"opened": opened, "refused": refused, "served": served});
            report.finding(words, attack.name(), figures);
        }
        self.compare(&mut report, &beside_burners, &beside_hostile);
        check_memory(&mut report, &drill)?;
        let elections = Elections::read(&drill.cluster).await?;
        if elections != elections_before {
            let words = format!("elections: {elections_before:?} before, {elections:?} after");
            report.broken(words, "elections", json!(elections.campaigns));
            drill.cluster.keep();
        }
        report.check_result(drill.judge().await);
        let outcome = report.end(self.output.as_ref())?;
        Ok(match outcome {
            Outcome::Kept if !exercised => Outcome::NotExercised,
            outcome => outcome,
        })
    }

    /// Returns the load with a pause that is long enough for [`JOBS_MAX`].
    fn bounded_load(&self) -> LoadArgs {
        let pause = pause_for(self.seconds, u64::from(self.load.submitters), JOBS_MAX);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        LoadArgs {
            pause_ms: self.load.pause_ms.max(pause_ms),
            ..self.load.clone()
        }
    }

    fn probe_pause(&self) -> Duration {
        pause_for(self.seconds, 1, PROBES_MAX).max(PROBE_PAUSE_MIN)
    }

    fn compare(&self, report: &mut Report, burners: &Latencies, hostile: &Latencies) {
        let p99 = |latencies: &Latencies| {
            let p99 = latencies.percentile(99).unwrap_or_default();
            p99.as_secs_f64().max(0.001)
        };
        let factor = p99(hostile) / p99(burners);
        let words = format!(
            "ordinary load with busy threads {}; with hostile clients {}; p99 {factor:.1} times as long",
            burners.summary(),
            hostile.summary()
        );
        let figures =
            json!({"burners": burners.json(), "hostile": hostile.json(), "p99_factor": factor});
        let long = Duration::from_secs(self.seconds) >= LONG;
        let slower_max = self.slower_max.or(long.then_some(SLOWER_MAX));
        if slower_max.is_some_and(|max| factor > max) {
            report.broken(words, "latency", figures);
        } else {
            report.finding(words, "latency", figures);
        }
    }
}

/// Collects the targets of hostile clients.
async fn targets(drill: &Drill) -> anyhow::Result<Targets> {
    let api = drill.cluster.api(1);
    let status = api.get("/v1/cluster").await.expect(200);
    let id = status["cluster_id"].as_str().context("a cluster id")?;
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).context("a cluster id is a UUID")?;
    let mut unfinished = drill.probe();
    for task in unfinished["tasks"].as_array_mut().context("tasks")? {
        task["delay_ms"] = json!(UNFINISHED_MS);
    }
    let submitted = api.submit(&unfinished).await;
    let id = |value: &Value| value.as_str().map(str::to_owned).context("an id");
    let unfinished = (id(&submitted["tasks"][0])?, id(&submitted["id"])?);
    let ids = drill.cluster.ids();
    Ok(Targets {
        masters: ids.map(|id| (id, drill.cluster.addr(id))).collect(),
        cluster: number.to_be_bytes(),
        unfinished,
    })
}

/// Returns the pause with which this many clients submit at most `jobs_max` jobs in two parts of this duration.
fn pause_for(part_s: u64, clients: u64, jobs_max: u64) -> Duration {
    let pause_ms = (2 * part_s * 1_000 * clients).div_ceil(jobs_max);
    Duration::from_millis(pause_ms)
}

/// Submits jobs one after the other for this time, with this pause, to one master after the other, and returns how long
/// each took.
async fn measure(
    drill: &mut Drill,
    name: &str,
    time: Duration,
    pause: Duration,
) -> anyhow::Result<Latencies> {
    let stop = Arc::new(AtomicBool::new(false));
    let probe: JoinHandle<(Vec<Acked>, Vec<Duration>)> = {
        let (masters, name, body) = (drill.cluster.apis(), name.to_owned(), drill.probe());
        let stop = Arc::clone(&stop);
        tokio::spawn(async move { probe(&masters, &name, body, pause, &stop).await })
    };
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let (acked, times) = probe.await?;
    drill.acknowledged(acked);
    let mut latencies = Latencies::default();
    latencies.extend(times);
    println!("  {}", latencies.summary());
    Ok(latencies)
}

async fn probe(
    masters: &[Api],
    name: &str,
    mut body: Value,
    pause: Duration,
    stop: &AtomicBool,
) -> (Vec<Acked>, Vec<Duration>) {
    let (mut acked, mut times) = (Vec::new(), Vec::new());
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        body["idempotency_key"] = format!("{name}-{}", times.len()).into();
        at += 1;
        let begun = Instant::now();
        let never = AtomicBool::new(false);
        if let Some(one) = submit_until(masters, &mut at, &body, PROBE_TIMEOUT, &never).await {
            times.push(begun.elapsed());
            acked.push(one);
        }
        tokio::time::sleep(pause).await;
    }
    (acked, times)
}

/// Compares the highest memory use of each master with its option.
fn check_memory(report: &mut Report, drill: &Drill) -> anyhow::Result<()> {
    for id in drill.cluster.ids() {
        let pid = drill.cluster.pid(id);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let mib = peak.context("a process has a peak of memory")? >> 10;
        let words = format!("master {id}: at most {mib} MiB of {MEMORY_MIB}");
        let name = format!("memory_mib_{id}");
        if mib > MEMORY_MIB {
            report.broken(words, &name, json!(mib));
        } else {
            report.finding(words, &name, json!(mib));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_parts_submit_no_more_jobs_than_can_be_judged() {
        for part_s in [5, 60, 600, 1_800, 36_000] {
            for (clients, jobs_max) in [(4, JOBS_MAX), (256, JOBS_MAX), (1, PROBES_MAX)] {
                let pause = pause_for(part_s, clients, jobs_max);
                let rounds = Duration::from_secs(2 * part_s).as_millis() / pause.as_millis().max(1);
                let jobs = rounds * u128::from(clients);
                assert!(jobs <= u128::from(jobs_max), "{part_s} {clients}: {jobs}");
            }
        }
        assert_eq!(pause_for(1_800, 4, JOBS_MAX), Duration::from_millis(360));
        assert!(pause_for(60, 1, PROBES_MAX) <= PROBE_PAUSE_MIN);
    }
}
