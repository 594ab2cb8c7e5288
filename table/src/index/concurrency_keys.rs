//! Index of concurrency keys: per-key limits on how many tasks run at once.
//!
//! Only as many of a key's ready tasks as may still start are *eligible*, the first ones by rank. The others are in no
//! ready queue, so any number of them delays no other task. Tasks of one key thus start in the order of their ranks, in
//! all queues and classes.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::index::ready_queue::{Rank, ReadyTask};

/// One key's tasks. Derived from the task records.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ConcurrencyKeyIndex {
    /// The number of running tasks.
    pub running: u32,
    /// The limits of the ready and running tasks, each with its number of tasks. The smallest counts.
    limits: BTreeMap<u32, u32>,
    /// The ready tasks by rank.
    ready: BTreeMap<Rank, ReadyTask>,
    /// The number of eligible tasks, and the last eligible task.
    eligible: u32,
    last_eligible: Option<Rank>,
}

/// A task enters or leaves the ready queues.
#[derive(Debug)]
pub(crate) enum EligibilityChange {
    Eligible(ReadyTask),
    Ineligible(ReadyTask),
}

impl ConcurrencyKeyIndex {
    /// Returns how many tasks may run at once.
    pub fn limit(&self) -> u32 {
        self.limits.keys().next().copied().unwrap_or(u32::MAX)
    }

    /// Returns how many more tasks may start.
    pub fn remaining_capacity(&self) -> u32 {
        self.limit().saturating_sub(self.running)
    }

    /// Returns whether this ready task is eligible.
    pub fn is_eligible(&self, rank: Rank) -> bool {
        self.last_eligible.is_some_and(|last| rank <= last)
    }

    /// Returns how many tasks of the key are ready before this rank.
    pub fn ready_before(&self, rank: Rank) -> usize {
        self.ready.range(..rank).count()
    }

    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Adds a task that has become ready.
    pub fn add_ready(&mut self, ready: ReadyTask, limit: u32) -> Vec<EligibilityChange> {
        let mut changes = Vec::new();
        if self.is_eligible(ready.rank) {
            self.eligible += 1;
            changes.push(EligibilityChange::Eligible(ready.clone()));
        }
        self.ready.insert(ready.rank, ready);
        *self.limits.entry(limit).or_default() += 1;
        self.adjust(changes)
    }

    /// Removes a task that is not ready any more.
    pub fn remove_ready(&mut self, rank: Rank, limit: u32) -> Vec<EligibilityChange> {
        let ready = self.ready.remove(&rank).expect("a ready task is indexed");
        let mut changes = Vec::new();
        if self.is_eligible(rank) {
            self.eligible -= 1;
            if self.last_eligible == Some(rank) {
                self.last_eligible = self.before(rank);
            }
            changes.push(EligibilityChange::Ineligible(ready));
        }
        self.drop_limit(limit);
        self.adjust(changes)
    }

    /// Counts a task that has started.
    pub fn add_running(&mut self, limit: u32) -> Vec<EligibilityChange> {
        self.running += 1;
        *self.limits.entry(limit).or_default() += 1;
        self.adjust(Vec::new())
    }

    /// Counts out a task that no longer runs.
    pub fn remove_running(&mut self, limit: u32) -> Vec<EligibilityChange> {
        self.running -= 1;
        self.drop_limit(limit);
        self.adjust(Vec::new())
    }

    fn drop_limit(&mut self, limit: u32) {
        let count = self.limits.get_mut(&limit).expect("counted when it came");
        *count -= 1;
        if *count == 0 {
            self.limits.remove(&limit);
        }
    }

    fn before(&self, rank: Rank) -> Option<Rank> {
        self.ready.range(..rank).next_back().map(|(&rank, _)| rank)
    }

    /// Makes exactly as many tasks eligible as may start.
    fn adjust(&mut self, mut changes: Vec<EligibilityChange>) -> Vec<EligibilityChange> {
        while self.eligible > self.remaining_capacity()
            && let Some(last) = self.last_eligible
        {
            changes.push(EligibilityChange::Ineligible(self.ready[&last].clone()));
            self.eligible -= 1;
            self.last_eligible = self.before(last);
        }
        while self.eligible < self.remaining_capacity() {
            let after = self.last_eligible.map_or(Bound::Unbounded, Bound::Excluded);
            let Some((&next, ready)) = self.ready.range((after, Bound::Unbounded)).next() else {
                break;
            };
            changes.push(EligibilityChange::Eligible(ready.clone()));
            self.eligible += 1;
            self.last_eligible = Some(next);
        }
        changes
    }
}
