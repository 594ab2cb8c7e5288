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

/// Who should get which queued task: higher priority first, then the older place; each to the worker with the smallest
/// part of its slots in use, of those that take it and have room for it. At most `grants_max`, in the order decided.
///
/// Applied to this same table, every proposal holds. The cost does not depend on how many tasks are queued: it grows
/// with the number of demands, with the number of classes ([`crate::task::Class`]) in the queues that those workers
/// take from, and with the number of proposals times the logarithm of both.
pub fn propose(table: &Table, demands: &[Demand], grants_max: usize) -> Vec<Grant> {
    if table.index.idle() || grants_max == 0 {
        return Vec::new();
    }
    spread::Spread::new(table, demands)
        .take(grants_max)
        .collect()
}
