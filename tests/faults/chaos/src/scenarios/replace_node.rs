//! Scenario: a master is killed and its disk is deleted, and one command replaces it by a new master, while the cluster
//! is in use.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use rand::seq::IndexedRandom;
use triarch_harness::eventually;

use crate::drill::Drill;
use crate::results::latency::Latencies;
use crate::scenarios::grow_shrink::voters;
use crate::{LoadArgs, Outcome};

/// Kill a master with SIGKILL, delete its directory, and replace it by one command
#[derive(Debug, Args)]
pub struct ReplaceNodeArgs {
    /// Number of rounds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=80))]
    rounds: u32,
    #[command(flatten)]
    load: LoadArgs,
}

/// Number of submissions between two rounds.
const JOBS_BETWEEN_ROUNDS: usize = 100;
/// Maximum time after which the leader knows that a master is dead.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

impl ReplaceNodeArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let last = 3 + u64::from(self.rounds);
        let mut drill = Drill::begin_among(&self.load, Vec::new(), last).await;
        let mut times = Latencies::default();
        drill.recorder().expect("lost-disk", u64::from(self.rounds));
        for nth in 1..=self.rounds {
            drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            let leader = drill.cluster.wait_ready().await;
            let running = drill.cluster.running();
            let dead = *running.choose(&mut drill.random).context("masters run")?;
            let killed = Instant::now();
            drill.cluster.kill9(dead);
            let lost = drill.cluster.data_dir(dead);
            std::fs::remove_dir_all(&lost)
                .with_context(|| format!("cannot delete {}", lost.display()))?;
            let new = drill.cluster.start_waiting().await;
            let (old, named) = (dead.to_string(), drill.cluster.named(new));
            let cli = drill.cluster.cli();
            // Immediately after its death, the leader does not know it as dead yet and refuses to replace it.
            let what = format!("master {dead} is replaced");
            let replaced = eventually(WAIT_TIMEOUT, what, async || {
                let ran = cli.run(&["cluster", "replace", &old, &named]).await;
                (ran.code == Some(0)).then_some(ran)
            })
            .await;
            let took = killed.elapsed();
            times.add(took);
            for line in replaced.stderr.lines() {
                println!("  {line}");
            }
            let now = voters(&mut drill.cluster, 3).await;
            let target = if dead == leader { "leader" } else { "follower" };
            let proof = format!("its directory was deleted; the voters are {now:?}");
            drill.recorder().fault("lost-disk", target, Some(&proof));
            println!(
                "round {nth:>3}/{}: master {dead}{} lost with its disk; {new} in its place after {} ms; the voters are {now:?}",
                self.rounds,
                if dead == leader { ", the leader," } else { "" },
                took.as_millis()
            );
        }
        drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
        let replaced = format!("from kill to whole again: {}", times.summary());
        let title = format!("{} masters lost with their disks and replaced", self.rounds);
        Ok(drill.end(&title, &[replaced]).await)
    }
}
