//! Scenario: leadership is transferred repeatedly while programs use the cluster. None of their calls may fail.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use rand::RngExt;
use serde_json::json;
use triarch_harness::history;

use crate::client_load::ClientLoad;
use crate::net::NetworkKind;
use crate::plan::Plan;
use crate::results::latency::Latencies;
use crate::results::report::Report;
use crate::scenarios::repeat::end;
use crate::testbed::{Testbed, TestbedArgs};
use crate::{LoadArgs, Outcome};

/// Transfer leadership repeatedly, and measure how long no job is acknowledged
#[derive(Debug, Args)]
pub struct HandOverArgs {
    /// Number of transfers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    times: u32,
    /// Number of programs that use the Rust client
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    client_load: u16,
    /// File to which the report is written as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    testbed: TestbedArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// Range of the time between two transfers.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 200..=600;
/// Maximum time for the other master to lead.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

impl HandOverArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let mut report = Report::new(format!("leadership handed over {} times", self.times));
        let needs = std::collections::BTreeSet::new();
        let network = self.testbed.network.unwrap_or(NetworkKind::Plain);
        let mut testbed = Testbed::make(&self.testbed, &self.load, network, &needs).await?;
        let client_load = ClientLoad::start(
            self.client_load,
            &testbed.drill.cluster,
            &testbed.drill.probe(),
        )?;
        let (mut windows, mut asked) = (Vec::new(), Latencies::default());
        for nth in 1..=self.times {
            let calm = testbed.drill.random.random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(calm)).await;
            let roles = testbed.roles().await;
            let mut fault = Plan::HandOver.make(&roles);
            let begun = Instant::now();
            fault.inject(&mut testbed, Duration::ZERO).await?;
            asked.add(begun.elapsed());
            let proof = loop {
                let proof = fault.proof(&mut testbed).await?;
                if proof.is_some() || begun.elapsed() > ELECTION_TIMEOUT {
                    break proof;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            };
            if proof.is_none() {
                println!("{nth:>3}/{} not shown: {roles:?}", self.times);
            }
            windows.push((begun, Instant::now()));
            let (kind, target) = (Plan::HandOver.kind(), Plan::HandOver.target());
            testbed
                .drill
                .recorder()
                .fault(kind, target, proof.as_deref());
            report.fault(Plan::HandOver, proof);
            if nth % 10 == 0 {
                println!("{nth:>3}/{} hand-overs", self.times);
            }
        }
        testbed.settle().await?;
        report.survived();
        let calls = client_load.finish().await?;
        ensure!(calls.made > 0, "nothing was called");
        history::acknowledged(testbed.drill.recorder(), &calls.acked);
        let everything = testbed.drill.everything();
        let acked = everything.iter().chain(&calls.acked);
        let moments: Vec<Instant> = acked.map(|one| one.acked).collect();
        for gap in gaps(moments, &windows) {
            report.stalled(Plan::HandOver, gap);
        }
        report.finding(
            format!(
                "from the request to hand over to its answer: {}",
                asked.summary()
            ),
            "hand_over_answer",
            asked.json(),
        );
        report.finding(calls.summary(), "calls", json!(calls.made));
        for failed in calls.failed.iter().take(10) {
            println!("FAILED {failed}");
        }
        let failed = json!(calls.failed.len());
        if calls.failed.is_empty() {
            report.finding("no call of a client failed", "calls_failed", failed);
        } else {
            let words = format!("{} calls of clients failed", calls.failed.len());
            report.broken(words, "calls_failed", failed);
        }
        testbed.drill.acknowledged(calls.acked);
        end(testbed, &mut report).await;
        report.end(self.output.as_ref())
    }
}

/// Returns for each window the longest time between two of these moments that overlaps it.
fn gaps(mut moments: Vec<Instant>, windows: &[(Instant, Instant)]) -> Vec<Duration> {
    moments.sort_unstable();
    let longest = |(from, to): &(Instant, Instant)| {
        let first = moments
            .partition_point(|moment| moment <= from)
            .saturating_sub(1);
        let pairs = moments[first..].windows(2);
        let touching = pairs.take_while(|pair| pair[0] < *to);
        touching.map(|pair| pair[1] - pair[0]).max()
    };
    windows.iter().filter_map(longest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_belongs_to_the_windows_it_touches() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let moments = [0, 10, 50, 60, 200, 210].map(at).to_vec();
        let windows = [(at(20), at(30)), (at(52), at(61)), (at(202), at(205))];
        let found: Vec<u128> = gaps(moments, &windows)
            .iter()
            .map(Duration::as_millis)
            .collect();
        assert_eq!(found, [40, 140, 10]);
    }
}
