//! Leases tasks by the leader's plan, or by a plan that is made here.
//!
//! The leader's was made from a table that may have changed since, so each grant is verified again, and one that no longer
//! holds is left out. One that is made here is the same on every node: scheduling is a pure function of the table, its
//! time, and what the entry says of the workers.

use super::Entry;
use crate::command::event::Event;
use crate::command::reply::Reply;
use crate::command::{Ask, Grant};
use crate::plan;
use crate::records::task::Task;
use crate::table::Table;
use crate::types::state::TaskState;

/// Leases that one command makes by a plan of its own.
const NEXT_MAX: usize = 1_024;

impl Table {
    pub(super) fn grant_next(
        &mut self,
        entry: &mut Entry,
        asks: &[Ask],
        events: &mut Vec<Event>,
    ) -> Reply {
        let plan = plan::propose(self, asks, self.now_ms, NEXT_MAX);
        self.grant(entry, &plan.grants, events)
    }

    pub(super) fn grant(
        &mut self,
        entry: &mut Entry,
        grants: &[Grant],
        events: &mut Vec<Event>,
    ) -> Reply {
        let mut leases = Vec::new();
        for &grant in grants {
            if !self.holds(grant) {
                continue;
            }
            let Some(token) = entry.next_token() else {
                break;
            };
            leases.push(self.begin_attempt(grant.task, grant.worker, token, events));
        }
        Reply::Granted { leases }
    }

    /// Whether its queue and its concurrency key let a task start.
    fn may_start(&self, task: &Task) -> bool {
        let queue = self.index.queue(task.queue());
        let queue_lets = queue.is_some_and(|queue| {
            !queue.record.settings.paused
                && queue.room() > 0
                && queue.record.starts_allowed(self.now_ms) > 0
        });
        let key_lets = task.concurrency().is_none_or(|concurrency| {
            let key = self.index.keys.get(&concurrency.key);
            key.is_none_or(|key| key.room() > 0)
        });
        queue_lets && key_lets
    }

    /// Whether this worker may take this task now.
    fn holds(&self, grant: Grant) -> bool {
        let Some(task) = self.tasks.get(grant.task) else {
            return false;
        };
        let Some(worker) = self.workers.get(grant.worker) else {
            return false;
        };
        let Some(holding) = self.index.crews.holdings().get(&grant.worker) else {
            return false;
        };
        let class = &task.spec.class;
        (self.may_start(task) || mutated!(GrantNotVerified))
            && task.state() == TaskState::Queued
            && holding.has_seat()
            && worker.profile.takes(class)
            && worker
                .profile
                .has_room(&holding.used, &class.requires.resources)
    }
}
