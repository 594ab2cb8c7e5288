//! Entry points of the scheduler: one plan from the demand of the workers.

use std::collections::BTreeMap;

use super::worker_selection::Demand;
use crate::command::{Grant, WorkerDemand};
use crate::table::Table;
use crate::types::ids::WorkerId;

/// The grants to propose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order decided.
    pub grants: Vec<Grant>,
    /// When a rate next lets a task start that it holds back now, in Unix ms.
    pub next_start_ms: Option<u64>,
}

/// As [`propose_with`], from a list. What the same worker asks for adds up.
pub fn propose(table: &Table, demands: &[WorkerDemand], now_ms: u64, grants_max: usize) -> Plan {
    let mut demand_of: BTreeMap<WorkerId, Demand> = BTreeMap::new();
    for one in demands {
        let demand = demand_of.entry(one.worker).or_default();
        demand.wanted = demand.wanted.saturating_add(one.wanted);
        demand.overloaded |= one.overloaded;
    }
    let demand = |worker| demand_of.get(&worker).copied().unwrap_or_default();
    propose_with(table, &demand, now_ms, grants_max)
}

/// Who should get which queued task; see the module. At most `grants_max`.
///
/// Applied to this same table with a stamp of `now_ms` or later, every proposal holds. The cost does not depend on how
/// many tasks are queued, and on how many workers there are only by the logarithm as long as those with free slots ask: it
/// grows with the number of proposals, with the number of queues that have something to start (or that are named by the
/// workers, when these are fewer), and with the number of different worker profiles times that of the lines of tasks
/// that are looked at until the plan is full.
pub fn propose_with(
    table: &Table,
    demand: &dyn Fn(WorkerId) -> Demand,
    now_ms: u64,
    grants_max: usize,
) -> Plan {
    let now_ms = now_ms.max(table.now_ms());
    let mut fair_share = crate::plan::fair_share::FairShare::new(table, demand, now_ms);
    Plan {
        grants: fair_share.by_ref().take(grants_max).collect(),
        next_start_ms: crate::plan::fair_share::next_start_ms(table, now_ms),
    }
}
