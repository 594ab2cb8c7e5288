//! Invariant: a task whose cancellation was acknowledged does not run again, and no later lease of it begins.
//!
//! Source: Celery, whose revocations are in the memory of workers and are lost with it. Here a cancellation is in the
//! log.

use crate::history::History;
use crate::invariants::is_terminal;

pub const RULE: &str = "cancelled stays cancelled";

pub fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    for cancelled in &history.cancelled {
        let Some(last) = history.tasks.get(&cancelled.task) else {
            continue;
        };
        let state = last["state"].as_str().unwrap_or_default();
        if !is_terminal(state) {
            broken.push(format!(
                "{} was cancelled from {} to {} ms, and in the end it is {last}",
                cancelled.task,
                cancelled.invoked / 1_000_000,
                cancelled.returned / 1_000_000
            ));
        }
        // Leases that were granted earlier may be delivered later, but only within the time that an answer may take.
        let late = history.grants.iter().filter(|grant| {
            grant.task == cancelled.task && grant.at > cancelled.returned + 10_000_000_000
        });
        broken.extend(late.map(|grant| format!("{cancelled:?}, and after it {grant:?}")));
    }
    broken
}
