//! Scenarios with random faults of all kinds, one to three at once, on one cluster after the other.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use rand::RngExt;

use crate::fault_round::{ShuffledPlans, run_fault_round};
use crate::net::{NetworkKind, namespaces};
use crate::plan::Plan;
use crate::results::report::Report;
use crate::scenarios::kill_leader::kill_leaders;
use crate::scenarios::repeat::end;
use crate::testbed::{self, Requirement, Testbed, TestbedArgs};
use crate::{LoadArgs, Outcome};

/// Range of the duration of each fault.
const FAULT_MS: std::ops::RangeInclusive<u64> = 100..=3_000;
/// Range of the duration of some faults of a soak.
const LONG_FAULT_MS: std::ops::RangeInclusive<u64> = 3_000..=30_000;
/// Maximum number of faults at once.
const MAX_CONCURRENT_FAULTS: usize = 3;
/// Maximum time between a recovery and the next round.
const MAX_PAUSE_MS: u64 = 300;
/// Number of faults on one cluster. After that a new cluster is used, on the other kind of network.
const MAX_FAULTS_PER_CLUSTER: u32 = 120;

/// Inject faults of all kinds at random, some of them at once
#[derive(Debug, Args)]
pub struct RandomArgs {
    /// Number of faults
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    faults: u32,
    /// Faults to inject, such as kill:leader [default: all that this machine supports]
    #[arg(long, value_name = "KIND:TARGET")]
    only: Vec<Plan>,
    /// File to which the report is written as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    testbed: TestbedArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// Kill leaders, and inject every other kind of fault, in large numbers, for the figures in docs/reliability.md
#[derive(Debug, Args)]
pub struct LongArgs {
    /// Number of leaders to kill, one after the other, with a measurement of each
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    kills: u32,
    /// Number of faults of all kinds in addition
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    faults: u32,
    /// File to which the report is written as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    testbed: TestbedArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// Inject faults of all kinds for the given time, some of them at once, some for half a minute
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// Duration of the run
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
    /// File to which the report is written as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    testbed: TestbedArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// A run of random faults.
#[derive(Debug, Clone, Copy)]
struct Run<'a> {
    wanted: &'a [Plan],
    until: Until,
    /// Whether some faults last for half a minute.
    long_holds: bool,
    /// Number of earlier clusters of the same scenario.
    clusters_before: u32,
}

/// Condition that ends a run of random faults.
#[derive(Debug, Clone, Copy)]
enum Until {
    Faults(u32),
    Time(Instant),
}

impl RandomArgs {
    /// Runs the drill.
    pub async fn run(mut self) -> anyhow::Result<Outcome> {
        let seed = choose_seed(&mut self.load);
        let mut report = Report::new(format!("{} random faults, seed {seed}", self.faults));
        println!(
            "again: scripts/chaos/random.sh --faults {} --seed {seed}",
            self.faults
        );
        let run = Run {
            wanted: if self.only.is_empty() {
                &Plan::ALL
            } else {
                &self.only
            },
            until: Until::Faults(self.faults),
            long_holds: false,
            clusters_before: 0,
        };
        faults(run, &self.testbed, &self.load, &mut report).await?;
        report.end(self.output.as_ref())
    }
}

impl LongArgs {
    /// Runs the drill.
    pub async fn run(mut self) -> anyhow::Result<Outcome> {
        let Self {
            kills,
            faults: count,
            ..
        } = self;
        let seed = choose_seed(&mut self.load);
        let mut report = Report::new(format!(
            "{kills} leaders killed, {count} other faults, seed {seed}"
        ));
        let clusters_before = kill_leaders(kills, &self.load, &mut report).await?;
        let run = Run {
            wanted: &Plan::ALL,
            until: Until::Faults(count + report.injected()),
            long_holds: false,
            clusters_before,
        };
        faults(run, &self.testbed, &self.load, &mut report).await?;
        report.end(self.output.as_ref())
    }
}

impl SoakArgs {
    /// Runs the drill.
    pub async fn run(mut self) -> anyhow::Result<Outcome> {
        let seed = choose_seed(&mut self.load);
        let mut report = Report::new(format!(
            "{} minutes of random faults, seed {seed}",
            self.minutes
        ));
        println!(
            "again: scripts/chaos/soak.sh --minutes {} --seed {seed}",
            self.minutes
        );
        let run = Run {
            wanted: &Plan::ALL,
            until: Until::Time(Instant::now() + Duration::from_secs(60 * self.minutes)),
            long_holds: true,
            clusters_before: 0,
        };
        faults(run, &self.testbed, &self.load, &mut report).await?;
        report.end(self.output.as_ref())
    }
}

/// Chooses a random seed if none is given.
fn choose_seed(load: &mut LoadArgs) -> u64 {
    *load.seed.get_or_insert_with(rand::random)
}

/// Injects these faults in random order until the run is over.
async fn faults(
    run: Run<'_>,
    args: &TestbedArgs,
    load: &LoadArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut shown: BTreeSet<String> = BTreeSet::new();
    let over = |report: &Report| match run.until {
        Until::Faults(count) => report.injected() >= count,
        Until::Time(end) => Instant::now() >= end,
    };
    for round in 0_u32.. {
        if over(report) {
            break;
        }
        let network = network(args, round);
        let mut possible = Vec::new();
        for plan in run.wanted {
            match plan
                .needs()
                .and_then(|need| testbed::obstacle(need, network))
            {
                None => possible.push(*plan),
                Some(why) => {
                    if shown.insert(format!("{}{why}", plan.kind())) {
                        println!("without {}: {why}", plan.kind());
                    }
                }
            }
        }
        let needs: BTreeSet<Requirement> =
            possible.iter().filter_map(|plan| plan.needs()).collect();
        let load = load.of_cluster(run.clusters_before + round);
        let mut testbed = Testbed::make(args, &load, network, &needs).await?;
        let mut shuffled = ShuffledPlans::new(possible);
        let mut left = MAX_FAULTS_PER_CLUSTER;
        while left > 0 && !over(report) {
            let calm = testbed.drill.random.random_range(0..=MAX_PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(calm)).await;
            let more = match run.until {
                Until::Faults(count) => (count - report.injected()).min(left),
                Until::Time(_) => left,
            };
            let count = testbed.drill.random.random_range(1..=MAX_CONCURRENT_FAULTS);
            let roles = testbed.roles().await;
            let plans = shuffled.draw(&mut testbed, &roles, count.min(more as usize));
            let hold_ms = match run.long_holds && testbed.drill.random.random_bool(0.1) {
                true => LONG_FAULT_MS,
                false => FAULT_MS,
            };
            let begun = Instant::now();
            // Printed before the round, so that the last line shows the round in which a drill ended.
            let names: Vec<String> = plans.iter().map(Plan::to_string).collect();
            let after = report.injected() + plans.len() as u32;
            print!("{after:>4} faults: {}; ", names.join(" + "));
            std::io::stdout().flush()?;
            run_fault_round(&mut testbed, &plans, &roles, hold_ms, report).await?;
            left = left.saturating_sub(plans.len() as u32);
            println!("well again after {} ms", begun.elapsed().as_millis());
        }
        end(testbed, report).await;
    }
    Ok(())
}

/// Alternates between namespaces and proxies, if both are possible and no network is given: only namespaces can lose
/// packets, and only proxies can delay messages.
fn network(args: &TestbedArgs, round: u32) -> NetworkKind {
    match args.network {
        Some(kind) => kind,
        None if round.is_multiple_of(2) && namespaces::obstacle().is_none() => {
            NetworkKind::Namespaces
        }
        None => NetworkKind::Proxies,
    }
}
