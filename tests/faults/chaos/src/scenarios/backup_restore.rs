//! Scenario: takes a backup under load, destroys the whole cluster, and restores the backup into a new cluster.
//!
//! Checks of the new cluster: all jobs that were acknowledged before the request for the backup exist and finish. Both
//! clusters write their side effects to one directory, and no side effect shows a token after a higher one. In
//! particular, the new cluster must not issue a token that the old cluster issued after the backup.

use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use rand::RngExt;
use triarch_harness::{Cluster, acknowledged_jobs, history};

use crate::drill::{DRAIN_TIMEOUT, Drill};
use crate::results::history_log::HistoryLog;
use crate::{LoadArgs, Outcome};

/// Take a backup under load, destroy the cluster, and restore the backup into a new cluster
#[derive(Debug, Args)]
pub struct BackupRestoreArgs {
    /// Number of backups; the last one is restored
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    backups: u32,
    #[command(flatten)]
    load: LoadArgs,
}

/// Number of submissions before each backup, and after the last one.
const JOBS_BETWEEN_ROUNDS: usize = 100;

impl BackupRestoreArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let mut drill = Drill::begin(&self.load, Vec::new()).await;
        let dir = tempfile::Builder::new()
            .prefix("triarch-backups-")
            .tempdir()?;
        let file = dir.path().join("backup");
        let file = file
            .to_str()
            .context("the temporary directory has a plain name")?;
        let mut promised = Vec::new();
        for nth in 1..=self.backups {
            drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            promised = drill.everything();
            let begun = Instant::now();
            let answer = drill
                .cluster
                .cli()
                .run(&["cluster", "backup", file, "--force", "--output", "json"])
                .await;
            let answer = answer.expect(0).json();
            println!(
                "backup {nth}/{}: {} tasks up to entry {}, {} bytes in {} ms; acknowledged before: {} jobs",
                self.backups,
                answer["tasks"],
                answer["index"],
                answer["bytes"],
                begun.elapsed().as_millis(),
                promised.len(),
            );
        }
        // Jobs from here on are not in the backup. Their tokens must not be issued again.
        drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
        let sink = drill.sink().to_path_buf();
        let chance = drill.random.random_range(0..3);
        let (all, mut old) = drill.abandon().await;
        println!(
            "the cluster is killed; {} jobs were acknowledged in all",
            all.len()
        );

        let mut new = Cluster::start(3).await;
        let old_ids: Vec<String> = promised.iter().map(|one| one.job.clone()).collect();
        // During the restore the leader is killed, or another master, or none.
        let leader = new.wait_ready().await;
        let victim = [Some(leader), new.ids().find(|id| *id != leader), None][chance];
        let begun = Instant::now();
        let cli = new.cli();
        let restoring = tokio::spawn({
            let file = file.to_owned();
            async move {
                cli.run(&["cluster", "restore", &file, "--output", "json"])
                    .await
            }
        });
        if let Some(victim) = victim {
            new.kill9(victim);
        }
        let answer = restoring.await?.expect(0).json();
        println!(
            "restored {} jobs into a new cluster in {} ms{}",
            answer["jobs"],
            begun.elapsed().as_millis(),
            victim.map_or_else(String::new, |victim| format!(
                ", master {victim} killed meanwhile"
            )),
        );
        ensure!(
            answer["jobs"].as_u64() >= Some(old_ids.len() as u64),
            "jobs are missing in the backup"
        );
        if let Some(victim) = victim {
            new.restart(victim);
        }
        for _ in 0..self.load.workers {
            new.worker(&["--slots", &self.load.slots.to_string()]);
        }
        // The requests to the new cluster form a separate history.
        let mut history_log = HistoryLog::open(&mut new, self.load.keep_history.as_deref());
        history::acknowledged(history_log.recorder(), &promised);
        let proof = format!("{} jobs are in a cluster that is new", answer["jobs"]);
        history_log.recorder().expect("lost-cluster", 1);
        history_log
            .recorder()
            .fault("lost-cluster", "all masters", Some(&proof));
        let apis = new.apis();
        history_log.settle(&apis, DRAIN_TIMEOUT).await;
        let mut check_result = acknowledged_jobs::check(&apis, &promised, DRAIN_TIMEOUT).await;
        acknowledged_jobs::check_sink(&mut check_result, &sink, &promised);
        let late = all.iter().filter(|one| !old_ids.contains(&one.job));
        history::not_promised(history_log.recorder(), late);
        history_log.judge(&mut check_result, &sink);
        println!(
            "\n{} backups under load, the last one restored into a new cluster",
            self.backups
        );
        for line in check_result.summary().lines() {
            println!("  {line}");
        }
        if check_result.is_good() {
            println!("  every promise was kept");
            return Ok(Outcome::Kept);
        }
        println!("  PROMISES WERE BROKEN");
        new.keep();
        old.keep();
        Ok(Outcome::Broken)
    }
}
