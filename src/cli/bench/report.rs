//! What a run came to: for people, for programs, and whether it is worth anything.

use std::collections::BTreeMap;

use comfy_table::Cell;
use serde::Serialize;
use triarch_table::Limits;

use super::super::output::{self, Column};
use super::Bench;
use super::latency::Summary;
use super::ledger::Balance;
use super::settings::{Mode, Settings};
use crate::cli::bench::cleanup::Cleaned;
use crate::cli::bench::server_metrics::{Breakdown, Readings, Spread, Usage};

/// See the module.
#[derive(Debug, Serialize)]
pub struct Report {
    settings: Settings,
    tasks: u64,
    jobs: u64,
    /// From when the first submission was due until the last task ended; in `submit`, until the last was acknowledged.
    seconds: f64,
    /// Over the whole of that time.
    tasks_per_s: f64,
    /// Until the last submission was acknowledged.
    submitted_per_s: f64,
    /// How many tasks ended in each second, where their workers can tell.
    ended_by_second: Vec<u64>,
    latency_ms: BTreeMap<&'static str, Summary>,
    /// Absent when leadership changed meanwhile.
    leader: Option<Breakdown>,
    masters: Vec<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<Idle>,
    check: Check,
}

/// What waiting workers cost.
#[derive(Debug, Serialize)]
struct Idle {
    workers: u32,
    /// Until all of them waited.
    connect_seconds: f64,
    watched_seconds: f64,
    /// While they were watched.
    masters: Vec<Usage>,
    /// By how much the leader's memory grew since before they came, for each of them.
    leader_bytes_per_worker: Option<i64>,
}

/// The run's check of its own work.
#[derive(Debug, Serialize)]
struct Check {
    results: u64,
    twice: u64,
    refused: BTreeMap<String, u64>,
    unfinished: u64,
    jobs_forgotten: u64,
    /// What is wrong with it.
    wrong: Vec<String>,
}

impl Report {
    pub(super) fn of(
        bench: &Bench<'_>,
        before: &Readings,
        after: &Readings,
        cleaned: Cleaned,
    ) -> Self {
        let balance = bench.ledger.balance();
        let settings = bench.settings.clone();
        let time = match settings.mode {
            Mode::Submit => balance.submit_time,
            Mode::Idle => bench
                .watched
                .get()
                .map_or(balance.submit_time, |watched| watched.time),
            Mode::Whole | Mode::Exec | Mode::RoundTrip | Mode::Mixed => balance.life_time,
        };
        let rate = |tasks: u64, seconds: f64| match seconds > 0.0 {
            true => tasks as f64 / seconds,
            false => 0.0,
        };
        let ledger = &bench.ledger;
        let latencies = [
            ("submit", &ledger.submit),
            ("start", &ledger.start),
            ("life", &ledger.life),
            ("round trip", &ledger.round_trip),
            ("read", &ledger.read),
            ("list", &ledger.list),
        ];
        Self {
            tasks: balance.submitted,
            jobs: balance.jobs,
            seconds: time.as_secs_f64(),
            tasks_per_s: rate(balance.submitted, time.as_secs_f64()),
            submitted_per_s: rate(balance.submitted, balance.submit_time.as_secs_f64()),
            ended_by_second: balance.per_second.clone(),
            latency_ms: latencies
                .into_iter()
                .filter_map(|(name, of)| Some((name, of.summary()?)))
                .collect(),
            leader: before.breakdown(after),
            masters: before.usage(after),
            idle: idle(bench, before),
            check: check(bench, &balance, cleaned),
            settings,
        }
    }

    /// Whether the run did what it was to do.
    pub fn judge(&self) -> Result<(), String> {
        match self.check.wrong.is_empty() {
            true => Ok(()),
            false => Err(self.check.wrong.join("; ")),
        }
    }

    pub fn for_people(&self) -> String {
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
            ("by second", by_second(&self.ended_by_second)),
            (
                "checked",
                Some(format!(
                    "{} results, {} twice, {} unfinished, {} jobs forgotten again",
                    self.check.results,
                    self.check.twice,
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
        parts.extend(self.idle.as_ref().map(Idle::for_people));
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

/// Least, middle and most of the seconds that were full.
fn by_second(ended: &[u64]) -> Option<String> {
    let full = ended.get(..ended.len().checked_sub(1)?)?;
    let mut sorted = full.to_vec();
    sorted.sort_unstable();
    let (least, most) = (sorted.first()?, sorted.last()?);
    let middle = sorted.get(sorted.len() / 2)?;
    Some(format!("{least} to {most} tasks, median {middle}"))
}

fn breakdown(leader: &Breakdown) -> String {
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
        let of: Spread = of?;
        let mut row = vec![Cell::new(name), Cell::new(of.count)];
        row.extend([of.mean, of.p50, of.p99].map(|number| Cell::new(format!("{number:.2}"))));
        Some(row)
    });
    output::table(&columns, rows)
}

fn usage(masters: &[Usage]) -> String {
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

fn idle(bench: &Bench<'_>, before: &Readings) -> Option<Idle> {
    let watched = bench.watched.get()?;
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
    fn for_people(&self) -> String {
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

/// Whether the cluster keeps all of a run's finished jobs until they are looked at: nine tenths of what the table keeps, for
/// others may use it too. Of a longer run, it may have forgotten some by then.
fn all_are_kept(jobs: u64, tasks: u64, payload_bytes: u64) -> bool {
    let limits = Limits::default();
    let within = |count: u64, most: u64| count <= most / 10 * 9;
    within(jobs, limits.finished_jobs_max)
        && within(tasks, limits.finished_tasks_max)
        && within(
            tasks.saturating_mul(payload_bytes),
            limits.finished_bytes_max,
        )
}

fn check(bench: &Bench<'_>, balance: &Balance, cleaned: Cleaned) -> Check {
    let mut wrong = Vec::new();
    let submitted = balance.submitted;
    let wanted = match bench.settings.mode {
        Mode::Submit => 0,
        Mode::Whole | Mode::Exec | Mode::RoundTrip | Mode::Idle | Mode::Mixed => submitted,
    };
    if balance.accepted != wanted {
        wrong.push(format!(
            "{} results of {wanted} tasks were accepted",
            balance.accepted
        ));
    }
    if balance.twice > 0 {
        wrong.push(format!("{} results were accepted twice", balance.twice));
    }
    for (why, count) in &balance.refused {
        wrong.push(format!("{count} results: {why}"));
    }
    let unfinished = bench.unfinished_wanted(submitted);
    if cleaned.unfinished != unfinished {
        wrong.push(format!(
            "{} tasks were unfinished at the end instead of {unfinished}",
            cleaned.unfinished
        ));
    }
    let kept = all_are_kept(
        balance.jobs,
        submitted,
        u64::from(bench.settings.payload_bytes),
    );
    if cleaned.jobs_forgotten != balance.jobs && kept {
        wrong.push(format!(
            "the cluster knew {} jobs of {}",
            cleaned.jobs_forgotten, balance.jobs
        ));
    }
    Check {
        results: balance.accepted,
        twice: balance.twice,
        refused: balance.refused.clone(),
        unfinished: cleaned.unfinished,
        jobs_forgotten: cleaned.jobs_forgotten,
        wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::all_are_kept;

    #[test]
    fn long_runs_are_not_blamed_for_what_the_table_forgets() {
        assert!(all_are_kept(9_000, 900_000, 256));
        assert!(!all_are_kept(9_001, 900_100, 256), "too many tasks");
        assert!(!all_are_kept(90_001, 90_001, 256), "too many jobs");
        assert!(!all_are_kept(100, 10_000, 1 << 20), "too many bytes");
    }
}
