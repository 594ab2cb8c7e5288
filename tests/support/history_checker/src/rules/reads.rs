//! Rule: the reads of one client never go back in a task, and a read at an index shows all writes up to that index.
//!
//! The first part applies to linearizable reads. The second part applies to all reads, stale ones included:
//! `triarch-min-index` exists for that (read your writes, at any node).
//! Source: session guarantees (Terry and others): monotonic reads, read your writes.

use std::collections::HashMap;

use crate::Bounds;
use crate::index::{HistoryIndex, TaskIndex};
use crate::record::{Consistency, Op, Outcome, SeenTask, Status, TaskState};
use crate::verdict::Findings;

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    let cancelled_jobs = cancelled_jobs(indexed);
    for (id, task) in &indexed.tasks {
        // After a requested retry of this task, or of one that it depends on, the state may go back.
        let goes_back = task.was_retried(indexed);
        if !goes_back {
            monotone(indexed, id, task, findings);
        }
        let written = written(indexed, id, task, &cancelled_jobs);
        shows(indexed, id, task, &written, goes_back, findings);
        asked_for(indexed, id, task, findings);
    }
}

fn monotone(indexed: &HistoryIndex<'_>, id: &str, task: &TaskIndex<'_>, findings: &mut Findings) {
    let mut reads: Vec<usize> = task
        .records
        .iter()
        .copied()
        .filter(|at| {
            let record = indexed.record(*at);
            record.outcome == Outcome::Ok
                && matches!(
                    &record.op,
                    Op::ReadTask {
                        consistency: Consistency::Linearizable,
                        seen: Some(_),
                        ..
                    }
                )
        })
        .collect();
    reads.sort_by_key(|at| indexed.record(*at).invoke_ns);
    let mut latest: HashMap<&str, usize> = HashMap::new();
    for at in reads {
        let record = indexed.record(at);
        let Some(before) = latest.insert(&record.client, at) else {
            continue;
        };
        if indexed.record(before).return_ns >= record.invoke_ns {
            continue;
        }
        if let (Some(old), Some(new)) = (seen(indexed, before), seen(indexed, at))
            && goes_back(old, new)
        {
            findings.broken(
                &[before, at],
                format!(
                    "{} saw task {id} {:?} at attempt {}, and later {:?} at attempt {}",
                    record.client, old.state, old.attempt, new.state, new.attempt
                ),
            );
        }
    }
}

/// Returns whether `new` is certainly an earlier state than `old`, if no retry was requested.
fn goes_back(old: &SeenTask, new: &SeenTask) -> bool {
    if old.state.is_terminal() {
        return old.state != new.state || old.attempt != new.attempt || old.result != new.result;
    }
    // Within an attempt: the attempt runs, then the task waits for the next one, or has ended.
    let rank = |seen: &SeenTask| match seen.state {
        TaskState::Running => 0,
        TaskState::Waiting => 1,
        TaskState::Delayed => 2,
        TaskState::Queued => 3,
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Expired => 4,
    };
    (new.attempt, rank(new)) < (old.attempt, rank(old))
}

/// Effect of an acknowledged write on a task, and its index.
struct Written {
    /// The task was created.
    made: Option<(u64, usize)>,
    /// The task ended.
    ended: Option<(u64, usize)>,
}

fn written(
    indexed: &HistoryIndex<'_>,
    id: &str,
    task: &TaskIndex<'_>,
    cancelled_jobs: &HashMap<&str, (u64, usize)>,
) -> Written {
    let index = |at: usize| indexed.record(at).index.map(|index| (index, at));
    let lower = |slot: &mut Option<(u64, usize)>, new: Option<(u64, usize)>| {
        if let Some(new) = new
            && slot.is_none_or(|old| new < old)
        {
            *slot = Some(new);
        }
    };
    let mut written = Written {
        made: index(task.acknowledged),
        ended: cancelled_jobs.get(task.job).copied(),
    };
    for at in &task.records {
        let record = indexed.record(*at);
        if record.outcome != Outcome::Ok {
            continue;
        }
        match &record.op {
            Op::CancelTask { .. } => lower(&mut written.ended, index(*at)),
            Op::Report { results, .. } => {
                let ended = results.iter().any(|one| {
                    one.task == id && one.accepted == Some(true) && one.status == Status::Succeeded
                });
                if ended {
                    lower(&mut written.ended, index(*at));
                }
            }
            _ => {}
        }
    }
    written
}

fn shows(
    indexed: &HistoryIndex<'_>,
    id: &str,
    task: &TaskIndex<'_>,
    written: &Written,
    retried: bool,
    findings: &mut Findings,
) {
    for at in &task.records {
        let record = indexed.record(*at);
        let (Op::ReadTask { seen, .. }, Outcome::Ok, Some(index)) =
            (&record.op, record.outcome, record.index)
        else {
            continue;
        };
        if let Some((made, from)) = written.made
            && seen.is_none()
            && index >= made
        {
            findings.broken(
                &[from, *at],
                format!("task {id} was made at index {made} and is not there at index {index}"),
            );
        }
        if let (Some((ended, from)), Some(seen)) = (written.ended, seen)
            && !retried
            && !seen.state.is_terminal()
            && index >= ended
        {
            findings.broken(
                &[from, *at],
                format!("task {id} ended at index {ended} and has not at index {index}"),
            );
        }
    }
}

/// A read with a minimum index reflects that index.
fn asked_for(indexed: &HistoryIndex<'_>, id: &str, task: &TaskIndex<'_>, findings: &mut Findings) {
    for at in &task.records {
        let record = indexed.record(*at);
        if let Op::ReadTask {
            min_index: Some(asked),
            ..
        } = &record.op
            && record.outcome == Outcome::Ok
            && record.index.is_some_and(|index| index < *asked)
        {
            findings.broken(
                &[*at],
                format!(
                    "task {id} was asked for at index {asked} and shown at {:?}",
                    record.index
                ),
            );
        }
    }
}

fn seen<'a>(indexed: &HistoryIndex<'a>, at: usize) -> Option<&'a SeenTask> {
    match &indexed.record(at).op {
        Op::ReadTask { seen, .. } => seen.as_ref(),
        _ => None,
    }
}

/// Returns the jobs whose cancellation was acknowledged, with the index, if nothing in them is retried.
fn cancelled_jobs<'a>(indexed: &HistoryIndex<'a>) -> HashMap<&'a str, (u64, usize)> {
    let mut cancelled = HashMap::new();
    for (at, record) in indexed.history.records.iter().enumerate() {
        if let Op::CancelJob { job } = &record.op
            && record.outcome == Outcome::Ok
            && let Some(index) = record.index
        {
            cancelled.entry(job.as_str()).or_insert((index, at));
        }
    }
    cancelled
}
