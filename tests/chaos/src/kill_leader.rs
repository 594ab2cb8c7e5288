//! The leader is killed with SIGKILL under load, started again, and the next one is killed.

use std::time::{Duration, Instant};

use clap::Args;
use rand::Rng;

use crate::drill::Drill;
use crate::measure::{Times, first_acknowledgement};
use crate::{LoadArgs, Outcome};

/// Kill the leader with SIGKILL, again and again, and measure how long nobody acknowledges anything
#[derive(Debug, Args)]
pub struct KillLeaderArgs {
    /// How often
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    kills: u32,
    #[command(flatten)]
    load: LoadArgs,
}

/// Between a cluster that is whole again and the next kill: at most so long, so that the kill meets any moment of the
/// masters' own rhythms.
const CALM_MS_MAX: u64 = 400;

impl KillLeaderArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let mut drill = Drill::begin(&self.load, Vec::new()).await;
        let mut times = Times::default();
        for nth in 1..=self.kills {
            let calm = Duration::from_millis(drill.random.random_range(0..=CALM_MS_MAX));
            tokio::time::sleep(calm).await;
            let leader = drill.cluster.wait_ready().await;
            let survivors: Vec<_> = drill
                .cluster
                .ids()
                .filter(|id| *id != leader)
                .map(|id| drill.cluster.api(id))
                .collect();
            let killed = Instant::now();
            drill.cluster.kill9(leader);
            let (took, probes) =
                first_acknowledgement(&survivors, killed, &format!("probe-{nth}"), || {
                    drill.probe()
                })
                .await?;
            drill.acknowledged(probes);
            times.add(took);
            println!(
                "kill {nth:>3}/{}: master {leader}; first new acknowledgement after {} ms",
                self.kills,
                took.as_millis()
            );
            drill.cluster.restart(leader);
            drill.cluster.wait_caught_up(leader).await;
        }
        let failover = format!(
            "from kill to the first new acknowledgement: {}",
            times.tell()
        );
        Ok(drill
            .end(&format!("{} leaders killed", self.kills), &[failover])
            .await)
    }
}
