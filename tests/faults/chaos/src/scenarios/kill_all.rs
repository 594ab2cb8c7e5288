//! Scenario: all masters are killed at once under load and started again.

use std::time::{Duration, Instant};

use clap::Args;
use rand::RngExt;

use crate::drill::Drill;
use crate::results::latency::Latencies;
use crate::{LoadArgs, Outcome};

/// Kill all masters at once and start them again
#[derive(Debug, Args)]
pub struct KillAllArgs {
    /// Number of rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    #[command(flatten)]
    load: LoadArgs,
}

/// Number of submissions between two rounds.
const JOBS_BETWEEN_ROUNDS: usize = 100;
const MAX_PAUSE_MS: u64 = 400;

impl KillAllArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let mut drill = Drill::begin(&self.load, Vec::new()).await;
        let mut times = Latencies::default();
        drill.recorder().expect("kill-9", u64::from(self.rounds));
        for nth in 1..=self.rounds {
            drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            let calm = Duration::from_millis(drill.random.random_range(0..=MAX_PAUSE_MS));
            tokio::time::sleep(calm).await;
            for node in drill.cluster.ids() {
                drill.cluster.kill9(node);
            }
            let started = Instant::now();
            for node in drill.cluster.ids() {
                drill.cluster.restart(node);
            }
            drill.cluster.wait_ready().await;
            let took = started.elapsed();
            let proof = "every process had ended before one was started";
            drill.recorder().fault("kill-9", "all masters", Some(proof));
            times.add(took);
            println!(
                "round {nth:>3}/{}: all masters killed; ready again after {} ms",
                self.rounds,
                took.as_millis()
            );
        }
        drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
        let ready = format!("from their start until all are ready: {}", times.summary());
        Ok(drill
            .end(
                &format!("all masters killed {} times", self.rounds),
                &[ready],
            )
            .await)
    }
}
