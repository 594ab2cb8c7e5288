//! Scenario: each master in turn is stopped and started with the same command, while programs use the cluster.
//!
//! No call of the programs may fail. Retries that the client makes by itself are counted and reported.

use std::time::Instant;

use anyhow::ensure;
use clap::Args;

use triarch_harness::history;

use crate::client_load::ClientLoad;
use crate::drill::Drill;
use crate::results::latency::Latencies;
use crate::{LoadArgs, Outcome};

/// Stop each master in turn and start it again, while clients count failed calls
#[derive(Debug, Args)]
pub struct RollingRestartArgs {
    /// Number of rounds over all masters
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Stop the masters by SIGKILL instead of SIGTERM
    #[arg(long)]
    kill9: bool,
    /// Number of programs that use the Rust client
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    client_load: u16,
    #[command(flatten)]
    load: LoadArgs,
}

/// Number of submissions between two restarts.
const JOBS_BETWEEN_ROUNDS: usize = 50;

impl RollingRestartArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let mut drill = Drill::begin(&self.load, Vec::new()).await;
        let client_load = ClientLoad::start(self.client_load, &drill.cluster, &drill.probe())?;
        let (mut times, mut led) = (Latencies::default(), 0);
        for nth in 1..=self.rounds {
            for node in drill.cluster.ids() {
                let leads = drill.cluster.wait_ready().await == node;
                led += u32::from(leads);
                let begun = Instant::now();
                if self.kill9 {
                    drill.cluster.kill9(node);
                } else {
                    let ended = drill.cluster.terminate(node).await;
                    ensure!(ended.success(), "master {node} ended by {ended}");
                }
                let stopped = begun.elapsed();
                drill.cluster.restart(node);
                // Waits until this master and the others are ready, by /readyz.
                drill.cluster.wait_ready().await;
                let took = begun.elapsed();
                times.add(took);
                let kind = if self.kill9 { "kill-9" } else { "restart" };
                let target = if leads { "leader" } else { "follower" };
                let proof = format!("the process ended after {} ms", stopped.as_millis());
                drill.recorder().fault(kind, target, Some(&proof));
                println!(
                    "round {nth:>3}/{}: master {node}{} {} within {} ms; ready again after {} ms",
                    self.rounds,
                    if leads { ", the leader," } else { "" },
                    if self.kill9 { "killed" } else { "stopped" },
                    stopped.as_millis(),
                    took.as_millis()
                );
                drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            }
        }
        let calls = client_load.finish().await?;
        let how = if self.kill9 { "SIGKILL" } else { "SIGTERM" };
        let findings = [
            calls.summary(),
            format!("restarts of whoever led: {led}"),
            format!("from {how} until all are ready: {}", times.summary()),
        ];
        for failed in calls.failed.iter().take(10) {
            println!("FAILED {failed}");
        }
        let all_succeeded = calls.failed.is_empty();
        ensure!(calls.made > 0, "nothing was called");
        history::acknowledged(drill.recorder(), &calls.acked);
        drill.acknowledged(calls.acked);
        let title = format!("{} rolling restarts by {how}", self.rounds);
        let outcome = drill.end(&title, &findings).await;
        Ok(if all_succeeded {
            outcome
        } else {
            Outcome::Broken
        })
    }
}
