//! Rule: a linearizable read is not older than anything that was acknowledged before the request.
//!
//! The rule compares log indexes over all clients, nodes and tasks. An answer reflects a log index. A read that was
//! requested after another answer had arrived must not reflect a lower index. The same holds for a new submission.
//! Source: the real-time order of linearizability (Herlihy and Wing); Raft's read index.

use crate::Bounds;
use crate::index::HistoryIndex;
use crate::record::{Consistency, Op, Outcome, Record};
use crate::verdict::Findings;

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    let records = &indexed.history.records;
    let mut returned: Vec<(u64, u64, usize)> = Vec::new();
    let mut invoked: Vec<(u64, u64, usize)> = Vec::new();
    for (at, record) in records.iter().enumerate() {
        let (Outcome::Ok, Some(index)) = (record.outcome, record.index) else {
            continue;
        };
        if sets_a_floor(record) {
            returned.push((record.return_ns, index, at));
        }
        if is_bound(record) {
            invoked.push((record.invoke_ns, index, at));
        }
    }
    returned.sort_unstable();
    invoked.sort_unstable();
    let mut floor: Option<(u64, usize)> = None;
    let mut answers = returned.into_iter().peekable();
    for (invoke_ns, index, at) in invoked {
        while let Some((_, known, from)) =
            answers.next_if(|(return_ns, _, _)| *return_ns < invoke_ns)
        {
            if floor.is_none_or(|(highest, _)| known > highest) {
                floor = Some((known, from));
            }
        }
        if let Some((highest, from)) = floor
            && index < highest
        {
            findings.broken(
                &[from, at],
                format!(
                    "a {} stands for index {index}, though index {highest} was acknowledged before it was asked",
                    records[at].op.name()
                ),
            );
        }
    }
}

/// Returns whether the index of the answer was committed when the answer arrived.
fn sets_a_floor(record: &Record) -> bool {
    match &record.op {
        Op::Submit { .. }
        | Op::CancelTask { .. }
        | Op::CancelJob { .. }
        | Op::RetryTask { .. }
        | Op::Report { .. }
        // A stale answer reflects committed state too.
        | Op::ReadTask { .. }
        | Op::ReadJob { .. } => true,
        Op::Poll { .. }
        | Op::Due { .. }
        | Op::Tick { .. }
        | Op::Effect { .. }
        | Op::Fault { .. }
        | Op::Expect { .. }
        | Op::Settled {} => false,
    }
}

/// Returns whether the answer must not be older.
fn is_bound(record: &Record) -> bool {
    match &record.op {
        Op::Submit { duplicate, .. } => !duplicate,
        Op::ReadTask { consistency, .. } | Op::ReadJob { consistency, .. } => {
            *consistency == Consistency::Linearizable
        }
        Op::CancelTask { .. }
        | Op::CancelJob { .. }
        | Op::RetryTask { .. }
        | Op::Poll { .. }
        | Op::Report { .. }
        | Op::Due { .. }
        | Op::Tick { .. }
        | Op::Effect { .. }
        | Op::Fault { .. }
        | Op::Expect { .. }
        | Op::Settled {} => false,
    }
}
