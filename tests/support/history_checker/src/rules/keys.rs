//! Rule: one idempotency key makes one job, and no two unfinished tasks share a unique key.

use std::collections::{BTreeMap, BTreeSet};

use crate::Bounds;
use crate::index::{HistoryIndex, TaskIndex};
use crate::record::{Op, Outcome};
use crate::verdict::Findings;

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    for (key, submissions) in &indexed.keys {
        let mut made: BTreeMap<(&str, Vec<Option<&str>>), usize> = BTreeMap::new();
        let mut first: Option<usize> = None;
        for at in submissions {
            let record = indexed.record(*at);
            let Op::Submit {
                job: Some(job),
                tasks,
                ..
            } = &record.op
            else {
                continue;
            };
            if record.outcome == Outcome::Ok {
                let ids = tasks.iter().map(|task| task.id.as_deref()).collect();
                made.entry((job, ids)).or_insert(*at);
                first.get_or_insert(*at);
            }
        }
        if made.len() > 1 {
            let jobs: Vec<&str> = made.keys().map(|(job, _)| *job).collect();
            let places: Vec<usize> = made.values().copied().collect();
            findings.broken(
                &places,
                format!(
                    "key {key} was answered with different jobs or tasks: {}",
                    jobs.join(", ")
                ),
            );
        }
    }
    unique(indexed, findings);
}

/// Finds two tasks with the same unique key, the later of which was acknowledged while the earlier certainly existed
/// and was certainly unfinished.
fn unique(indexed: &HistoryIndex<'_>, findings: &mut Findings) {
    let mut sharing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (id, task) in &indexed.tasks {
        if let Some(key) = &task.spec.unique_key {
            sharing.entry(key).or_default().insert(id);
        }
    }
    for (key, ids) in sharing.iter().filter(|(_, ids)| ids.len() > 1) {
        let mut tasks: Vec<(&str, &TaskIndex<'_>)> =
            ids.iter().map(|id| (*id, &indexed.tasks[id])).collect();
        tasks.sort_by_key(|(_, task)| indexed.record(task.acknowledged).return_ns);
        for pair in tasks.windows(2) {
            let [(one, first), (other, second)] = pair else {
                continue;
            };
            let made = indexed.record(second.acknowledged);
            let still = |at: &&usize| {
                let record = indexed.record(**at);
                record.invoke_ns > made.return_ns
                    && record.outcome == Outcome::Ok
                    && matches!(&record.op, Op::ReadTask { seen: Some(seen), .. } if !seen.state.is_terminal())
            };
            let retried = first
                .records
                .iter()
                .any(|at| matches!(indexed.record(*at).op, Op::RetryTask { .. }));
            if let Some(at) = first.records.iter().find(still)
                && !retried
            {
                findings.broken(
                    &[first.acknowledged, second.acknowledged, *at],
                    format!(
                        "tasks {one} and {other} were unfinished at once with the unique key {key}"
                    ),
                );
            }
        }
    }
}
