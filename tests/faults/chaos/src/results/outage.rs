//! Outages: a cluster that acknowledges nothing must say so while it lasts, and go on soon after its cause is gone.
//!
//! "Say so" means all three of: a master that is not ready, a metric that shows it, and a line in a log. A master that
//! does not answer at all counts for the first two, because probes and scrapes of it fail.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use triarch_harness::Exposition;

use crate::plan::Plan;
use crate::results::report::Report;
use crate::testbed::Testbed;

/// Time without an acknowledgement that counts as an outage: an election, and a client's own timeout.
const OUTAGE_MIN: Duration = Duration::from_secs(4);
/// Time to recover after the end of the cause: two seconds, and a client's own timeout of one.
const RECOVERY_MAX: Duration = Duration::from_secs(3);
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Parts of the log lines that name an outage.
const LINES: [&str; 9] = [
    "proposals wait, and the commit index stands",
    "no majority of the masters answers this leader",
    "no leader is known",
    "leadership changed",
    "this leader cannot commit",
    "does not finish a sync",
    "a sync of this node's log does not end",
    "descriptor",
    "Too many open files",
];

/// Observations of one outage.
#[derive(Debug)]
pub struct OutageWitness {
    begun: Instant,
    /// Length of each master's log when the fault began.
    logs: BTreeMap<u64, usize>,
    polled: Option<Instant>,
    seen: bool,
    ready: bool,
    metric: bool,
    line: bool,
}

impl OutageWitness {
    /// Begins with a fault.
    pub fn begin(testbed: &mut Testbed) -> Self {
        let mut logs = BTreeMap::new();
        for id in 1..=3 {
            logs.insert(id, testbed.drill.cluster.node(id).log().len());
        }
        Self {
            begun: Instant::now(),
            logs,
            polled: None,
            seen: false,
            ready: false,
            metric: false,
            line: false,
        }
    }

    /// Looks now, if nothing has been acknowledged for long.
    pub async fn observe(&mut self, testbed: &mut Testbed) {
        if self.polled.is_some_and(|at| at.elapsed() < POLL_INTERVAL) {
            return;
        }
        self.polled = Some(Instant::now());
        let last = testbed.drill.latest(1).pop().map(|one| one.acked);
        let since = last.map_or(self.begun, |last| last.max(self.begun));
        if since.elapsed() < OUTAGE_MIN {
            return;
        }
        self.seen = true;
        for id in 1..=3 {
            let api = testbed.drill.cluster.api(id);
            let ask = |path| api.call(Method::GET, path).timeout(ANSWER_TIMEOUT).send();
            let (ready, metrics) = tokio::join!(ask("/readyz"), ask("/metrics"));
            self.ready |= ready.map_or(true, |reply| reply.status == 503);
            self.metric |= match metrics {
                Ok(reply) => Exposition::read(&reply.text).is_ok_and(|read| shows_outage(&read)),
                Err(_) => true,
            };
            let log = testbed.drill.cluster.node(id).log();
            let from = self.logs.get(&id).copied().unwrap_or(0);
            let fresh = log.get(from..).unwrap_or_default();
            self.line |= LINES.iter().any(|line| fresh.contains(line));
        }
    }

    /// Reports how long the cluster took to recover after `healed`, and an outage of which it did not say anything.
    pub fn end(self, testbed: &Testbed, plan: Plan, healed: Instant, report: &mut Report) {
        let recovery = testbed.drill.recovery_since(healed);
        if recovery > RECOVERY_MAX {
            let ms = recovery.as_millis() as u64;
            report.broken(
                format!("{plan}: nothing was acknowledged for {ms} ms after the cause was gone"),
                "late_recovery_ms",
                json!(ms),
            );
        }
        if self.seen && !(self.ready && self.metric && self.line) {
            let (ready, metric, line) = (self.ready, self.metric, self.line);
            report.broken(
                format!(
                    "{plan}: an outage without a word: not ready: {ready}, metric: {metric}, log line: {line}"
                ),
                "silent_outage",
                json!({"ready": ready, "metric": metric, "line": line}),
            );
        }
    }
}

fn shows_outage(metrics: &Exposition) -> bool {
    let is = |name: &str, test: fn(f64) -> bool| metrics.sum(name, &[]).is_some_and(test);
    is("triarch_ready", |ready| ready == 0.0)
        || is("triarch_raft_oldest_proposal_age_seconds", |age| age > 1.0)
        || is("triarch_log_unfinished_sync_seconds", |age| age > 1.0)
}
