//! Report of a drill: the injected faults and their results, on one screen and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use triarch_check::{Counts, Judgement};
use triarch_harness::CheckResult;

use crate::Outcome;
use crate::plan::Plan;
use crate::results::latency::Latencies;

/// One kind of fault at one kind of target.
#[derive(Debug, Clone, Default)]
struct Row {
    injected: u32,
    shown: u32,
    survived: u32,
    /// The longest time without an acknowledgement during each fault that was injected alone.
    stalled: Latencies,
    /// Evidence of the first fault.
    proof: Option<String>,
}

/// The report of one drill.
#[derive(Debug)]
pub struct Report {
    title: String,
    begun: Instant,
    rows: BTreeMap<Plan, Row>,
    /// Times from the kill of a leader to the first new acknowledgement.
    failover: Latencies,
    findings: Vec<(String, Value)>,
    check_results: Vec<CheckResult>,
    broken: bool,
}

impl Report {
    /// Creates the report of a scenario with this name.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            begun: Instant::now(),
            rows: BTreeMap::new(),
            failover: Latencies::default(),
            findings: Vec::new(),
            check_results: Vec::new(),
            broken: false,
        }
    }

    /// Adds a fault that was injected and healed, with its evidence.
    pub fn fault(&mut self, plan: Plan, proof: Option<String>) {
        let row = self.rows.entry(plan).or_default();
        row.injected += 1;
        row.shown += u32::from(proof.is_some());
        if row.proof.is_none() {
            row.proof = proof;
        }
    }

    /// Counts a recovery: the cluster works again after all faults so far.
    pub fn survived(&mut self) {
        for row in self.rows.values_mut() {
            row.survived = row.shown;
        }
    }

    /// Adds the longest time without an acknowledgement from this fault, injected alone, until the cluster had
    /// recovered.
    pub fn stalled(&mut self, plan: Plan, time: Duration) {
        self.rows.entry(plan).or_default().stalled.add(time);
    }

    /// Adds a time from the kill of a leader to the first new acknowledgement.
    pub fn failover(&mut self, time: Duration) {
        self.failover.add(time);
    }

    /// Adds a note: as text for the screen, and under a name in the JSON.
    pub fn finding(&mut self, words: impl Into<String>, name: &str, value: Value) {
        self.findings.push((words.into(), json!({name: value})));
    }

    /// Adds a note that reports a violated guarantee.
    pub fn broken(&mut self, words: impl Into<String>, name: &str, value: Value) {
        self.broken = true;
        self.finding(format!("BROKEN {}", words.into()), name, value);
    }

    /// Adds the verdict on one cluster.
    pub fn check_result(&mut self, check_result: CheckResult) {
        self.check_results.push(check_result);
    }

    /// Returns the number of faults injected so far.
    pub fn injected(&self) -> u32 {
        self.rows.values().map(|row| row.injected).sum()
    }

    /// Returns the number of different kinds that took effect so far.
    pub fn kinds_shown(&self) -> usize {
        let shown = self.rows.iter().filter(|(_, row)| row.shown > 0);
        let mut kinds: Vec<&str> = shown.map(|(plan, _)| plan.kind()).collect();
        kinds.dedup();
        kinds.len()
    }

    /// Returns the outcome of the drill.
    pub fn outcome(&self) -> Outcome {
        let kinds = |of: fn(&Row) -> u32| -> BTreeSet<&str> {
            let with = self.rows.iter().filter(|(_, row)| of(row) > 0);
            with.map(|(plan, _)| plan.kind()).collect()
        };
        let worst = self.check_results.iter().map(judgement).max();
        if self.broken || worst == Some(Judgement::Broken) {
            Outcome::Broken
        } else if worst == Some(Judgement::Undecided) {
            Outcome::Undecided
        } else if kinds(|row| row.shown) != kinds(|row| row.injected)
            || worst == Some(Judgement::NotExercised)
            || self.check_results.is_empty()
            || self
                .check_results
                .iter()
                .any(|check_result| check_result.jobs == 0)
        {
            Outcome::NotExercised
        } else {
            Outcome::Kept
        }
    }

    /// Prints the report, writes the JSON if a file is given, and returns the outcome.
    pub fn end(self, output: Option<&PathBuf>) -> anyhow::Result<Outcome> {
        println!("\n{}", self.screen());
        if let Some(path) = output {
            let text = serde_json::to_string_pretty(&self.json())?;
            std::fs::write(path, format!("{text}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("  written to {}", path.display());
        }
        Ok(self.outcome())
    }

    fn screen(&self) -> String {
        let mut lines = vec![format!(
            "{}, {} s",
            self.title,
            self.begun.elapsed().as_secs()
        )];
        if !self.rows.is_empty() {
            lines.push(format!(
                "  {:<14} {:<16} {:>8} {:>6} {:>8}   {}",
                "fault",
                "target",
                "injected",
                "shown",
                "survived",
                "no acknowledgement for (p50, max)"
            ));
        }
        let mut sum = Row::default();
        for (plan, row) in &self.rows {
            sum.injected += row.injected;
            sum.shown += row.shown;
            sum.survived += row.survived;
            let stalled = match (row.stalled.percentile(50), row.stalled.max()) {
                (Some(p50), Some(max)) => {
                    format!("{} ms, {} ms", p50.as_millis(), max.as_millis())
                }
                (_, _) => "-".to_owned(),
            };
            lines.push(line(plan.kind(), plan.target(), row, &stalled));
        }
        if self.rows.len() > 1 {
            lines.push(line("all", "", &sum, ""));
        }
        let (proofs, kinds) = (self.rows.iter(), self.kinds_shown());
        let shown = proofs.filter_map(|(plan, row)| Some((plan, row.proof.as_ref()?)));
        let mut last = "";
        for (plan, proof) in shown {
            // One fault of each kind is shown as an example.
            if last != plan.kind() {
                lines.push(format!("  shown, for one: {plan}: {proof}"));
            }
            last = plan.kind();
        }
        if self.failover.count() > 0 {
            let text = self.failover.summary();
            lines.push(format!(
                "  failover, from kill -9 to the first new acknowledgement: {text}"
            ));
        }
        lines.extend(self.findings.iter().map(|(words, _)| format!("  {words}")));
        lines.extend(self.sums().lines().map(|line| format!("  {line}")));
        // Every violation is shown in full.
        let bad = self
            .check_results
            .iter()
            .filter(|one| judgement(one) != Judgement::Kept);
        for check_result in bad {
            lines.extend(
                check_result
                    .summary()
                    .lines()
                    .map(|line| format!("  {line}")),
            );
        }
        lines.push(match self.outcome() {
            Outcome::Kept => format!("  KEPT: every promise, over {kinds} kinds of faults"),
            Outcome::Broken => "  BROKEN: promises were".to_owned(),
            Outcome::NotExercised => {
                "  NOT EXERCISED: a kind of fault never took effect, or nothing was asked of the cluster, so nothing is proved"
                    .to_owned()
            }
            Outcome::Undecided => "  UNDECIDED: the checker cannot tell from the history".to_owned(),
            Outcome::Skipped => "  SKIPPED".to_owned(),
        });
        lines.join("\n")
    }

    /// Numbers of submissions, acknowledgements and checks, over all clusters of the run.
    fn sums(&self) -> String {
        let sum = |of: fn(&CheckResult) -> usize| self.check_results.iter().map(of).sum::<usize>();
        let counted = |of: fn(&Counts) -> u64| self.counted(of);
        let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
        for (end, count) in self
            .check_results
            .iter()
            .flat_map(|check_result| &check_result.other_outcomes)
        {
            *ends.entry(end).or_default() += count;
        }
        let ends: Vec<String> = ends
            .iter()
            .map(|(end, count)| format!("{count} {end}"))
            .collect();
        let mut text = format!(
            "operations {}, unknown {}; reads linearizable {}, stale {}; side effects {}\n\
             jobs acknowledged {}, tasks {}; lost {}, accepted twice {}, unfinished {}, tokens that went back {}\n\
             history: {} rules broken, {} undecided",
            counted(|counts| counts.operations),
            counted(|counts| counts.unknown),
            counted(|counts| counts.reads_linearizable),
            counted(|counts| counts.reads_stale),
            counted(|counts| counts.effects),
            sum(|check_result| check_result.jobs),
            sum(|check_result| check_result.tasks),
            sum(|check_result| check_result.lost.len()),
            sum(|check_result| check_result.duplicate_results.len()),
            sum(|check_result| check_result.unfinished.len()),
            sum(|check_result| check_result.token_regressions.len()),
            self.findings_of(Judgement::Broken),
            self.findings_of(Judgement::Undecided),
        );
        if !ends.is_empty() {
            text.push_str(&format!(
                "; attempts that ended otherwise: {}",
                ends.join(", ")
            ));
        }
        text
    }

    fn counted(&self, of: fn(&Counts) -> u64) -> u64 {
        let judged = self
            .check_results
            .iter()
            .filter_map(|check_result| check_result.history.as_ref());
        judged.map(|(judged, _)| of(&judged.counts)).sum()
    }

    fn findings_of(&self, judgement: Judgement) -> usize {
        let judged = self
            .check_results
            .iter()
            .filter_map(|check_result| check_result.history.as_ref());
        let findings = judged.flat_map(|(judged, _)| &judged.findings);
        findings.filter(|one| one.judgement == judgement).count()
    }

    fn json(&self) -> Value {
        let faults: Vec<Value> = self
            .rows
            .iter()
            .map(|(plan, row)| {
                json!({
                    "kind": plan.kind(),
                    "target": plan.target(),
                    "injected": row.injected,
                    "shown": row.shown,
                    "survived": row.survived,
                    "no_acknowledgement_for": row.stalled.json(),
                    "proof": row.proof,
                })
            })
            .collect();
        let sum = |of: fn(&CheckResult) -> usize| self.check_results.iter().map(of).sum::<usize>();
        let mut all = json!({
            "scenario": self.title,
            "seconds": self.begun.elapsed().as_secs(),
            "faults": faults,
            "failover": self.failover.json(),
            "jobs_acknowledged": sum(|check_result| check_result.jobs),
            "tasks_acknowledged": sum(|check_result| check_result.tasks),
            "lost": sum(|check_result| check_result.lost.len()),
            "accepted_twice": sum(|check_result| check_result.duplicate_results.len()),
            "operations": self.counted(|counts| counts.operations),
            "unknown": self.counted(|counts| counts.unknown),
            "reads_linearizable": self.counted(|counts| counts.reads_linearizable),
            "history_findings": {
                "broken": self.findings_of(Judgement::Broken),
                "undecided": self.findings_of(Judgement::Undecided),
            },
            "clusters": self.check_results.len(),
            "unfinished": sum(|check_result| check_result.unfinished.len()),
            "unread": sum(|check_result| check_result.unread.len()),
            "tokens_that_went_back": sum(|check_result| check_result.token_regressions.len()),
            "verdict": match self.outcome() {
                Outcome::Kept => "kept",
                Outcome::Broken => "broken",
                Outcome::NotExercised => "not exercised",
                Outcome::Undecided => "undecided",
                Outcome::Skipped => "skipped",
            },
        });
        for (_, value) in &self.findings {
            if let (Some(all), Some(more)) = (all.as_object_mut(), value.as_object()) {
                all.extend(more.clone());
            }
        }
        all
    }
}

/// The worse verdict of both checkers.
fn judgement(check_result: &CheckResult) -> Judgement {
    let found = [
        &check_result.lost,
        &check_result.duplicate_results,
        &check_result.unfinished,
        &check_result.token_regressions,
    ];
    if found.iter().any(|cases| !cases.is_empty()) {
        return Judgement::Broken;
    }
    let judged = check_result.history.as_ref();
    let judged = judged.map_or(Judgement::Kept, |(judged, _)| judged.judgement);
    match judged {
        Judgement::Kept | Judgement::NotExercised if !check_result.unread.is_empty() => {
            Judgement::Undecided
        }
        judged => judged,
    }
}

fn line(kind: &str, target: &str, row: &Row, stalled: &str) -> String {
    let Row {
        injected,
        shown,
        survived,
        ..
    } = row;
    let text =
        format!("  {kind:<14} {target:<16} {injected:>8} {shown:>6} {survived:>8}   {stalled}");
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::KillTarget;

    fn check_result(lost: &[&str]) -> CheckResult {
        let mut check_result = CheckResult::default();
        check_result.jobs = 1;
        check_result.lost = lost.iter().map(|one| (*one).to_owned()).collect();
        check_result
    }

    fn report(proof: Option<&str>) -> Report {
        let mut report = Report::new("test");
        report.fault(Plan::Kill(KillTarget::Leader), proof.map(str::to_owned));
        report.survived();
        report.check_result(check_result(&[]));
        report
    }

    #[test]
    fn a_fault_that_was_not_shown_is_not_survived() {
        assert_eq!(report(Some("it died")).outcome(), Outcome::Kept);
        let unseen = report(None);
        assert_eq!(unseen.outcome(), Outcome::NotExercised);
        assert_eq!(unseen.json()["faults"][0]["survived"], 0);
    }

    #[test]
    fn a_broken_promise_outweighs_everything() {
        let mut broken = report(Some("it died"));
        broken.check_result(check_result(&["job 1"]));
        assert_eq!(broken.outcome(), Outcome::Broken);
        assert_eq!(broken.json()["lost"], 1);
        let mut found = report(None);
        found.broken("a call failed", "failed", json!(1));
        assert_eq!(found.outcome(), Outcome::Broken);
        assert_eq!(found.json()["failed"], 1);
    }

    #[test]
    fn a_run_without_work_or_without_a_verdict_proves_nothing() {
        let mut idle = Report::new("test");
        assert_eq!(idle.outcome(), Outcome::NotExercised);
        idle.check_result(CheckResult::default());
        assert_eq!(idle.outcome(), Outcome::NotExercised);
    }
}
