//! Rule: no phantoms. Every task was submitted, every lease was granted, and every result was reported.

use std::collections::{HashMap, HashSet};

use crate::Bounds;
use crate::index::HistoryIndex;
use crate::record::{Op, Outcome, Status, TaskState};
use crate::verdict::Findings;

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    // Payloads of submissions without an answer. The ids of their tasks are unknown.
    let unanswered: HashSet<&str> = indexed
        .unanswered
        .iter()
        .flat_map(|at| match &indexed.record(*at).op {
            Op::Submit { tasks, .. } => tasks.as_slice(),
            _ => &[],
        })
        .filter_map(|task| task.payload.as_deref())
        .collect();
    let mut granted: HashSet<(&str, u64)> = HashSet::new();
    for (at, record) in indexed.history.records.iter().enumerate() {
        match &record.op {
            Op::Poll { leases, .. } => {
                for lease in leases {
                    granted.insert((&lease.task, lease.token));
                    let payload = lease.payload.as_deref();
                    match indexed.tasks.get(lease.task.as_str()) {
                        None if payload.is_some_and(|one| unanswered.contains(one)) => {}
                        None => findings.broken(
                            &[at],
                            format!("task {} was leased, and nobody submitted it", lease.task),
                        ),
                        Some(task) => {
                            let submitted = task.spec.payload.as_deref();
                            if submitted.zip(payload).is_some_and(|(a, b)| a != b) {
                                findings.broken(
                                    &[task.acknowledged, at],
                                    format!("task {} was leased with another payload", lease.task),
                                );
                            }
                        }
                    }
                }
            }
            Op::Effect { task, .. }
                if !indexed.tasks.contains_key(task.as_str()) && indexed.unanswered.is_empty() =>
            {
                findings.broken(
                    &[at],
                    format!("task {task} left a side effect, and nobody submitted it"),
                );
            }
            _ => {}
        }
    }
    reports(indexed, &granted, findings);
    results(indexed, findings);
}

/// Checks that every accepted report is for a lease that a poll received.
fn reports(indexed: &HistoryIndex<'_>, granted: &HashSet<(&str, u64)>, findings: &mut Findings) {
    for (at, record) in indexed.history.records.iter().enumerate() {
        let Op::Report { results, .. } = &record.op else {
            continue;
        };
        for one in results.iter().filter(|one| one.accepted == Some(true)) {
            if !granted.contains(&(one.task.as_str(), one.token)) {
                findings.broken(
                    &[at],
                    format!(
                        "task {}: a report under token {} was accepted, and no poll was given it",
                        one.task, one.token
                    ),
                );
            }
        }
    }
}

/// Checks tasks whose workers all record: a result in a read was reported before the answer arrived.
fn results(indexed: &HistoryIndex<'_>, findings: &mut Findings) {
    for (id, task) in indexed.tasks.iter().filter(|(_, task)| task.spec.observed) {
        let mut reported: HashMap<&str, u64> = HashMap::new();
        for at in &task.records {
            let record = indexed.record(*at);
            let Op::Report { results, .. } = &record.op else {
                continue;
            };
            let of_it = results.iter().filter(|one| {
                one.task == **id && one.status == Status::Succeeded && one.accepted != Some(false)
            });
            for one in of_it {
                let first = reported
                    .entry(one.result.as_deref().unwrap_or("null"))
                    .or_insert(u64::MAX);
                *first = record.invoke_ns.min(*first);
            }
        }
        for at in &task.records {
            let record = indexed.record(*at);
            let Op::ReadTask {
                seen: Some(seen), ..
            } = &record.op
            else {
                continue;
            };
            if seen.state != TaskState::Succeeded || record.outcome != Outcome::Ok {
                continue;
            }
            let result = seen.result.as_deref().unwrap_or("null");
            match reported.get(result) {
                Some(since) if *since <= record.return_ns => {}
                Some(_) | None => findings.broken(
                    &[task.acknowledged, *at],
                    format!("task {id} shows the result {result}, and nobody had reported it"),
                ),
            }
        }
    }
}
