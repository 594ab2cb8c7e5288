//! Report of a run: its figures, and whether the run verifies.

use std::collections::BTreeMap;

use serde::Serialize;
use triarch_table::Limits;

use super::bench_run::BenchRun;
use super::cleanup::CleanupReport;
use super::latency::LatencySummary;
use super::mode::Mode;
use super::recorder::RunTotals;
use super::server_metrics::{CommitBreakdown, HistogramDelta, MetricsSnapshot, ResourceUsage};
use super::settings::Settings;
use crate::output::{self, Cell, Column};

/// Report of a run. Its fields are the JSON of `triarch bench --output json`.
#[derive(Debug, Serialize)]
pub struct Report {
    settings: Settings,
    tasks: u64,
    jobs: u64,
    /// Time from when the first submission was due until the last task ended; in `submit`, until the last was
    /// acknowledged.
    seconds: f64,
    /// Rate over the whole of that time.
    tasks_per_s: f64,
    /// Rate until the last submission was acknowledged.
    submitted_per_s: f64,
    /// Number of tasks that ended in each second, where the workers record it.
    ended_by_second: Vec<u64>,
    latency_ms: BTreeMap<&'static str, LatencySummary>,
    /// Absent if leadership changed during the run.
    leader: Option<CommitBreakdown>,
    masters: Vec<ResourceUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<Idle>,
    check: Check,
}

/// Cost of waiting workers.
#[derive(Debug, Serialize)]
struct Idle {
    workers: u32,
    /// Time until all workers waited in a poll.
    connect_seconds: f64,
    watched_seconds: f64,
    /// Use of resources during the observation.
    masters: Vec<ResourceUsage>,
    /// Growth of the leader's memory since before the workers came, per worker.
    leader_bytes_per_worker: Option<i64>,
}

/// Verification of the run's own results.
#[derive(Debug, Serialize)]
struct Check {
    results: u64,
    #[serde(rename = "twice")]
    duplicates: u64,
    refused: BTreeMap<String, u64>,
    unfinished: u64,
    jobs_forgotten: u64,
    /// Errors that the verification found.
    #[serde(rename = "wrong")]
    errors: Vec<String>,
}

impl Report {
    pub fn of(
        bench: &BenchRun<'_>,
        before: &MetricsSnapshot,
        after: &MetricsSnapshot,
        cleanup: CleanupReport,
    ) -> Self {
        let totals = bench.recorder.totals();
        let settings = bench.settings.clone();
        let time = match settings.mode {
            Mode::Submit => totals.submit_time,
            Mode::Idle => bench
                .idle_window
                .get()
                .map_or(totals.submit_time, |watched| watched.time),
            Mode::Lifecycle | Mode::Exec | Mode::RoundTrip | Mode::Mixed => totals.life_time,
        };
        let rate = |tasks: u64, seconds: f64| match seconds > 0.0 {
            true => tasks as f64 / seconds,
            false => 0.0,
        };
        let recorder = &bench.recorder;
        let latencies = [
            ("submit", &recorder.submit),
            ("start", &recorder.start),
            ("life", &recorder.life),
            ("round trip", &recorder.round_trip),
            ("read", &recorder.read),
            ("list", &recorder.list),
        ];
        Self {
            tasks: totals.submitted,
            jobs: totals.jobs,
            seconds: time.as_secs_f64(),
            tasks_per_s: rate(totals.submitted, time.as_secs_f64()),
            submitted_per_s: rate(totals.submitted, totals.submit_time.as_secs_f64()),
            ended_by_second: totals.per_second.clone(),
            latency_ms: latencies
                .into_iter()
                .filter_map(|(name, of)| Some((name, of.summary()?)))
                .collect(),
            leader: before.breakdown(after),
            masters: before.usage(after),
            idle: idle(bench, before),
            check: check(bench, &totals, cleanup),
            settings,
        }
    }

    /// Returns the errors found, if any.
    pub fn verify(&self) -> Result<(), String> {
        match self.check.errors.is_empty() {
            true => Ok(()),
            false => Err(self.check.errors.join("; ")),
        }
    }

    pub fn render(&self) -> String {
        let settings = &self.settings;
        let facts = output::details([
            (
                "measured",
                Some(format!(
                    "{} tasks in {} jobs, payloads of {} bytes, {} clients, {} workers",
                    self.tasks,
                    self.jobs,
                    settings.payload_bytes,
                    settings.clients,
                    settings.workers
                )),
            ),
            ("time", Some(format!("{:.3} s", self.seconds))),
            ("rate", Some(format!("{:.0} tasks/s", self.tasks_per_s))),
            (
                "submitted",
                Some(format!("{:.0} tasks/s", self.submitted_per_s)),
            ),
            ("by second", per_second_range(&self.ended_by_second)),
            (
                "checked",
                Some(format!(
                    "{} results, {} twice, {} unfinished, {} jobs forgotten again",
                    self.check.results,
                    self.check.duplicates,
                    self.check.unfinished,
                    self.check.jobs_forgotten
                )),
            ),
        ]);
        let mut parts = vec![facts];
        if !self.latency_ms.is_empty() {
            parts.push(self.latencies());
        }
        parts.extend(self.leader.as_ref().map(breakdown));
        if !self.masters.is_empty() {
            parts.push(usage(&self.masters));
        }
        parts.extend(self.idle.as_ref().map(Idle::render));
        parts.join("\n\n")
    }

    fn latencies(&self) -> String {
        let columns = [
            Column::Text("LATENCY, MS"),
            Column::Number("COUNT"),
            Column::Number("MEAN"),
            Column::Number("P50"),
            Column::Number("P90"),
            Column::Number("P99"),
            Column::Number("P99.9"),
            Column::Number("MAX"),
        ];
        let rows = self.latency_ms.iter().map(|(name, of)| {
            let numbers = [
                of.mean_ms, of.p50_ms, of.p90_ms, of.p99_ms, of.p999_ms, of.max_ms,
            ];
            let mut row = vec![Cell::new(name), Cell::new(of.count)];
            row.extend(numbers.map(|ms| Cell::new(format!("{ms:.2}"))));
            row
        });
        output::table(&columns, rows)
    }
}

/// Formats minimum, median and maximum over the full seconds.
fn per_second_range(ended: &[u64]) -> Option<String> {
    let full = ended.get(..ended.len().checked_sub(1)?)?;
    let mut sorted = full.to_vec();
    sorted.sort_unstable();
    let (least, most) = (sorted.first()?, sorted.last()?);
    let middle = sorted.get(sorted.len() / 2)?;
    Some(format!("{least} to {most} tasks, median {middle}"))
}

fn breakdown(leader: &CommitBreakdown) -> String {
    let columns = [
        Column::Text("ON THE LEADER"),
        Column::Number("COUNT"),
        Column::Number("MEAN"),
        Column::Number("P50"),
        Column::Number("P99"),
    ];
    let rows = [
        ("command waits, ms", leader.queueing_ms),
        ("entry commits, ms", leader.commit_ms),
        ("  its own log, ms", leader.log_append_ms),
        ("  fdatasync, ms", leader.log_sync_ms),
        ("  applying, ms", leader.apply_ms),
        ("commands an entry", leader.entry_commands),
        ("bytes an entry", leader.entry_bytes),
    ];
    let rows = rows.into_iter().filter_map(|(name, of)| {
        let of: HistogramDelta = of?;
        let mut row = vec![Cell::new(name), Cell::new(of.count)];
        row.extend([of.mean, of.p50, of.p99].map(|number| Cell::new(format!("{number:.2}"))));
        Some(row)
    });
    output::table(&columns, rows)
}

fn usage(masters: &[ResourceUsage]) -> String {
    let columns = [
        Column::Text("MASTER"),
        Column::Text(""),
        Column::Number("CPU, S"),
        Column::Number("OF A PROCESSOR"),
        Column::Number("MEMORY, MIB"),
        Column::Number("GROWN, MIB"),
    ];
    let rows = masters.iter().map(|of| {
        vec![
            Cell::new(&of.master),
            Cell::new(if of.leads { "leader" } else { "" }),
            Cell::new(format!("{:.2}", of.cpu_seconds)),
            Cell::new(format!("{:.1}%", of.cpu_share * 100.0)),
            Cell::new(of.resident_bytes >> 20),
            Cell::new(of.resident_bytes_grown / (1 << 20)),
        ]
    });
    output::table(&columns, rows)
}

fn idle(bench: &BenchRun<'_>, before: &MetricsSnapshot) -> Option<Idle> {
    let watched = bench.idle_window.get()?;
    let workers = bench.settings.workers;
    let connecting = before.usage(&watched.from);
    let leader = connecting.iter().find(|of| of.leads);
    Some(Idle {
        workers,
        connect_seconds: watched.connect.as_secs_f64(),
        watched_seconds: watched.time.as_secs_f64(),
        masters: watched.from.usage(&watched.to),
        leader_bytes_per_worker: leader.map(|of| of.resident_bytes_grown / i64::from(workers)),
    })
}

impl Idle {
    fn render(&self) -> String {
        let per_worker = self
            .leader_bytes_per_worker
            .map(|bytes| format!(", {bytes} bytes of the leader's memory for each"))
            .unwrap_or_default();
        format!(
            "{} workers waited after {:.1} s{per_worker}; while they were watched for {:.1} s:\n{}",
            self.workers,
            self.connect_seconds,
            self.watched_seconds,
            usage(&self.masters)
        )
    }
}

/// Returns whether the cluster keeps all finished jobs of a run until they are read. The bound is nine tenths of what
/// the table keeps, because others may use it too. The table may have forgotten some jobs of a longer run by then.
fn all_jobs_are_kept(jobs: u64, tasks: u64, payload_bytes: u64) -> bool {
    let limits = Limits::default();
    let within = |count: u64, most: u64| count <= most / 10 * 9;
    within(jobs, limits.finished_jobs_max)
        && within(tasks, limits.finished_tasks_max)
        && within(
            tasks.saturating_mul(payload_bytes),
            limits.finished_bytes_max,
        )
}

fn check(bench: &BenchRun<'_>, totals: &RunTotals, cleanup: CleanupReport) -> Check {
    let mut errors = Vec::new();
    let submitted = totals.submitted;
    let wanted = match bench.settings.mode {
        Mode::Submit => 0,
        Mode::Lifecycle | Mode::Exec | Mode::RoundTrip | Mode::Idle | Mode::Mixed => submitted,
    };
    if totals.accepted != wanted {
        errors.push(format!(
            "{} results of {wanted} tasks were accepted",
            totals.accepted
        ));
    }
    if totals.duplicates > 0 {
        errors.push(format!("{} results were accepted twice", totals.duplicates));
    }
    for (why, count) in &totals.refused {
        errors.push(format!("{count} results: {why}"));
    }
    let unfinished = bench.expected_unfinished(submitted);
    if cleanup.unfinished != unfinished {
        errors.push(format!(
            "{} tasks were unfinished at the end instead of {unfinished}",
            cleanup.unfinished
        ));
    }
    let kept = all_jobs_are_kept(
        totals.jobs,
        submitted,
        u64::from(bench.settings.payload_bytes),
    );
    if cleanup.jobs_forgotten != totals.jobs && kept {
        errors.push(format!(
            "the cluster knew {} jobs of {}",
            cleanup.jobs_forgotten, totals.jobs
        ));
    }
    Check {
        results: totals.accepted,
        duplicates: totals.duplicates,
        refused: totals.refused.clone(),
        unfinished: cleanup.unfinished,
        jobs_forgotten: cleanup.jobs_forgotten,
        errors,
    }
}

#[cfg(test)]
mod tests {
    use super::all_jobs_are_kept;

    #[test]
    fn a_run_beyond_the_retention_of_the_table_is_not_checked_for_kept_jobs() {
        assert!(all_jobs_are_kept(9_000, 900_000, 256));
        assert!(!all_jobs_are_kept(9_001, 900_100, 256), "too many tasks");
        assert!(!all_jobs_are_kept(90_001, 90_001, 256), "too many jobs");
        assert!(!all_jobs_are_kept(100, 10_000, 1 << 20), "too many bytes");
    }
}
