//! Entry points of the scheduler: they compute one plan from the demand of the workers.

use std::collections::BTreeMap;

use super::worker_selection::Demand;
use crate::command::{Grant, WorkerDemand};
use crate::table::Table;
use crate::types::ids::WorkerId;

/// A plan: the grants to propose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The grants, in the order decided.
    pub grants: Vec<Grant>,
    /// Time at which a rate next lets a task start that it holds back now, in Unix ms.
    pub next_start_ms: Option<u64>,
}

/// Computes a plan as [`propose_with`] does, from a list. Demands of the same worker add up.
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

/// Computes a plan of at most `grants_max` grants. See the module.
///
/// If it is applied to this same table with a stamp of `now_ms` or later, every proposal holds.
///
/// The cost does not depend on the number of queued tasks. It depends on the number of workers
/// only by the logarithm, as long as those with free slots have demand. It grows with:
///
/// - the number of proposals;
/// - the number of queues with a startable task, or of queues that the workers name, if these are fewer;
/// - the number of different worker profiles times that of the ready queues looked at until the plan is full.
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
