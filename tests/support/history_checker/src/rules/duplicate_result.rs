//! Rule: exactly one result of a task is accepted.
//!
//! After a requested retry a task may have another result. The rule therefore checks that there was such a retry
//! between two accepted results.

use std::collections::BTreeMap;

use crate::Bounds;
use crate::index::{HistoryIndex, TaskIndex};
use crate::record::{Op, Outcome, Status};
use crate::verdict::Findings;

/// Outcome that a read shows for an attempt with an accepted result.
const SUCCEEDED: &str = "succeeded";

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    for (id, task) in &indexed.tasks {
        let retries = retries(indexed, task);
        let mut accepted: BTreeMap<u64, usize> = BTreeMap::new();
        let mut results: BTreeMap<&str, usize> = BTreeMap::new();
        for at in &task.records {
            match &indexed.record(*at).op {
                Op::Report { results, .. } => {
                    let of_it = results.iter().filter(|one| one.task == **id);
                    let taken = of_it.filter(|one| {
                        one.accepted == Some(true) && one.status == Status::Succeeded
                    });
                    for one in taken {
                        accepted.entry(one.token).or_insert(*at);
                    }
                }
                Op::ReadTask {
                    seen: Some(seen), ..
                } => {
                    for attempt in &seen.attempts {
                        if attempt.outcome.as_deref() == Some(SUCCEEDED) {
                            accepted.entry(attempt.token).or_insert(*at);
                        }
                    }
                    if let Some(result) = &seen.result {
                        results.entry(result).or_insert(*at);
                    }
                }
                _ => {}
            }
        }
        if accepted.len() > 1 + retries {
            let tokens: Vec<String> = accepted.keys().map(u64::to_string).collect();
            let places: Vec<usize> = accepted.values().copied().collect();
            findings.broken(
                &places,
                format!(
                    "task {id}: results accepted under {} tokens ({}), {retries} retries by hand",
                    tokens.len(),
                    tokens.join(", ")
                ),
            );
        }
        if results.len() > 1 + retries {
            let places: Vec<usize> = results.values().copied().collect();
            let text: Vec<&str> = results.keys().copied().collect();
            findings.broken(
                &places,
                format!(
                    "task {id} showed {} results: {}",
                    text.len(),
                    text.join(", ")
                ),
            );
        }
    }
}

/// Returns the number of requested retries that may have happened, also of other tasks of the job, because they may
/// retry this task too.
fn retries(indexed: &HistoryIndex<'_>, task: &TaskIndex<'_>) -> usize {
    let of_job = task.siblings.iter().filter_map(|one| one.id.as_deref());
    let indexed_tasks = of_job.filter_map(|id| indexed.tasks.get(id));
    let records = indexed_tasks.flat_map(|one| &one.records);
    let retried = records.filter(|at| {
        let record = indexed.record(**at);
        matches!(record.op, Op::RetryTask { .. }) && record.outcome != Outcome::Fail
    });
    retried.count()
}
