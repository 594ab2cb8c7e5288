//! A summary of the verdict that fits on one screen.

use crate::history::History;
use crate::verdict::{Judgement, Verdict};

/// Maximum number of findings of each rule in the summary.
const MAX_FINDINGS_SHOWN: usize = 3;

/// Returns the verdict as text. The last line is the overall result.
pub fn summarize(verdict: &Verdict, history: &History) -> String {
    let counts = &verdict.counts;
    let mut lines = vec![
        format!(
            "operations {}, of them unknown {}; jobs acknowledged {}, tasks {}, results accepted {}",
            counts.operations,
            counts.unknown,
            counts.jobs_acknowledged,
            counts.tasks_acknowledged,
            counts.results_accepted
        ),
        format!(
            "reads linearizable {}, stale {}; side effects {}",
            counts.reads_linearizable, counts.reads_stale, counts.effects
        ),
    ];
    if !counts.faults.is_empty() || counts.faults_without_effect > 0 {
        let kinds = counts.faults.iter();
        let kinds: Vec<String> = kinds
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        lines.push(format!(
            "faults that took effect: {}; not shown to: {}",
            if kinds.is_empty() {
                "none".to_owned()
            } else {
                kinds.join(", ")
            },
            counts.faults_without_effect
        ));
    }
    for (rule, found) in &verdict.found {
        let of_rule = verdict.findings.iter().filter(|one| one.rule == *rule);
        for finding in of_rule.take(MAX_FINDINGS_SHOWN) {
            let places: Vec<String> = finding
                .records
                .iter()
                .take(4)
                .map(|record| history.place(*record))
                .collect();
            let places = if places.is_empty() {
                String::new()
            } else {
                format!(" ({})", places.join(", "))
            };
            let what = &finding.what;
            lines.push(format!(
                "{} {rule}: {what}{places}",
                word(finding.judgement)
            ));
        }
        if *found > MAX_FINDINGS_SHOWN as u64 {
            lines.push(format!(
                "… {rule}: {} more",
                found - MAX_FINDINGS_SHOWN as u64
            ));
        }
    }
    lines.push(format!(
        "verdict: {}",
        match verdict.judgement {
            Judgement::Kept => "kept: every promise was kept",
            Judgement::NotExercised => "not exercised: the expected events did not occur",
            Judgement::Undecided => "undecided: the history or the bounds do not suffice",
            Judgement::Broken => "broken: a promise was broken",
        }
    ));
    lines.join("\n")
}

fn word(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Kept => "kept",
        Judgement::NotExercised => "NOT EXERCISED",
        Judgement::Undecided => "UNDECIDED",
        Judgement::Broken => "BROKEN",
    }
}
