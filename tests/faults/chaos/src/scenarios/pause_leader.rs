//! Scenario: the leader is paused with SIGSTOP, another master takes over, and the old leader resumes.

use std::time::{Duration, Instant};

use clap::Args;
use triarch_harness::http::Method;
use triarch_harness::{Acked, Api};

use crate::drill::Drill;
use crate::results::latency::{Latencies, first_acknowledgement};
use crate::{LoadArgs, Outcome};

/// Stop the leader with SIGSTOP while another takes over, and wake it
#[derive(Debug, Args)]
pub struct PauseLeaderArgs {
    /// Number of pauses
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pauses: u32,
    /// Duration of each pause
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    pause_leader_ms: u64,
    #[command(flatten)]
    load: LoadArgs,
}

/// Number of jobs acknowledged during the pause that are read from the old leader at its resumption.
const JOBS_READ: usize = 30;

impl PauseLeaderArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let mut drill = Drill::begin(&self.load, Vec::new()).await;
        let (mut times, mut stale) = (Latencies::default(), 0);
        drill.recorder().expect("pause", u64::from(self.pauses));
        for nth in 1..=self.pauses {
            drill.wait_acknowledged(50).await;
            let leader = drill.cluster.wait_ready().await;
            let survivors: Vec<_> = drill
                .cluster
                .ids()
                .filter(|id| *id != leader)
                .map(|id| drill.cluster.api(id))
                .collect();
            let stopped = Instant::now();
            drill.cluster.stop(leader);
            let (took, probes) =
                first_acknowledgement(&survivors, stopped, &format!("probe-{nth}"), || {
                    drill.probe()
                })
                .await?;
            times.add(took);
            drill.acknowledged(probes);
            let other = drill.cluster.leader_other_than(leader).await;
            let proof = format!("master {other} leads while master {leader} is stopped");
            drill.recorder().fault("pause", "leader", Some(&proof));
            let rest =
                Duration::from_millis(self.pause_leader_ms).saturating_sub(stopped.elapsed());
            tokio::time::sleep(rest).await;
            let newest = drill.latest(JOBS_READ);
            // The requests are sent before the resumption, so that they are answered in its first moments.
            let answers = ask(&drill.cluster.api(leader), &newest);
            drill.cluster.cont(leader);
            stale += answers.await?;
            println!(
                "pause {nth:>3}/{}: master {leader}; first new acknowledgement after {} ms",
                self.pauses,
                took.as_millis()
            );
            drill.cluster.wait_caught_up(leader).await;
        }
        let findings = [
            format!(
                "from pause to the first new acknowledgement: {}",
                times.summary()
            ),
            format!("reads that the woken leader answered with old data: {stale}"),
        ];
        let outcome = drill
            .end(&format!("{} leaders stopped", self.pauses), &findings)
            .await;
        Ok(if stale == 0 { outcome } else { Outcome::Broken })
    }
}

/// Reads all of these jobs at once. Returns the number of answers that a job, although acknowledged, does not exist.
fn ask(api: &Api, jobs: &[Acked]) -> impl Future<Output = anyhow::Result<usize>> + use<> {
    let mut asked = tokio::task::JoinSet::new();
    for acked in jobs {
        let call = api.call(Method::GET, &format!("/v1/jobs/{}", acked.job));
        asked.spawn(async move { call.send().await });
    }
    async move {
        let mut stale = 0;
        while let Some(reply) = asked.join_next().await {
            // A broken connection, a redirect or a 503 says nothing about the job. Only `not_found` does.
            stale += usize::from(reply?.is_ok_and(|reply| reply.status == 404));
        }
        Ok(stale)
    }
}
