//! Leases of tasks to workers, by the leader's plan or by a plan made during apply.
//!
//! The leader's plan was made from a table that may have changed since. So each grant is verified again, and one that
//! no longer holds is left out. A plan made during apply is the same on every node. The reason is that scheduling is a
//! pure function of the table, its time, and the demands in the entry.

use super::id_allocator::IdAllocator;
use crate::command::event::Event;
use crate::command::reply::Reply;
use crate::command::{Grant, WorkerDemand};
use crate::plan;
use crate::records::task::Task;
use crate::table::Table;
use crate::types::state::TaskState;

/// Maximum number of leases that one command makes by a plan of its own.
const GRANTS_PER_PLAN_MAX: usize = 1_024;

impl Table {
    pub(super) fn grant_next(
        &mut self,
        ids: &mut IdAllocator,
        demands: &[WorkerDemand],
        events: &mut Vec<Event>,
    ) -> Reply {
        let plan = plan::propose(self, demands, self.now_ms, GRANTS_PER_PLAN_MAX);
        self.grant(ids, &plan.grants, events)
    }

    pub(super) fn grant(
        &mut self,
        ids: &mut IdAllocator,
        grants: &[Grant],
        events: &mut Vec<Event>,
    ) -> Reply {
        let mut leases = Vec::new();
        for &grant in grants {
            if !self.holds(grant) {
                continue;
            }
            let Some(token) = ids.next_token() else {
                break;
            };
            leases.push(self.begin_attempt(grant.task, grant.worker, token, events));
        }
        Reply::Granted { leases }
    }

    /// Returns whether its queue and its concurrency key let a task start.
    fn may_start(&self, task: &Task) -> bool {
        let queue = self.index.queue(task.queue());
        let queue_allows = queue.is_some_and(|queue| {
            !queue.record.settings.paused
                && queue.remaining_capacity() > 0
                && queue.record.starts_allowed(self.now_ms) > 0
        });
        let key_allows = task.concurrency().is_none_or(|concurrency| {
            let key = self.index.concurrency_keys.get(&concurrency.key);
            key.is_none_or(|key| key.remaining_capacity() > 0)
        });
        queue_allows && key_allows
    }

    /// Returns whether this worker may take this task now.
    fn holds(&self, grant: Grant) -> bool {
        let Some(task) = self.tasks.get(grant.task) else {
            return false;
        };
        let Some(worker) = self.workers.get(grant.worker) else {
            return false;
        };
        let Some(usage) = self.index.worker_groups.usage().get(&grant.worker) else {
            return false;
        };
        let class = &task.spec.class;
        (self.may_start(task) || mutated!(GrantNotVerified))
            && task.state() == TaskState::Queued
            && usage.has_free_slot()
            && worker.profile.takes(class)
            && worker
                .profile
                .has_capacity(&usage.used, &class.requires.resources)
    }
}
