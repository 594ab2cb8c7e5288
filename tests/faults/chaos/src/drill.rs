//! The common part of all drills: a cluster with workers, a load of real commands, and the verdict.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use triarch_check::Recorder;
use triarch_harness::{
    Acked, CheckResult, Cluster, FakeClocks, Load, LoadOptions, Options, acknowledged_jobs,
    eventually, until,
};

use crate::results::history_log::HistoryLog;
use crate::{LoadArgs, Outcome};

/// A submission without an answer within this time is sent again to another master.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time for the load to start, or to resume after a fault.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time for all acknowledged jobs to finish after the last fault.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(180);

/// A running drill.
pub struct Drill {
    /// The cluster.
    pub cluster: Cluster,
    /// Random generator for the times of the faults.
    pub random: StdRng,
    load: Load,
    sink: PathBuf,
    probes: Vec<Acked>,
    history_log: HistoryLog,
    begun: Instant,
}

impl Drill {
    /// Starts the cluster, its workers and the load.
    pub async fn begin(args: &LoadArgs, data_dirs: Vec<PathBuf>) -> Self {
        Self::begin_among(args, data_dirs, 3).await
    }

    /// As above, with the addresses of masters up to this id, which join later. Clients and workers know these
    /// addresses from the start.
    pub async fn begin_among(args: &LoadArgs, data_dirs: Vec<PathBuf>, last: u64) -> Self {
        let options = Options {
            data_dirs,
            ..Options::default()
        };
        Self::begin_with(args, options, last).await
    }

    /// As above, with these wall clocks for the masters.
    pub async fn begin_by(args: &LoadArgs, fake_clocks: FakeClocks) -> Self {
        let options = Options {
            fake_clocks: Some(fake_clocks),
            ..Options::default()
        };
        Self::begin_with(args, options, 3).await
    }

    /// As above, in a cluster that the caller has made.
    pub async fn begin_with(args: &LoadArgs, options: Options, last: u64) -> Self {
        let seed = args.seed.unwrap_or_else(rand::random);
        println!(
            "three masters, {} workers with {} slots, {} submitters; seed {seed}",
            args.workers, args.slots, args.submitters
        );
        let begun = Instant::now();
        let mut cluster = Cluster::with(options).await;
        let mut history_log = HistoryLog::open(&mut cluster, args.keep_history.as_deref());
        for _ in 0..args.workers {
            let masters: Vec<String> = (1..=last).map(|id| cluster.url(id)).collect();
            cluster.worker_of(&masters.join(","), &["--slots", &args.slots.to_string()]);
        }
        cluster.wait_workers(usize::from(args.workers)).await;
        let sink = cluster.root().join("sink");
        let script = acknowledged_jobs::sink_script(&sink);
        let options = LoadOptions {
            submitters: usize::from(args.submitters),
            pause: Duration::from_millis(args.pause_ms),
            request_timeout: REQUEST_TIMEOUT,
            name: "load".to_owned(),
            make: Arc::new(move |nth| job(&script, nth)),
        };
        let masters: Vec<_> = (1..=last).map(|id| cluster.api(id)).collect();
        let load = Load::start(&masters, options);
        history_log.start(&masters, seed);
        let mut drill = Self {
            cluster,
            random: StdRng::seed_from_u64(seed),
            load,
            sink,
            probes: Vec::new(),
            history_log,
            begun,
        };
        drill.wait_acknowledged(20).await;
        drill
    }

    /// Waits until this many more submissions are acknowledged.
    pub async fn wait_acknowledged(&mut self, more: usize) {
        let wanted = self.load.count() + more;
        let load = &self.load;
        until(
            WAIT_TIMEOUT,
            format!("{wanted} submissions are acknowledged"),
            async || load.count() >= wanted,
        )
        .await;
    }

    /// Waits until a submission is acknowledged that was sent after this moment.
    pub async fn wait_acknowledged_since(&self, since: Instant) {
        let what = "a submission is acknowledged that was sent after the faults";
        eventually(WAIT_TIMEOUT, what, async || {
            self.load.first_acked_since(since)
        })
        .await;
    }

    /// Returns the longest time without an acknowledgement since this moment.
    pub fn longest_gap_since(&self, since: Instant) -> Duration {
        self.load.longest_gap_since(since)
    }

    /// Returns the time from this moment to the acknowledgement of the first submission that was sent after it.
    pub fn recovery_since(&self, since: Instant) -> Duration {
        let first = self.load.first_acked_since(since);
        first.map_or_else(
            || since.elapsed(),
            |first| first.saturating_duration_since(since),
        )
    }

    /// Returns a job as the load submits it.
    pub fn probe(&self) -> Value {
        job(&acknowledged_jobs::sink_script(&self.sink), 0)
    }

    /// Adds jobs that were acknowledged outside of the load. The same checks apply to them.
    pub fn acknowledged(&mut self, probes: Vec<Acked>) {
        self.probes.extend(probes);
    }

    /// Returns the latest acknowledged submissions of the load.
    pub fn latest(&self, count: usize) -> Vec<Acked> {
        let acked = self.load.acked();
        acked[acked.len().saturating_sub(count)..].to_vec()
    }

    /// Returns all submissions of the load that are acknowledged so far.
    pub fn everything(&self) -> Vec<Acked> {
        self.load.acked()
    }

    /// Returns the directory to which tasks write their side effects.
    pub fn sink(&self) -> &Path {
        &self.sink
    }

    /// Returns the recorder of the history: all requests, answers and faults.
    pub fn recorder(&self) -> &Recorder {
        self.history_log.recorder()
    }

    /// Ends the load and kills the masters, without waiting for anything. The files stay as long as the cluster.
    pub async fn abandon(mut self) -> (Vec<Acked>, Cluster) {
        let acked = self.load.finish().await;
        for node in self.cluster.ids() {
            self.cluster.kill9(node);
        }
        (acked, self.cluster)
    }

    /// Ends the load, waits for all acknowledged jobs, checks them, and prints the result.
    pub async fn end(self, title: &str, findings: &[String]) -> Outcome {
        self.end_with(title, findings).await.0
    }

    /// As [`Drill::end`], and also returns the verdict.
    pub async fn end_with(self, title: &str, findings: &[String]) -> (Outcome, CheckResult) {
        let lasted = self.begun.elapsed();
        let check_result = self.judge().await;
        println!("\n{title}, {} s of load", lasted.as_secs());
        for finding in findings {
            println!("  {finding}");
        }
        for line in check_result.summary().lines() {
            println!("  {line}");
        }
        if check_result.is_good() {
            println!("  every promise was kept");
            return (Outcome::Kept, check_result);
        }
        println!("  PROMISES WERE BROKEN");
        (Outcome::Broken, check_result)
    }

    /// Ends the load, waits for all acknowledged jobs, and checks them. Logs and data are kept if a guarantee was
    /// violated.
    pub async fn judge(mut self) -> CheckResult {
        println!("stopping the load and waiting for everything that was acknowledged");
        let mut acked = self.load.finish().await;
        acked.append(&mut self.probes);
        self.history_log.stop().await;
        self.cluster.wait_ready().await;
        let running: Vec<_> = self.cluster.running();
        let masters: Vec<_> = running.iter().map(|id| self.cluster.api(*id)).collect();
        self.history_log.settle(&masters, DRAIN_TIMEOUT).await;
        let mut check_result = acknowledged_jobs::check(&masters, &acked, DRAIN_TIMEOUT).await;
        acknowledged_jobs::check_sink(&mut check_result, &self.sink, &acked);
        self.history_log.judge(&mut check_result, &self.sink);
        if !check_result.is_good() {
            self.cluster.keep();
        }
        check_result
    }
}

/// Returns a job: mostly one task, sometimes several.
fn job(script: &str, nth: u64) -> Value {
    let task = json!({"kind": "exec", "payload": {"argv": ["sh", "-c", script]}});
    let count = if nth % 10 == 9 { 5 } else { 1 };
    json!({"name": "drill", "tasks": vec![task; count]})
}
