//! Soft state of a leader: the lease tracker and the long-poll registry of one term. Never persisted.
//!
//! Both stand behind one lock, because a grant concerns both: whether a lease has been delivered decides whether a poll
//! may still take it.

use std::collections::HashMap;
use std::time::Instant;

use triarch_table::WorkerId;
use triarch_table::command::reply::Lease;
use triarch_table::command::{EndLease, EndReason, WorkerDemand};
use triarch_table::plan::Demand;

use super::lease_tracker::{LeaseTracker, end_lease};
use super::poll_registry::PollRegistry;

/// Soft state of one term. See the module.
pub struct LeaderState {
    /// Last contacts of workers and leases.
    pub leases: LeaseTracker,
    /// Polls that wait for tasks.
    pub polls: PollRegistry,
}

impl LeaderState {
    /// Creates an empty state at the beginning of a term.
    pub fn new(term_start: Instant) -> Self {
        Self {
            leases: LeaseTracker::new(term_start),
            polls: PollRegistry::default(),
        }
    }

    /// Returns the demand of one worker: the planner's input in addition to the table.
    pub fn demand_of(&self, worker: WorkerId) -> Demand {
        Demand {
            wanted: self.polls.wanted(worker),
            overloaded: self.leases.is_overloaded(worker),
        }
    }

    /// Returns demand that an entry about to be written can serve, from at most `limit` workers.
    pub fn open_demand(&mut self, limit: usize) -> Vec<WorkerDemand> {
        let leases = &self.leases;
        self.polls
            .open_demand(limit, |worker| leases.is_overloaded(worker))
    }

    /// Records that a worker, whose results are on their way into the log, wants more tasks. Returns `false`, and
    /// records nothing, for an overloaded machine: it competes with all others by its poll.
    pub fn request_refill(&mut self, worker: WorkerId, wanted: u32) -> bool {
        let accepted = wanted > 0 && !self.leases.is_overloaded(worker);
        if accepted {
            self.polls.request_refill(worker, wanted);
        }
        accepted
    }

    /// Delivers granted leases to their workers' waiting polls, or holds them for the next ones.
    pub fn deliver(&mut self, leases: &[Lease], now: Instant) {
        let mut by_worker: HashMap<WorkerId, Vec<Lease>> = HashMap::new();
        for lease in leases {
            self.leases.confirm(lease.token, now, None);
            if !self.leases.is_delivered(lease) {
                by_worker.entry(lease.worker).or_default().push(*lease);
            }
        }
        for (worker, leases) in by_worker {
            if let Err(leases) = self.polls.answer(worker, leases) {
                self.hold_undelivered(worker, leases, now);
            }
        }
    }

    /// Keeps leases that reached no poll for the worker's next one, except those that have been delivered to another
    /// poll.
    pub fn hold_undelivered(&mut self, worker: WorkerId, mut leases: Vec<Lease>, now: Instant) {
        leases.retain(|lease| !self.leases.is_delivered(lease));
        self.polls.hold_undelivered(worker, leases, now);
    }

    /// Gives up leases that waited too long for a poll of their worker.
    pub fn expire_undelivered(&mut self, now: Instant) -> Vec<EndLease> {
        let mut expired = self.polls.expire_undelivered(now);
        expired.retain(|lease| self.leases.mark_returning(lease));
        let ended = expired.iter();
        ended
            .map(|lease| end_lease(lease, EndReason::Returned))
            .collect()
    }
}

#[cfg(test)]
mod tests;
