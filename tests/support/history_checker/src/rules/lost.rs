//! Rule: nothing that was acknowledged is lost.
//!
//! Sources: Jepsen's set and total-queue checkers. Every answered read counts.

use crate::Bounds;
use crate::index::HistoryIndex;
use crate::record::{Consistency, Op, Outcome, Record};
use crate::verdict::Findings;

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    let records = &indexed.history.records;
    let settled = records.iter().position(|one| one.op == Op::Settled {});
    jobs_not_found(indexed, findings);
    for (id, task) in &indexed.tasks {
        let acknowledged = indexed.record(task.acknowledged);
        let mut last: Option<(usize, bool)> = None;
        let mut lost = false;
        for at in &task.records {
            let record = indexed.record(*at);
            let Op::ReadTask {
                consistency: Consistency::Linearizable,
                seen,
                ..
            } = &record.op
            else {
                continue;
            };
            if record.outcome != Outcome::Ok || !after(record, acknowledged) {
                continue;
            }
            let Some(seen) = seen else {
                findings.broken(
                    &[task.acknowledged, *at],
                    format!("task {id} was acknowledged and is not there"),
                );
                lost = true;
                break;
            };
            let newer =
                last.is_none_or(|(before, _)| indexed.record(before).invoke_ns <= record.invoke_ns);
            if newer {
                last = Some((*at, seen.state.is_terminal()));
            }
        }
        if lost {
            continue;
        }
        match (last, settled) {
            (None, _) => findings.undecided(
                &[task.acknowledged],
                format!("task {id} was never looked at after it was acknowledged"),
            ),
            (Some((at, false)), Some(settled)) => findings.broken(
                &[task.acknowledged, at, settled],
                format!("task {id} has not ended"),
            ),
            (Some(_), _) => {}
        }
    }
}

fn jobs_not_found(indexed: &HistoryIndex<'_>, findings: &mut Findings) {
    for (at, record) in indexed.history.records.iter().enumerate() {
        let Op::ReadJob {
            job,
            consistency: Consistency::Linearizable,
            seen: None,
            ..
        } = &record.op
        else {
            continue;
        };
        if record.outcome != Outcome::Ok {
            continue;
        }
        let answers = indexed.jobs.get(job.as_str()).into_iter().flatten();
        let mut answers = answers.filter(|answer| after(record, indexed.record(**answer)));
        if let Some(acknowledged) = answers.next() {
            findings.broken(
                &[*acknowledged, at],
                format!("job {job} was acknowledged and is not there"),
            );
        }
    }
}

fn after(later: &Record, earlier: &Record) -> bool {
    later.invoke_ns > earlier.return_ns
}
