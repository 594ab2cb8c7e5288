//! Rolling upgrade under load: from the version before to this one, back, up again, and the rise of the level.
//!
//! Held: no call of a client fails, nothing acknowledged is lost, nothing is accepted twice. After the rise the older
//! version is refused with words, on a directory that it knows and as a new master, and changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use reqwest::Method;
use serde_json::json;
use triarch_harness::{Exposition, Options, Program, eventually, history, until};

use crate::client_load::ClientLoad;
use crate::drill::Drill;
use crate::{LoadArgs, Outcome};

/// Upgrade each master in turn, go back, upgrade again and raise the level, while clients count what fails
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// The program of the version before
    #[arg(long, value_name = "FILE")]
    old_bin: PathBuf,
    /// Programs that use the Rust client
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    client_load: u16,
    #[command(flatten)]
    load: LoadArgs,
}

/// Submissions between two steps.
const JOBS_BETWEEN_STEPS: usize = 50;
/// Entries between two snapshots: each version reads snapshots of the other.
const SNAPSHOT_ENTRIES: [&str; 2] = ["--snapshot-entries", "200"];
/// For a step to be seen everywhere.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages of the previous version about a log or a snapshot that it does not understand.
const WORDS_OF_THE_OLD: [&str; 3] = [
    "is not known to this program",
    "runs older code than the cluster",
    "does not understand",
];

impl UpgradeArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let old = Program {
            binary: Some(self.old_bin.canonicalize().context("--old-bin")?),
            more: Vec::new(),
        };
        let new = Program::default();
        let options = Options {
            programs: BTreeMap::from([1, 2, 3].map(|id| (id, old.clone()))),
            more: SNAPSHOT_ENTRIES.map(str::to_owned).to_vec(),
            ..Options::default()
        };
        let mut drill = Drill::begin_with(&self.load, options, 3).await;
        let client_load = ClientLoad::start(self.client_load, &drill.cluster, &drill.probe())?;
        for (step, program) in [("up", &new), ("back", &old), ("up again", &new)] {
            for node in 1..=3 {
                replace(&mut drill, node, step, program).await;
            }
            if *program == new {
                ensure!(
                    level(&drill, 1).await == Some(1.0),
                    "the level has risen by itself"
                );
            }
        }
        raise(&mut drill).await;
        drill.wait_acknowledged(JOBS_BETWEEN_STEPS).await;
        let findings = [
            format!(
                "the version before, on its old directory: {}",
                restart_old(&mut drill, &old).await?
            ),
            format!(
                "the version before, as a new master: {}",
                add_old(&mut drill, &old).await?
            ),
        ];
        drill.wait_acknowledged(JOBS_BETWEEN_STEPS).await;
        let calls = client_load.finish().await?;
        for failed in calls.failed.iter().take(10) {
            println!("FAILED {failed}");
        }
        let all_succeeded = calls.failed.is_empty();
        ensure!(calls.made > 0, "nothing was called");
        let findings = [&[calls.summary()][..], &findings].concat();
        history::acknowledged(drill.recorder(), &calls.acked);
        drill.acknowledged(calls.acked);
        let outcome = drill
            .end("a rolling upgrade, back, and up again", &findings)
            .await;
        Ok(if all_succeeded {
            outcome
        } else {
            Outcome::Broken
        })
    }
}

/// Stops a master and starts it with this program.
async fn replace(drill: &mut Drill, node: u64, step: &str, program: &Program) {
    let leads = drill.cluster.wait_ready().await == node;
    let begun = Instant::now();
    drill.cluster.replace_program(node, program.clone()).await;
    drill.cluster.wait_ready().await;
    drill.cluster.wait_caught_up(node).await;
    let target = if leads { "leader" } else { "follower" };
    drill.recorder().fault("upgrade", target, Some(step));
    println!(
        "{step}: master {node}, a {target}, is ready after {} ms",
        begun.elapsed().as_millis()
    );
    drill.wait_acknowledged(JOBS_BETWEEN_STEPS).await;
}

/// The level of the cluster, by a master's metrics.
async fn level(drill: &Drill, node: u64) -> Option<f64> {
    let reply = drill.cluster.api(node).call(Method::GET, "/metrics").send();
    let exposition = Exposition::read(&reply.await.ok()?.text).ok()?;
    exposition.sum("triarch_cluster_level", &[])
}

async fn raise(drill: &mut Drill) {
    eventually(WAIT_TIMEOUT, "the level is raised", async || {
        let leader = drill.cluster.wait_ready().await;
        let api = drill.cluster.api(leader);
        let call = api.call(Method::POST, "/v1/cluster/upgrade");
        let reply = call.json(&json!({})).send().await.ok()?;
        if reply.status != 200 {
            println!("not raised yet: {}", reply.text);
        }
        (reply.status == 200).then_some(())
    })
    .await;
    until(WAIT_TIMEOUT, "all masters are at level 2", async || {
        for node in 1..=3 {
            if level(drill, node).await != Some(2.0) {
                return false;
            }
        }
        true
    })
    .await;
    println!("the cluster is at level 2");
}

/// Starts the version before on the directory of a follower. Returns the line of its log that names the reason for its end.
async fn restart_old(drill: &mut Drill, old: &Program) -> anyhow::Result<String> {
    let (_, node) = drill.cluster.leader_and_follower().await;
    drill.cluster.replace_program(node, old.clone()).await;
    let status = drill.cluster.node(node).wait(WAIT_TIMEOUT).await;
    ensure!(
        status.code() == Some(1),
        "the version before ended by {status}"
    );
    let log = drill.cluster.log_line_of(node);
    let said = log
        .lines()
        .rev()
        .find(|line| WORDS_OF_THE_OLD.iter().any(|words| line.contains(words)));
    let said = said.context("the version before did not say what it does not understand")?;
    drill.cluster.set_program(node, Program::default());
    drill.cluster.restart(node);
    drill.cluster.wait_ready().await;
    drill.cluster.wait_caught_up(node).await;
    Ok(said.trim().to_owned())
}

/// Starts the version before as a fourth master, which must not be added. Returns the refusal.
async fn add_old(drill: &mut Drill, old: &Program) -> anyhow::Result<String> {
    const FOURTH: u64 = 4;
    drill.cluster.set_program(FOURTH, old.clone());
    let dir = drill.cluster.root().join("older");
    let command = drill.cluster.server_command(FOURTH, &dir);
    let mut process = drill.cluster.spawn("older", command);
    let fourth = drill.cluster.api(FOURTH);
    until(WAIT_TIMEOUT, "the fourth master listens", async || {
        let reply = fourth.call(Method::GET, "/healthz").send().await;
        reply.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    let leader = drill.cluster.wait_ready().await;
    let body = json!({"id": FOURTH, "addr": drill.cluster.advertised(FOURTH)});
    let call = drill
        .cluster
        .api(leader)
        .call(Method::POST, "/v1/cluster/nodes");
    let reply = call.json(&body).answer().await;
    ensure!(
        reply.code() == "node_too_old",
        "it was not refused as too old: {reply:?}"
    );
    process.kill9();
    Ok(reply.problem()["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}
