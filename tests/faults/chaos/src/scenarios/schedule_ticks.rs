//! Scenario: a schedule ticks every second, while one leader after the other is killed with SIGKILL and started again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use triarch_harness::schedule_ticks::EverySecond;
use triarch_harness::{CheckResult, Cluster, until};

use crate::Outcome;
use crate::results::history_log::HistoryLog;

/// Let a schedule tick every second while the leader is killed repeatedly, and count the jobs of each tick
#[derive(Debug, Args)]
pub struct ScheduleTicksArgs {
    /// Duration of the schedule
    #[arg(long, value_name = "N", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Time in seconds between two kills
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    every: u64,
    /// Number of workers that run the jobs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=64))]
    workers: u16,
    /// File to which the history is written in any case; without this option it is kept only if a guarantee was
    /// violated
    #[arg(long, value_name = "FILE")]
    keep_history: Option<PathBuf>,
}

/// Maximum time for the next leader to submit the job of a tick.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

impl ScheduleTicksArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        println!(
            "three masters, {} workers; a schedule ticks every second for {} s, the leader is killed every {} s",
            self.workers, self.seconds, self.every
        );
        let mut cluster = Cluster::start(3).await;
        for _ in 0..self.workers {
            cluster.worker(&["--slots", "4"]);
        }
        let history_log = HistoryLog::open(&mut cluster, self.keep_history.as_deref());
        let apis = cluster.apis();
        let leader = cluster.wait_ready().await;
        let job =
            json!({"name": "tick", "tasks": [{"kind": "exec", "payload": {"argv": ["true"]}}]});
        let schedule = EverySecond::start(&cluster.api(leader), "every-second", &job).await;
        let begun = Instant::now();
        let end = begun + Duration::from_secs(self.seconds);
        let (mut kills, mut next_kill) = (0, begun);
        loop {
            next_kill += Duration::from_secs(self.every);
            if next_kill >= end {
                break;
            }
            // After a slow recovery this time may have passed; then the kill follows at once.
            tokio::time::sleep(next_kill.saturating_duration_since(Instant::now())).await;
            let leader = cluster.wait_ready().await;
            let fired = schedule.fired(&apis).await;
            cluster.kill9(leader);
            kills += 1;
            let recorder = history_log.recorder();
            recorder.expect("kill-9", 1);
            until(WAIT_TIMEOUT, "the next leader makes a job", async || {
                schedule.fired(&apis).await > fired
            })
            .await;
            let proof = "the next leader made the job of a tick";
            recorder.fault("kill-9", "leader", Some(proof));
            cluster.restart(leader);
            cluster.wait_caught_up(leader).await;
        }
        tokio::time::sleep(end.saturating_duration_since(Instant::now())).await;
        let ticks = schedule.end(&apis).await;
        println!(
            "\n{kills} leaders killed in {} s",
            begun.elapsed().as_secs()
        );
        for line in ticks.summary().lines() {
            println!("  {line}");
        }
        let mut check_result = CheckResult::default();
        history_log.judge(&mut check_result, Path::new("/dev/null"));
        for line in check_result.summary().lines().skip(1) {
            println!("  {line}");
        }
        if ticks.is_good() && check_result.is_good() {
            println!("  every tick made exactly one job");
            return Ok(Outcome::Kept);
        }
        println!("  PROMISES WERE BROKEN");
        cluster.keep();
        Ok(Outcome::Broken)
    }
}
