//! What the checker says.

use std::collections::BTreeMap;

use serde::Serialize;

/// Of each rule, so many findings are told in full.
pub const MAX_FINDINGS_PER_RULE: usize = 20;

/// How a history was judged, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Every promise was kept, and put to the test.
    Kept,
    /// Nothing is wrong, but what was to be tried was not: the run has shown nothing.
    NotExercised,
    /// It cannot be told: the search hit its bound, or the history does not say enough.
    Undecided,
    /// A promise was broken.
    Broken,
}

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule.
    pub rule: &'static str,
    /// How bad it is.
    pub judgement: Judgement,
    /// What was found.
    pub what: String,
    /// The records that show it, by their place in [`crate::History::records`].
    pub records: Vec<usize>,
}

/// What was in the history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Records.
    pub records: u64,
    /// Requests to the cluster.
    pub operations: u64,
    /// Those whose outcome is unknown.
    pub unknown: u64,
    /// Jobs that were acknowledged.
    pub jobs_acknowledged: u64,
    /// Their tasks.
    pub tasks_acknowledged: u64,
    /// Reports of results that were accepted, repetitions left out.
    pub results_accepted: u64,
    /// Linearizable reads that were answered.
    pub reads_linearizable: u64,
    /// Stale reads that were answered.
    pub reads_stale: u64,
    /// Side effects.
    pub effects: u64,
    /// Faults that were shown to take effect, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Faults that were not.
    pub faults_without_effect: u64,
}

/// What the checker says of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The worst of all findings.
    pub judgement: Judgement,
    /// What was in the history.
    pub counts: Counts,
    /// How often each rule found something.
    pub found: BTreeMap<&'static str, u64>,
    /// The findings, of each rule and judgement the first [`MAX_FINDINGS_PER_RULE`].
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Whether every promise was kept, and put to the test.
    pub fn is_kept(&self) -> bool {
        self.judgement == Judgement::Kept
    }

    /// How often a rule found that its promise was broken.
    pub fn broken_by(&self, rule: &str) -> usize {
        let broken =
            |finding: &&Finding| finding.rule == rule && finding.judgement == Judgement::Broken;
        self.findings.iter().filter(broken).count()
    }
}

/// Where rules put what they find.
#[derive(Debug, Default)]
pub struct Findings {
    rule: &'static str,
    kept: Vec<Finding>,
    by: BTreeMap<(&'static str, Judgement), u64>,
}

impl Findings {
    /// From here on this rule speaks.
    pub(crate) fn begin_rule(&mut self, rule: &'static str) {
        self.rule = rule;
    }

    /// A promise was broken, as these records show.
    pub fn broken(&mut self, records: &[usize], what: impl Into<String>) {
        self.add(Judgement::Broken, records, what.into());
    }

    /// It cannot be told.
    pub fn undecided(&mut self, records: &[usize], what: impl Into<String>) {
        self.add(Judgement::Undecided, records, what.into());
    }

    /// It was not tried.
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
