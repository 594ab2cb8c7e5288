//! Invariants of every run, one per file, each with its source.

mod acknowledged_is_found;
mod cancelled_stays;
mod dependencies_in_order;
mod equal_digests;
mod one_job_per_key;
mod one_job_per_tick;
mod one_leader_per_term;
mod one_result;
mod reads_are_current;
mod tokens_grow;

use crate::history::History;

/// An invariant and its name.
type Rule = (&'static str, fn(&History) -> Vec<String>);

const ALL: [Rule; 10] = [
    (acknowledged_is_found::RULE, acknowledged_is_found::broken),
    (one_result::RULE, one_result::broken),
    (tokens_grow::RULE, tokens_grow::broken),
    (one_job_per_key::RULE, one_job_per_key::broken),
    (reads_are_current::RULE, reads_are_current::broken),
    (cancelled_stays::RULE, cancelled_stays::broken),
    (dependencies_in_order::RULE, dependencies_in_order::broken),
    (one_job_per_tick::RULE, one_job_per_tick::broken),
    (one_leader_per_term::RULE, one_leader_per_term::broken),
    (equal_digests::RULE, equal_digests::broken),
];

/// A violation: the name of the invariant, and a description.
pub fn broken(history: &History) -> Vec<(&'static str, String)> {
    ALL.iter()
        .flat_map(|(rule, broken)| broken(history).into_iter().map(move |what| (*rule, what)))
        .collect()
}

/// Returns whether a task leaves the state only on request.
fn is_terminal(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "cancelled" | "expired")
}
