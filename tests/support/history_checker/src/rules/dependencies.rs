//! Rule: a task runs after all tasks that it depends on have succeeded, and receives their results.

use std::collections::HashMap;

use crate::Bounds;
use crate::index::{HistoryIndex, TaskIndex};
use crate::record::{Op, Outcome, Status, TaskState};
use crate::verdict::Findings;

/// Facts about one task that this rule needs.
#[derive(Default)]
struct Known<'a> {
    /// Time of the earliest answer that proves that the task ran: a lease, a read, or an accepted report.
    ran: Option<(u64, usize)>,
    /// Earliest possible time of its success: when the first report that may have been accepted was sent.
    succeeded: Option<(u64, usize)>,
    /// Time of the latest request whose linearizable read showed the task unfinished.
    unfinished: Option<(u64, usize)>,
    /// Possible results of the task.
    results: Vec<&'a str>,
    /// Positions of its first side effect, by sink.
    effects: HashMap<&'a str, usize>,
}

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    for (id, task) in indexed
        .tasks
        .iter()
        .filter(|(_, task)| !task.spec.after.is_empty())
    {
        // A requested retry withdraws results. Operations before and after it are not distinguished here.
        if task.was_retried(indexed) {
            continue;
        }
        let after = known(indexed, id, task);
        for key in &task.spec.after {
            let named = |one: &&crate::record::Submitted| one.key.as_deref() == Some(key);
            let before = task.siblings.iter().find(named);
            let Some(before_id) = before.and_then(|one| one.id.as_deref()) else {
                continue;
            };
            let Some(before_task) = indexed.tasks.get(before_id) else {
                continue;
            };
            let before = known(indexed, before_id, before_task);
            judge_pair(id, &after, before_id, before_task, &before, findings);
            inputs(
                indexed,
                id,
                task,
                key,
                &before,
                before_task.spec.observed,
                findings,
            );
        }
    }
}

fn judge_pair(
    id: &str,
    after: &Known<'_>,
    before_id: &str,
    before_task: &TaskIndex<'_>,
    before: &Known<'_>,
    findings: &mut Findings,
) {
    if let Some((ran_ns, ran)) = after.ran {
        if let Some((unfinished_ns, at)) = before.unfinished
            && unfinished_ns > ran_ns
        {
            findings.broken(
                &[ran, at],
                format!("task {id} ran, and after that task {before_id}, which it comes after, was unfinished"),
            );
        }
        match before.succeeded {
            Some((succeeded_ns, at)) if before_task.spec.observed && succeeded_ns > ran_ns => {
                findings.broken(
                    &[ran, at],
                    format!(
                        "task {id} ran before task {before_id}, which it comes after, was reported"
                    ),
                );
            }
            None if before_task.spec.observed => findings.broken(
                &[ran],
                format!(
                    "task {id} ran, and nobody reported task {before_id}, which it comes after"
                ),
            ),
            Some(_) | None => {}
        }
    }
    for (sink, at) in &after.effects {
        if let Some(first) = before.effects.get(sink)
            && first > at
        {
            findings.broken(
                &[*at, *first],
                format!("task {id} wrote to {sink} before task {before_id}, which it comes after"),
            );
        }
    }
}

/// Checks that the inputs of leases are accepted results.
fn inputs(
    indexed: &HistoryIndex<'_>,
    id: &str,
    task: &TaskIndex<'_>,
    key: &str,
    before: &Known<'_>,
    observed: bool,
    findings: &mut Findings,
) {
    for at in &task.records {
        let Op::Poll { leases, .. } = &indexed.record(*at).op else {
            continue;
        };
        for lease in leases.iter().filter(|lease| lease.task == id) {
            match lease.inputs.get(key) {
                None => findings.broken(
                    &[*at],
                    format!("task {id} was leased without the result of {key}"),
                ),
                Some(input) => {
                    if (observed || !before.results.is_empty())
                        && !before.results.contains(&input.as_str())
                    {
                        findings.broken(
                            &[*at],
                            format!(
                                "task {id} was given {input} for {key}, which is not its result"
                            ),
                        );
                    }
                }
            }
        }
    }
}

fn known<'a>(indexed: &HistoryIndex<'a>, id: &str, task: &TaskIndex<'a>) -> Known<'a> {
    let mut known = Known::default();
    let earlier = |slot: &mut Option<(u64, usize)>, ns: u64, at: usize| {
        if slot.is_none_or(|(before, _)| ns < before) {
            *slot = Some((ns, at));
        }
    };
    for at in &task.records {
        let record = indexed.record(*at);
        match &record.op {
            Op::Poll { leases, .. } if leases.iter().any(|one| one.task == id) => {
                earlier(&mut known.ran, record.return_ns, *at);
            }
            Op::Report { results, .. } => {
                for one in results.iter().filter(|one| one.task == id) {
                    if one.status == Status::Succeeded && one.accepted != Some(false) {
                        earlier(&mut known.succeeded, record.invoke_ns, *at);
                        known.results.push(one.result.as_deref().unwrap_or("null"));
                    }
                }
            }
            Op::ReadTask {
                seen: Some(seen),
                consistency,
                ..
            } if record.outcome == Outcome::Ok => {
                if seen.attempt > 0 {
                    earlier(&mut known.ran, record.return_ns, *at);
                }
                let linearizable = *consistency == crate::record::Consistency::Linearizable;
                if linearizable && !seen.state.is_terminal() {
                    let later = known.unfinished.is_none_or(|(ns, _)| ns < record.invoke_ns);
                    if later {
                        known.unfinished = Some((record.invoke_ns, *at));
                    }
                }
                if seen.state == TaskState::Succeeded {
                    known.results.push(seen.result.as_deref().unwrap_or("null"));
                }
            }
            Op::Effect { sink, .. } => {
                known.effects.entry(sink).or_insert(*at);
            }
            _ => {}
        }
    }
    known
}
