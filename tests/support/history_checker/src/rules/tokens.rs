//! Rule: fencing tokens are unique and grow with every attempt of a task, also at an external sink.
//!
//! Source: fencing as in the papers on distributed locks. A store that refuses tokens lower than the highest that it
//! has seen is safe only if the tokens of effective work never go back.

use std::collections::{BTreeMap, HashMap};

use crate::Bounds;
use crate::index::HistoryIndex;
use crate::record::{Op, Outcome};
use crate::verdict::Findings;

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, _: Bounds, findings: &mut Findings) {
    let mut owners: HashMap<u64, (&str, usize)> = HashMap::new();
    let mut attempts: HashMap<&str, BTreeMap<u64, (u64, usize)>> = HashMap::new();
    let mut at_sinks: HashMap<(&str, &str), (u64, usize)> = HashMap::new();
    for (at, record) in indexed.history.records.iter().enumerate() {
        let mut meet = |task, token, attempt: u64| {
            let (owner, first) = *owners.entry(token).or_insert((task, at));
            if owner != task {
                findings.broken(
                    &[first, at],
                    format!("token {token} is of task {owner} and of task {task}"),
                );
            }
            let (before, first) = *attempts
                .entry(task)
                .or_default()
                .entry(attempt)
                .or_insert((token, at));
            if before != token {
                findings.broken(
                    &[first, at],
                    format!("task {task}: attempt {attempt} has the tokens {before} and {token}"),
                );
            }
        };
        match &record.op {
            Op::Poll { leases, .. } => {
                for lease in leases {
                    meet(&lease.task, lease.token, lease.attempt);
                }
            }
            Op::ReadTask {
                task,
                seen: Some(seen),
                ..
            } if record.outcome == Outcome::Ok => {
                for attempt in &seen.attempts {
                    meet(task, attempt.token, attempt.attempt);
                }
            }
            Op::Effect { sink, task, token } => {
                let latest = at_sinks.insert((sink, task), (*token, at));
                if let Some((before, first)) = latest
                    && before > *token
                {
                    findings.broken(
                        &[first, at],
                        format!("task {task}: token {token} came to {sink} after {before}"),
                    );
                }
            }
            _ => {}
        }
    }
    for (task, attempts) in attempts {
        let ordered: Vec<_> = attempts.into_iter().collect();
        for pair in ordered.windows(2) {
            let [(one, (token, first)), (other, (next, at))] = pair else {
                continue;
            };
            if token >= next {
                findings.broken(
                    &[*first, *at],
                    format!(
                        "task {task}: attempt {one} has token {token}, attempt {other} has token {next}"
                    ),
                );
            }
        }
    }
}
