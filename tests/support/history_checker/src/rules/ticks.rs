//! Rule: each tick of a schedule makes one job.

use std::collections::{BTreeMap, BTreeSet};

use crate::Bounds;
use crate::index::HistoryIndex;
use crate::record::Op;
use crate::verdict::Findings;

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    let mut due: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut made: BTreeMap<(&str, &str), BTreeMap<&str, usize>> = BTreeMap::new();
    let mut schedules: BTreeSet<&str> = BTreeSet::new();
    for (at, record) in indexed.history.records.iter().enumerate() {
        match &record.op {
            Op::Due { schedule, at: tick } => {
                due.insert((schedule, tick), at);
                schedules.insert(schedule);
            }
            Op::Tick {
                schedule,
                at: tick,
                job,
            } => {
                let jobs = made.entry((schedule, tick)).or_default();
                jobs.insert(job, at);
            }
            _ => {}
        }
    }
    for ((schedule, tick), at) in &due {
        if !made.contains_key(&(*schedule, *tick)) {
            findings.broken(
                &[*at],
                format!("schedule {schedule}: no job for the tick at {tick}"),
            );
        }
    }
    for ((schedule, tick), jobs) in &made {
        let places: Vec<usize> = jobs.values().copied().collect();
        if jobs.len() > 1 {
            let named: Vec<&str> = jobs.keys().copied().collect();
            findings.broken(
                &places,
                format!(
                    "schedule {schedule}: the tick at {tick} made {}",
                    named.join(" and ")
                ),
            );
        }
        // Only if the history lists the ticks that were due.
        if schedules.contains(schedule) && !due.contains_key(&(*schedule, *tick)) {
            findings.broken(
                &places,
                format!("schedule {schedule}: a job for {tick}, which is none of its ticks"),
            );
        }
    }
}
