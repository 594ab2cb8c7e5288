//! The verdict of the checker, and its findings.

use std::collections::BTreeMap;

use serde::Serialize;

/// Maximum number of findings of each rule that are reported in full.
pub const MAX_FINDINGS_PER_RULE: usize = 20;

/// Result of a check, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Every guarantee was kept and tested.
    Kept,
    /// No violation, but the run did not test what it should have tested. It proves nothing.
    NotExercised,
    /// Undecided: the search reached its bound, or the history contains too little.
    Undecided,
    /// A guarantee was violated.
    Broken,
}

/// One finding of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the rule.
    pub rule: &'static str,
    /// Severity of the finding.
    pub judgement: Judgement,
    /// Description of the finding.
    pub what: String,
    /// Records that prove it, by their position in [`crate::History::records`].
    pub records: Vec<usize>,
}

/// Counts of the history's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Number of records.
    pub records: u64,
    /// Number of requests to the cluster.
    pub operations: u64,
    /// Number of requests with an unknown outcome.
    pub unknown: u64,
    /// Number of acknowledged jobs.
    pub jobs_acknowledged: u64,
    /// Number of their tasks.
    pub tasks_acknowledged: u64,
    /// Number of accepted reports of results, without repetitions.
    pub results_accepted: u64,
    /// Number of answered linearizable reads.
    pub reads_linearizable: u64,
    /// Number of answered stale reads.
    pub reads_stale: u64,
    /// Number of side effects.
    pub effects: u64,
    /// Number of faults that took effect, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Number of faults without evidence.
    pub faults_without_effect: u64,
}

/// Verdict on a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The worst of all findings.
    pub judgement: Judgement,
    /// Counts of the history's contents.
    pub counts: Counts,
    /// Number of findings of each rule.
    pub found: BTreeMap<&'static str, u64>,
    /// The first [`MAX_FINDINGS_PER_RULE`] findings of each rule and judgement.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Returns whether every guarantee was kept and tested.
    pub fn is_kept(&self) -> bool {
        self.judgement == Judgement::Kept
    }

    /// Returns the number of violations that a rule found.
    pub fn broken_by(&self, rule: &str) -> usize {
        let broken =
            |finding: &&Finding| finding.rule == rule && finding.judgement == Judgement::Broken;
        self.findings.iter().filter(broken).count()
    }
}

/// Collector of the findings of all rules.
#[derive(Debug, Default)]
pub struct Findings {
    rule: &'static str,
    kept: Vec<Finding>,
    by: BTreeMap<(&'static str, Judgement), u64>,
}

impl Findings {
    /// Begins the findings of this rule.
    pub(crate) fn begin_rule(&mut self, rule: &'static str) {
        self.rule = rule;
    }

    /// Adds a violation, which these records prove.
    pub fn broken(&mut self, records: &[usize], what: impl Into<String>) {
        self.add(Judgement::Broken, records, what.into());
    }

    /// Adds an undecided finding.
    pub fn undecided(&mut self, records: &[usize], what: impl Into<String>) {
        self.add(Judgement::Undecided, records, what.into());
    }

    /// Adds a finding that something was not tested.
    pub fn not_exercised(&mut self, what: impl Into<String>) {
        self.add(Judgement::NotExercised, &[], what.into());
    }

    fn add(&mut self, judgement: Judgement, records: &[usize], what: String) {
        let count = self.by.entry((self.rule, judgement)).or_default();
        *count += 1;
        if *count <= MAX_FINDINGS_PER_RULE as u64 {
            self.kept.push(Finding {
                rule: self.rule,
                judgement,
                what,
                records: records.to_vec(),
            });
        }
    }

    pub(crate) fn into_verdict(self, counts: Counts) -> Verdict {
        let worst = self.by.keys().map(|(_, judgement)| *judgement).max();
        let mut found: BTreeMap<&'static str, u64> = BTreeMap::new();
        for ((rule, _), count) in &self.by {
            *found.entry(rule).or_default() += count;
        }
        Verdict {
            judgement: worst.unwrap_or(Judgement::Kept),
            counts,
            found,
            findings: self.kept,
        }
    }
}
