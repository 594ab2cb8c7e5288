//! Scenario: the leader is killed with SIGKILL under load and started again, and then the next leader is killed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use rand::RngExt;

use crate::drill::Drill;
use crate::plan::{KillTarget, Plan};
use crate::results::latency::first_acknowledgement;
use crate::results::report::Report;
use crate::{LoadArgs, Outcome};

/// Kill the leader with SIGKILL repeatedly, and measure how long no job is acknowledged
#[derive(Debug, Args)]
pub struct KillLeaderArgs {
    /// Number of kills
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    kills: u32,
    /// File to which the report is written as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
}

/// Maximum time between a recovery and the next kill. The time is random, so that the kill meets every phase of the
/// masters' periodic work.
const MAX_PAUSE_MS: u64 = 400;
/// Number of kills after which a new cluster is used. The cluster keeps a bounded number of finished jobs, and a
/// deleted job cannot be checked.
const MAX_KILLS_PER_CLUSTER: u32 = 250;

impl KillLeaderArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let mut report = Report::new(format!("{} leaders killed", self.kills));
        kill_leaders(self.kills, &self.load, &mut report).await?;
        report.end(self.output.as_ref())
    }
}

/// Kills this many leaders, on as many clusters as needed. Returns the number of clusters.
pub async fn kill_leaders(kills: u32, load: &LoadArgs, report: &mut Report) -> anyhow::Result<u32> {
    let mut nth = 0;
    while nth < kills {
        let mut drill =
            Drill::begin(&load.of_cluster(nth / MAX_KILLS_PER_CLUSTER), Vec::new()).await;
        for _ in 0..MAX_KILLS_PER_CLUSTER.min(kills - nth) {
            nth += 1;
            let (leader, took) = kill_one(&mut drill, nth, report).await?;
            println!(
                "kill {nth:>3}/{kills}: master {leader}; first new acknowledgement after {} ms",
                took.as_millis()
            );
        }
        report.check_result(drill.judge().await);
    }
    Ok(kills.div_ceil(MAX_KILLS_PER_CLUSTER))
}

async fn kill_one(
    drill: &mut Drill,
    nth: u32,
    report: &mut Report,
) -> anyhow::Result<(u64, Duration)> {
    let calm = Duration::from_millis(drill.random.random_range(0..=MAX_PAUSE_MS));
    tokio::time::sleep(calm).await;
    let leader = drill.cluster.wait_ready().await;
    let before = drill.cluster.observed_leader().await;
    let survivors: Vec<_> = drill
        .cluster
        .running()
        .into_iter()
        .filter(|id| *id != leader)
        .map(|id| drill.cluster.api(id))
        .collect();
    let killed = Instant::now();
    drill.cluster.kill9(leader);
    let name = format!("probe-{nth}");
    let (took, probes) = first_acknowledgement(&survivors, killed, &name, || drill.probe()).await?;
    drill.acknowledged(probes);
    let after = drill.cluster.observed_leader().await;
    let proof = match (before, after) {
        (Some((was, _)), Some((term, now))) if now != leader && term > was => Some(format!(
            "master {leader}, which led in term {was}, ended by signal 9; master {now} leads in term {term}"
        )),
        (_, _) => None,
    };
    let plan = Plan::Kill(KillTarget::Leader);
    let recorder = drill.recorder();
    recorder.fault(plan.kind(), plan.target(), proof.as_deref());
    report.fault(plan, proof);
    report.failover(took);
    report.stalled(plan, took);
    drill.cluster.restart(leader);
    drill.cluster.wait_caught_up(leader).await;
    report.survived();
    Ok((leader, took))
}
