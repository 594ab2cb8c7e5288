//! Scheduling policies: pure functions of the table and of what workers ask for. They propose and change nothing; what
//! comes of a proposal is decided by apply, from the log.

mod spread;

use crate::command::Grant;
use crate::ids::WorkerId;
use crate::table::Table;

/// How much a worker asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Who asks.
    pub worker: WorkerId,
    /// For how many tasks at most; never given more than it has free slots.
    pub wanted: u32,
}

/// As [`propose_with`], from a list. Demands of the same worker add up.
pub fn propose(table: &Table, demands: &[Demand], grants_max: usize) -> Vec<Grant> {
    let mut sorted = demands.to_vec();
    sorted.sort_by_key(|demand| demand.worker);
    sorted.dedup_by(|next, kept| {
        let same = next.worker == kept.worker;
        if same {
            kept.wanted = kept.wanted.saturating_add(next.wanted);
        }
        same
    });
    let wanted = |worker: WorkerId| {
        let at = sorted.binary_search_by_key(&worker, |demand| demand.worker);
        at.map_or(0, |at| sorted[at].wanted)
    };
    propose_with(table, &wanted, grants_max)
}

/// Who should get which queued task: higher priority first, then the older place; each to the worker with the smallest
/// part of its slots in use (then with the fewest tasks, then with the lowest id), of those that take it, have room for
/// it and ask. `wanted` says for how many tasks a worker asks. At most `grants_max`, in the order decided.
///
/// Applied to this same table, every proposal holds. The cost does not depend on how many tasks are queued, and on
/// how many workers there are only by the logarithm as long as those with free slots ask: it grows with the number of
/// proposals, and with the number of different worker profiles times that of the classes ([`crate::task::Class`]) that
/// are looked at until the plan is full.
pub fn propose_with(
    table: &Table,
    wanted: &dyn Fn(WorkerId) -> u32,
    grants_max: usize,
) -> Vec<Grant> {
    spread::Spread::new(table, wanted)
        .take(grants_max)
        .collect()
}
