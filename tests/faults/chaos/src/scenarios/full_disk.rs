//! Scenario: the disk of a follower, of the leader, and of all masters fills up, and then has free space again.
//!
//! Each master has a small disk of its own, which this program fills. With one full disk the cluster works on. With all
//! disks full, writes are refused with 507 and reads are answered. With free space again, everything works. No master
//! may exit.

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use reqwest::Method;
use serde_json::json;
use triarch_harness::{Options, SmallDisk, eventually};

use crate::drill::Drill;
use crate::results::latency::Latencies;
use crate::{LoadArgs, Outcome};

/// Fill the disks of one master and of all masters, and free the space again (needs root)
#[derive(Debug, Args)]
pub struct FullDiskArgs {
    /// Number of rounds
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Size of each disk
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(64..=65_536))]
    disk_mib: u64,
    #[command(flatten)]
    load: LoadArgs,
}

/// Number of submissions between two faults.
const JOBS_BETWEEN_ROUNDS: usize = 50;
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

impl FullDiskArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let disks = match SmallDisk::mount_all(3, self.disk_mib) {
            Ok(disks) => disks,
            Err(why) => {
                eprintln!("skipped: small disks cannot be had here: {why}");
                return Ok(Outcome::Skipped);
            }
        };
        let options = Options {
            data_dirs: disks.iter().map(SmallDisk::data_dir).collect(),
            ..Options::default()
        };
        let mut drill = Drill::begin_with(&self.load, options, 3).await;
        let pids: Vec<u32> = drill
            .cluster
            .ids()
            .map(|id| drill.cluster.pid(id))
            .collect();
        drill
            .recorder()
            .expect("full-disk", 2 * u64::from(self.rounds));
        let (mut refused, mut reads, mut recovered) = (0, 0, Latencies::default());
        for nth in 1..=self.rounds {
            let (_, follower) = drill.cluster.leader_and_follower().await;
            disks[follower as usize - 1].fill();
            drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            disks[follower as usize - 1].free();
            drill.cluster.wait_caught_up(follower).await;
            println!(
                "round {nth}/{}: the disk of follower {follower} was full; work went on, and it caught up",
                self.rounds
            );

            let leader = drill.cluster.leader().await;
            disks[leader as usize - 1].fill();
            let next = drill.cluster.leader_other_than(leader).await;
            drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            disks[leader as usize - 1].free();
            drill.cluster.wait_caught_up(leader).await;
            let proof = format!("node {next} leads instead");
            drill.recorder().fault("full-disk", "leader", Some(&proof));
            println!(
                "round {nth}/{}: the disk of leader {leader} was full; node {next} took over",
                self.rounds
            );

            for disk in &disks {
                disk.fill();
            }
            let apis = drill.cluster.apis();
            let probe = json!({"tasks": [{"kind": "exec", "payload": {"argv": ["true"]}}]});
            for api in &apis {
                // Requests in flight when the disks filled up may have another outcome.
                let answer = eventually(
                    WAIT_TIMEOUT,
                    "a submission is refused for the full disks",
                    async || {
                        let reply = api
                            .call(Method::POST, "/v1/jobs")
                            .json(&probe)
                            .send()
                            .await
                            .ok()?;
                        (reply.status == 507).then_some(reply)
                    },
                )
                .await;
                let problem = answer.refused(507, "storage_failed");
                ensure!(
                    answer.header("retry-after").is_some(),
                    "no Retry-After: {problem}"
                );
                refused += 1;
                if refused % 3 == 0 {
                    let proof = "every master answered 507";
                    drill
                        .recorder()
                        .fault("full-disk", "all masters", Some(proof));
                }
                if nth == 1 && refused == 1 {
                    println!(
                        "  refused with 507: {}",
                        problem["detail"].as_str().unwrap_or_default()
                    );
                }
                api.get("/v1/tasks?limit=1").await.expect(200);
                reads += 1;
            }
            for disk in &disks {
                disk.free();
            }
            let begun = Instant::now();
            drill.wait_acknowledged(1).await;
            recovered.add(begun.elapsed());
            drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            println!(
                "round {nth}/{}: all disks were full; writes were refused, reads answered; with room again the next write \
                 came after {} ms",
                self.rounds,
                begun.elapsed().as_millis()
            );
        }
        for (node, pid) in (1..).zip(pids) {
            let process = drill.cluster.node(node);
            ensure!(
                process.pid() == pid && process.ended().is_none(),
                "master {node} died of a full disk"
            );
        }
        let findings = [
            format!(
                "{refused} submissions refused with 507, {reads} reads answered meanwhile, no master died"
            ),
            format!(
                "from room on the disks to the next write: {}",
                recovered.summary()
            ),
        ];
        let title = format!(
            "disks filled in {} rounds: a follower's, the leader's, all",
            self.rounds
        );
        Ok(drill.end(&title, &findings).await)
    }
}
