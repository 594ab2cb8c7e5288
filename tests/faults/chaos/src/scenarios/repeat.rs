//! Scenarios of one kind of fault, repeated under load. Each fault is verified, healed and survived.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rand::RngExt;

use crate::fault_round::run_fault_round;
use crate::plan::Plan;
use crate::results::report::Report;
use crate::testbed::{self, Testbed, TestbedArgs};
use crate::{LoadArgs, Outcome};

/// Options of the number of faults, their duration and their testbed.
#[derive(Debug, Args)]
pub struct RepeatArgs {
    /// Number of faults of each kind and target of the scenario
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    times: u32,
    /// Minimum duration of a fault
    #[arg(long, value_name = "MS")]
    hold_min_ms: Option<u64>,
    /// Maximum duration of a fault
    #[arg(long, value_name = "MS")]
    hold_max_ms: Option<u64>,
    /// File to which the report is written as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    testbed: TestbedArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// Maximum time between a recovery and the next fault.
const MAX_PAUSE_MS: u64 = 400;

impl RepeatArgs {
    /// Injects these faults in turn. Each lasts for a time within `hold_ms`, if the options give no other range.
    pub async fn run(
        self,
        title: &str,
        plans: &[Plan],
        hold_ms: (u64, u64),
    ) -> anyhow::Result<Outcome> {
        let needs: BTreeSet<_> = plans.iter().filter_map(|plan| plan.needs()).collect();
        let network = self.testbed.network(&needs);
        for need in &needs {
            if let Some(why) = testbed::obstacle(*need, network) {
                eprintln!("skipped: {title} is not possible here: {why}");
                return Ok(Outcome::Skipped);
            }
        }
        let least = self.hold_min_ms.unwrap_or(hold_ms.0);
        let hold_ms = least..=self.hold_max_ms.unwrap_or(hold_ms.1).max(least);
        let mut testbed = Testbed::make(&self.testbed, &self.load, network, &needs).await?;
        let mut report = Report::new(title);
        for nth in 1..=self.times {
            for plan in plans {
                if *plan == Plan::Membership && !testbed.has_spare() {
                    continue;
                }
                let calm = testbed.drill.random.random_range(0..=MAX_PAUSE_MS);
                tokio::time::sleep(Duration::from_millis(calm)).await;
                let roles = testbed.roles().await;
                run_fault_round(&mut testbed, &[*plan], &roles, hold_ms.clone(), &mut report)
                    .await?;
                println!("{nth:>3}/{}: {plan}", self.times);
            }
        }
        end(testbed, &mut report).await;
        report.end(self.output.as_ref())
    }
}

/// Ends the load of a testbed, and adds the check results to the report.
pub async fn end(testbed: Testbed, report: &mut Report) {
    let Testbed { drill, .. } = testbed;
    report.check_result(drill.judge().await);
}
