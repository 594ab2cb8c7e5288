//! Scenario: as much work as the cluster accepts, without faults. No master may campaign.
//!
//! The load is that of `triarch bench`, in short rounds, so that no round leaves more jobs than the cluster keeps.
//! Clients submit as soon as their last submission is acknowledged, and no-op workers lease and report. Each round
//! verifies its own results and deletes its jobs. A round that fails is reported, and the next rounds go on until the
//! time is over.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};
use triarch_harness::binary::triarch;
use triarch_harness::{CheckResult, Cluster};

use crate::Outcome;
use crate::results::elections::Elections;
use crate::results::report::Report;

/// Give the cluster as much work as it accepts, without faults, and count elections: there must be none
#[derive(Debug, Args)]
pub struct FullLoadArgs {
    /// Duration of the load
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Number of connections that submit
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    clients: u32,
    /// File to which the report is written as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Time for which the clients of one round submit.
const ROUND_S: u64 = 10;
/// Maximum time for a round to end after its last submission.
const EXIT_TIMEOUT: Duration = Duration::from_secs(300);

impl FullLoadArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let title = format!("{} minutes of full load without faults", self.minutes);
        println!(
            "three masters, {} clients; rounds of {ROUND_S} s of submissions for {} minutes",
            self.clients, self.minutes
        );
        let mut report = Report::new(title);
        let mut cluster = Cluster::start(3).await;
        cluster.wait_ready().await;
        let before = Elections::read(&cluster).await?;
        let begun = Instant::now();
        let (mut check_result, mut rates) = (CheckResult::default(), Vec::new());
        let time = Duration::from_secs(self.minutes * 60);
        let mut failed = Vec::new();
        for nth in 1_u32.. {
            if begun.elapsed() >= time {
                break;
            }
            let round = format!("{nth:>3}, after {:>4} s", begun.elapsed().as_secs());
            let round = match self.round(&cluster).await {
                Ok(round) => round,
                Err(error) => {
                    println!("{round}: {error:#}");
                    failed.push(format!("{error:#}"));
                    continue;
                }
            };
            let number = |name: &str| round[name].as_f64().unwrap_or_default();
            check_result.jobs += number("jobs") as usize;
            check_result.tasks += number("tasks") as usize;
            rates.push(number("tasks_per_s"));
            let now = Elections::read(&cluster).await?;
            println!(
                "{round}: {:.0} tasks/s; term {}, campaigns {}",
                number("tasks_per_s"),
                now.term,
                now.campaigns - before.campaigns
            );
        }
        let after = Elections::read(&cluster).await?;
        rates.sort_by(f64::total_cmp);
        let middle = rates.get(rates.len() / 2).copied().unwrap_or_default();
        let least = rates.first().copied().unwrap_or_default();
        report.finding(
            format!(
                "{} tasks in {} s; of the rounds, the median did {middle:.0} tasks/s, the slowest {least:.0}",
                check_result.tasks,
                begun.elapsed().as_secs()
            ),
            "tasks_per_s",
            json!({"median": middle, "least": least}),
        );
        let terms = after.term - before.term;
        let campaigns = after.campaigns - before.campaigns;
        let round = format!("{terms} new terms, {campaigns} campaigns");
        let figures = json!({"terms": terms, "campaigns": campaigns});
        if after == before {
            report.finding(format!("no election: {round}"), "elections", figures);
        } else {
            report.broken(
                format!("elections without a fault: {round}"),
                "elections",
                figures,
            );
            cluster.keep();
        }
        if let Some(first) = failed.first() {
            let words = format!("{} rounds failed, the first: {first}", failed.len());
            report.broken(words, "rounds_failed", json!(failed.len()));
        }
        report.check_result(check_result);
        report.end(self.output.as_ref())
    }

    /// Runs one round and returns its report.
    async fn round(&self, cluster: &Cluster) -> anyhow::Result<Value> {
        let mut command = cluster.marked(triarch());
        command
            .args(["bench", "--output", "json"])
            .args(["--masters", &cluster.masters()])
            .args(["--seconds", &ROUND_S.to_string()])
            .args(["--clients", &self.clients.to_string()])
            .stdin(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let ended = tokio::time::timeout(
            Duration::from_secs(ROUND_S) + EXIT_TIMEOUT,
            command.output(),
        );
        let output = ended.await.context("a round does not end")??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "triarch bench ended by {}: {}",
            output.status,
            said.trim()
        );
        serde_json::from_slice(&output.stdout).context("triarch bench told no JSON")
    }
}
