//! The rules: each guarantee is checked by one rule, in a file of its own.

pub mod coverage;
pub mod dependencies;
pub mod duplicate_result;
pub mod keys;
pub mod lost;
pub mod phantom;
pub mod reads;
pub mod recency;
pub mod register;
pub mod ticks;
pub mod tokens;

use crate::Bounds;
use crate::index::HistoryIndex;
use crate::verdict::Findings;

/// A guarantee, and the check of a history against it.
pub struct Rule {
    /// Name of the rule in findings.
    pub name: &'static str,
    /// The guarantee.
    pub promise: &'static str,
    /// Adds the violations to the findings.
    pub judge: fn(&HistoryIndex<'_>, Bounds, &mut Findings),
}

/// All rules.
pub const RULES: &[Rule] = &[
    Rule {
        name: "exercised",
        promise: "the run did what it was for: work was acknowledged, and the expected faults took effect",
        judge: coverage::judge,
    },
    Rule {
        name: "lost",
        promise: "nothing that was acknowledged is lost, and in the end all of it has ended",
        judge: lost::judge,
    },
    Rule {
        name: "twice",
        promise: "exactly one result of a task is accepted",
        judge: duplicate_result::judge,
    },
    Rule {
        name: "nowhere",
        promise: "no task that nobody submitted, no lease that was not granted, no result that nobody reported",
        judge: phantom::judge,
    },
    Rule {
        name: "keys",
        promise: "one idempotency key makes one job, and no two unfinished tasks share a unique key",
        judge: keys::judge,
    },
    Rule {
        name: "tokens",
        promise: "fencing tokens are unique and grow with every attempt of a task, also at whatever its code writes to",
        judge: tokens::judge,
    },
    Rule {
        name: "dependencies",
        promise: "a task runs after all that it comes after have succeeded, and is given their results",
        judge: dependencies::judge,
    },
    Rule {
        name: "ticks",
        promise: "each tick of a schedule makes one job",
        judge: ticks::judge,
    },
    Rule {
        name: "recency",
        promise: "a linearizable read is not older than anything acknowledged before it was asked",
        judge: recency::judge,
    },
    Rule {
        name: "reads",
        promise: "what one client reads of a task does not go back, and a read from an index on shows what was written up to it",
        judge: reads::judge,
    },
    Rule {
        name: "register",
        promise: "the operations on each task can be put into one order that explains every answer (linearizability)",
        judge: register::judge,
    },
];
