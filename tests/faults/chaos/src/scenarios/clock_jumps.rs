//! Scenario: the wall clock of one master after the other is an hour ahead, an hour behind, or jumps repeatedly, while
//! that master follows, leads, and starts.
//!
//! Checks in addition to those of every drill: a schedule that ticks every second loses no tick and repeats none, no
//! lease ends except by its report, and a delayed task starts when its delay has passed and not earlier.

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use rand::RngExt;
use reqwest::Method;
use serde_json::json;
use triarch_harness::schedule_ticks::EverySecond;
use triarch_harness::{FakeClocks, until};

use crate::drill::Drill;
use crate::{LoadArgs, Outcome};

/// Set the wall clock of one master after the other wrong, while it follows, leads and starts (needs libfaketime)
#[derive(Debug, Args)]
pub struct ClockJumpsArgs {
    /// Number of jumps
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    jumps: u32,
    #[command(flatten)]
    load: LoadArgs,
}

const HOUR_S: i64 = 3_600;
/// Maximum time for a master to measure its wrong clock, and for leadership to move.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Delay of the delayed task, and the maximum by which it may start later. A clock that is corrected towards the right
/// time runs at most a tenth too fast.
const TASK_DELAY: Duration = Duration::from_secs(3);
const MAX_EARLY: Duration = Duration::from_millis(300);
const MAX_LATE: Duration = Duration::from_secs(10);

impl ClockJumpsArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let dir = tempfile::Builder::new()
            .prefix("triarch-clocks-")
            .tempdir()?;
        let Some(fake_clocks) = FakeClocks::within(dir.path()) else {
            eprintln!("skipped: libfaketime is not installed (Debian package faketime)");
            return Ok(Outcome::Skipped);
        };
        let mut drill = Drill::begin_by(&self.load, fake_clocks.clone()).await;
        let apis = drill.cluster.apis();
        let leader = drill.cluster.wait_ready().await;
        let job =
            json!({"name": "tick", "tasks": [{"kind": "exec", "payload": {"argv": ["true"]}}]});
        let schedule = EverySecond::start(&drill.cluster.api(leader), "every-second", &job).await;
        drill.recorder().expect("clock", u64::from(self.jumps));
        let mut delays = Vec::new();
        let mut led = 0;
        for nth in 1..=self.jumps {
            let node = u64::from(nth - 1) % 3 + 1;
            let ahead_s = match nth % 3 {
                1 => HOUR_S,
                2 => -HOUR_S,
                _ => drill.random.random_range(-24 * HOUR_S..=24 * HOUR_S),
            };
            fake_clocks.set(node, ahead_s);
            if nth % 2 == 0 {
                // The master starts with the wrong clock.
                drill.cluster.kill9(node);
                drill.cluster.restart(node);
                drill.cluster.wait_ready().await;
            }
            wait_wrong(&drill, node, ahead_s).await;
            let proof = format!("master {node} itself finds its clock {ahead_s:+} s off");
            drill.recorder().fault("clock", "one master", Some(&proof));
            lead(&mut drill, node).await;
            led += 1;
            delays.push(delay(&drill).await?);
            println!(
                "jump {nth:>2}/{}: master {node} is {ahead_s:+} s off{} and leads; a delay of {} ms took {} ms",
                self.jumps,
                if nth % 2 == 0 { ", started so," } else { "" },
                TASK_DELAY.as_millis(),
                delays[delays.len() - 1].as_millis(),
            );
            // The clock is corrected while the master leads.
            fake_clocks.set(node, 0);
            wait_wrong(&drill, node, 0).await;
        }
        let ticks = schedule.end(&apis).await;
        let late = delays.iter().max().copied().unwrap_or_default();
        let mut findings = vec![format!(
            "{led} leaders with a wrong clock; the longest delay of {} ms took {} ms",
            TASK_DELAY.as_millis(),
            late.as_millis()
        )];
        findings.extend(ticks.summary().lines().map(str::to_owned));
        let good = ticks.is_good();
        let title = format!("clocks set wrong {} times", self.jumps);
        let (outcome, check_result) = drill.end_with(&title, &findings).await;
        let ended: Vec<&str> = ["lost", "lease_expired", "timed_out"]
            .into_iter()
            .filter(|end| check_result.other_outcomes.contains_key(*end))
            .collect();
        // The kill of a master that will start with a wrong clock ends no lease either, because a new leader grants
        // every lease its full time.
        ensure!(
            ended.is_empty(),
            "leases ended though nobody was silent: {ended:?}"
        );
        ensure!(good, "ticks are missing or doubled");
        Ok(outcome)
    }
}

/// Waits until this master measures that its clock is off by this much, so that the fault has taken effect.
async fn wait_wrong(drill: &Drill, node: u64, ahead_s: i64) {
    let api = drill.cluster.api(node);
    let what = format!("master {node} finds its clock {ahead_s:+} s off");
    until(WAIT_TIMEOUT, what, async || {
        let status = api
            .call(Method::GET, "/v1/cluster?consistency=stale")
            .send();
        let Ok(status) = status.await else {
            return false;
        };
        let found_ms = status.json()["clock_ahead_ms"].as_i64();
        found_ms.is_some_and(|found_ms| (found_ms - ahead_s * 1_000).abs() <= 1_000)
    })
    .await;
}

async fn lead(drill: &mut Drill, node: u64) {
    let cluster = &mut drill.cluster;
    let body = json!({"to": node});
    let begun = Instant::now();
    while cluster.leader().await != node {
        assert!(
            begun.elapsed() < WAIT_TIMEOUT,
            "master {node} does not come to lead"
        );
        // The master may lead already, or lack log entries. The request is repeated until it leads.
        let api = cluster.api(node % 3 + 1);
        let _ = api
            .call(Method::POST, "/v1/cluster/transfer-leader")
            .json(&body)
            .send()
            .await;
    }
}

/// Submits a delayed task and returns the time until its start, by the monotonic clock of this process.
async fn delay(drill: &Drill) -> anyhow::Result<Duration> {
    let api = drill.cluster.api(1);
    let delay_ms = u64::try_from(TASK_DELAY.as_millis())?;
    let job = json!({"tasks": [{"kind": "exec", "payload": {"argv": ["true"]}, "delay_ms": delay_ms, "priority": 9}]});
    let begun = Instant::now();
    let made = api.submit(&job).await;
    let path = format!(
        "/v1/jobs/{}?wait_ms=20000",
        made["id"].as_str().unwrap_or_default()
    );
    let job = api.get(&path).await.expect(200);
    let took = begun.elapsed();
    ensure!(
        job["state"] == "succeeded",
        "the delayed task did not run: {job}"
    );
    ensure!(
        took + MAX_EARLY >= TASK_DELAY,
        "a delay of {TASK_DELAY:?} was over after {took:?}"
    );
    ensure!(
        took <= TASK_DELAY + MAX_LATE,
        "a delay of {TASK_DELAY:?} took {took:?}"
    );
    Ok(took)
}
