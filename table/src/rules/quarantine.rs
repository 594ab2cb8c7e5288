//! Outlier ejection: quarantine of workers that fail tasks which succeed elsewhere.
//!
//! A broken machine fails tasks quickly, so it always has free slots and would draw all work to itself. Each worker
//! therefore has a *streak*: the different tasks that failed on it since its last success. Each is stored with the
//! number of its queue's tasks that had succeeded by then. When the streak is long, and others have succeeded with
//! tasks of those queues in that time, the worker is *quarantined*. It gets nothing for a time, then one task at a time
//! *on probation*. A success ends the probation; a failure starts a quarantine twice as long.
//!
//! Bad tasks must not look like bad workers. So a task that fails on a second worker is removed from the first one's
//! streak, and does not count against the second.

use std::sync::Arc;

use crate::command::event::Event;
use crate::records::task::AttemptEnd;
use crate::records::worker::{FailedTask, FailureStreak, WorkerLife};
use crate::table::Table;
use crate::types::ids::{TaskId, WorkerId};
use crate::types::state::WorkerState;

/// Number of different tasks that must have failed on the worker since its last success.
const STREAK_TASKS: usize = 5;
/// Minimum number of tasks of the same queues that must have succeeded in that time, elsewhere.
const MIN_SUCCESSES_ELSEWHERE: u64 = 10;
/// Duration of the first quarantine, in ms. Each one after a failed probation is twice as long, up to the longest.
const QUARANTINE_MS: u64 = 30_000;
const QUARANTINE_MS_MAX: u64 = 16 * 60_000;

impl Table {
    /// Records that an attempt succeeded on this worker.
    pub(crate) fn record_success(
        &mut self,
        task: TaskId,
        worker: WorkerId,
        events: &mut Vec<Event>,
    ) {
        let task = self.tasks.get(task).expect("the caller found it");
        let queue = self.queues.get_mut(task.queue());
        let queue = queue.expect("a task's queue has a record");
        queue.succeeded += 1;
        self.index.set_queue(queue);
        let Some(worker) = self.workers.get(worker) else {
            return;
        };
        let (id, life) = (worker.id, worker.life);
        if !worker.streak.is_empty()
            && let Some(worker) = self.workers.get_mut(id)
        {
            worker.streak = FailureStreak::default();
        }
        if let WorkerLife::Probation { .. } = life {
            self.change_worker(id, WorkerLife::Live, events);
        }
    }

    /// Records that an attempt failed on this worker.
    pub(crate) fn record_failure(&mut self, task: TaskId, id: WorkerId, events: &mut Vec<Event>) {
        let task = self.tasks.get(task).expect("the caller found it");
        let elsewhere: Vec<WorkerId> = task
            .history
            .iter()
            .filter(|attempt| attempt.worker != id && is_failure(&attempt.end))
            .map(|attempt| attempt.worker)
            .collect();
        let (task, queue) = (task.id, task.spec.class.queue.clone());
        if !elsewhere.is_empty() {
            for other in elsewhere {
                self.clear_failure(task, other);
            }
            return;
        }
        let succeeded = self.queues.get(&queue).map_or(0, |queue| queue.succeeded);
        let Some(worker) = self.workers.get_mut(id) else {
            return;
        };
        let streak = &mut worker.streak.0;
        if streak.iter().all(|failure| failure.task != task) {
            if streak.len() == STREAK_TASKS {
                // The first one stays, because it marks since when there has been no success.
                streak.remove(1);
            }
            streak.push(FailedTask {
                task,
                queue,
                succeeded,
            });
        }
        let life = worker.life;
        let round = match life {
            WorkerLife::Live if self.is_outlier(id) => 0,
            WorkerLife::Probation { round } => round + 1,
            WorkerLife::Live
            | WorkerLife::Paused
            | WorkerLife::Quarantined { .. }
            | WorkerLife::Draining
            | WorkerLife::Lost { .. }
            | WorkerLife::Left { .. } => return,
        };
        let away_ms = QUARANTINE_MS
            .saturating_mul(1 << round.min(10))
            .min(QUARANTINE_MS_MAX);
        let until_ms = self.now_ms.saturating_add(away_ms);
        self.change_worker(id, WorkerLife::Quarantined { until_ms, round }, events);
    }

    /// Removes a task from a worker's streak, because it fails on other workers too.
    fn clear_failure(&mut self, task: TaskId, worker: WorkerId) {
        let blamed = self.workers.get(worker).is_some_and(|worker| {
            let mut failures = worker.streak.0.iter();
            failures.any(|failure| failure.task == task)
        });
        if blamed && let Some(worker) = self.workers.get_mut(worker) {
            worker.streak.0.retain(|failure| failure.task != task);
        }
    }

    fn is_outlier(&self, worker: WorkerId) -> bool {
        let Some(worker) = self.workers.get(worker) else {
            return false;
        };
        let streak = &worker.streak.0;
        let mut queues: Vec<(&Arc<str>, u64)> = Vec::new();
        for failure in streak {
            if queues.iter().all(|(queue, _)| **queue != failure.queue) {
                queues.push((&failure.queue, failure.succeeded));
            }
        }
        let since = |(queue, then): (&Arc<str>, u64)| {
            let queue = self.queues.get(queue);
            queue.map_or(0, |queue| queue.succeeded.saturating_sub(then))
        };
        streak.len() >= STREAK_TASKS
            && queues.into_iter().map(since).sum::<u64>() >= MIN_SUCCESSES_ELSEWHERE
    }

    /// Puts a quarantined worker on probation.
    pub(crate) fn put_on_probation(&mut self, id: WorkerId, events: &mut Vec<Event>) {
        if let Some(WorkerLife::Quarantined { round, .. }) =
            self.workers.get(id).map(|worker| worker.life)
        {
            self.change_worker(id, WorkerLife::Probation { round }, events);
        }
    }

    /// Changes the state of a present worker that stays present.
    pub(crate) fn change_worker(
        &mut self,
        id: WorkerId,
        life: WorkerLife,
        events: &mut Vec<Event>,
    ) {
        let worker = self.workers.get_mut(id).expect("the caller found it");
        self.index.drop_worker_state(worker);
        worker.life = life;
        if life == WorkerLife::Live {
            worker.streak = FailureStreak::default();
        }
        self.index.add_worker_state(worker);
        self.index.worker_groups.update_slots(worker);
        let to = worker.state();
        events.push(match to {
            WorkerState::Draining => Event::WorkerDraining { worker: id },
            WorkerState::Live
            | WorkerState::Paused
            | WorkerState::Quarantined
            | WorkerState::Probation
            | WorkerState::Lost
            | WorkerState::Left => Event::WorkerChanged { worker: id, to },
        });
    }
}

fn is_failure(end: &AttemptEnd) -> bool {
    match end {
        AttemptEnd::Failed { .. } | AttemptEnd::TimedOut | AttemptEnd::LeaseExpired => true,
        AttemptEnd::Succeeded | AttemptEnd::Lost | AttemptEnd::Returned | AttemptEnd::Cancelled => {
            false
        }
    }
}
