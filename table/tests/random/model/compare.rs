//! Comparison of the model with a table.

use triarch_table::command::Grant;
use triarch_table::query::explain::Reason;
use triarch_table::records::task::Life;
use triarch_table::records::worker::WorkerLife;
use triarch_table::types::state::{TaskState, WorkerState};
use triarch_table::{Table, TaskId};

use super::Model;

impl Model {
    /// Asserts that everything visible to a reader of the table agrees with the model.
    pub fn agrees_with(&self, table: &Table) {
        for task in self.tasks.values() {
            let real = table
                .task(task.id)
                .unwrap_or_else(|| panic!("{} is missing", task.id));
            let problem = || format!("\n table: {real:?}\n model: {task:?}");
            let counts = (
                real.state(),
                real.attempt,
                real.failures,
                real.losses,
                real.expires_at_ms,
            );
            assert_eq!(
                counts,
                (
                    task.state,
                    task.attempt,
                    task.failures,
                    task.losses,
                    task.expires_ms
                ),
                "{}",
                problem()
            );
            let held = real.lease().map(|lease| (lease.worker, lease.token));
            assert_eq!(held, task.holder, "{}", problem());
            let stands = match real.life {
                Life::Waiting {
                    on,
                    not_before_ms,
                    delay_ms,
                } => {
                    let missing = self.missing(task.id).len();
                    let jobs = usize::from(self.waits_with_its_job(task.id));
                    on as usize == missing + jobs && (not_before_ms, delay_ms) == task.ready
                }
                Life::Delayed { until_ms } => until_ms == task.until_ms,
                Life::Queued { position } | Life::Running { position, .. } => {
                    (position.order, position.since_ms) == (task.position, task.since_ms)
                }
                Life::Succeeded { .. }
                | Life::Failed { .. }
                | Life::Cancelled { .. }
                | Life::Expired { .. } => real.finished_ms().is_some(),
            };
            let after: Vec<_> = real.dependencies().collect();
            assert_eq!(after, task.after, "{}", problem());
            assert_eq!(real.cancel_cause(), task.cause, "{}", problem());
            assert!(stands, "{}", problem());
            assert_eq!(real.result(), task.result.as_ref(), "{}", problem());
            assert_eq!(real.error(), task.error.as_ref(), "{}", problem());
            let history = real.history.iter().map(|attempt| {
                (
                    attempt.token,
                    attempt.worker,
                    attempt.end.as_str(),
                    attempt.end.error().cloned(),
                )
            });
            assert_eq!(history.collect::<Vec<_>>(), task.history, "{}", problem());
        }
        for job in self.jobs.values() {
            let real = table
                .job(job.id)
                .unwrap_or_else(|| panic!("{} is missing", job.id));
            assert_eq!(
                (real.state(), real.finished_ms),
                (self.state_of(job), job.finished_ms),
                "{job:?}"
            );
        }
        let workers = table.workers().map(|worker| {
            let streak = worker.streak.len();
            (worker.id, worker.state(), streak, worker.life)
        });
        let expected = self.workers.values().map(|worker| {
            let (until_ms, at_ms, round) = (worker.until_ms, worker.gone_ms, worker.round);
            let life = match worker.state {
                WorkerState::Live => WorkerLife::Live,
                WorkerState::Paused => WorkerLife::Paused,
                WorkerState::Quarantined => WorkerLife::Quarantined { until_ms, round },
                WorkerState::Probation => WorkerLife::Probation { round },
                WorkerState::Draining => WorkerLife::Draining,
                WorkerState::Lost => WorkerLife::Lost { at_ms },
                WorkerState::Left => WorkerLife::Left { at_ms },
            };
            (worker.id, worker.state, worker.streak.len(), life)
        });
        assert_eq!(workers.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        self.schedules_agree_with(table);
        let queues = table
            .queues()
            .filter(|queue| table.queue(queue.name).is_some());
        let queues: Vec<_> = queues
            .map(|queue| (queue.name.to_owned(), queue.settings, queue.served))
            .collect();
        let expected = self.queues.iter();
        let expected: Vec<_> = expected
            .map(|(name, queue)| (name.clone(), queue.settings.clone(), queue.served))
            .collect();
        assert_eq!(queues, expected);
        assert_eq!(table.virtual_time(), self.virtual_time);
        assert_eq!(table.next_timer_ms(), self.next_timer_ms());
    }

    /// Asserts that the explanation why a task does not run agrees with whether the model could start it.
    pub fn explains_as(&self, table: &Table, id: TaskId) {
        let reasons = table.explain(id, self.now_ms);
        let reasons = reasons.unwrap_or_else(|| panic!("{id} is not explained"));
        let held_back = |reason: &Reason| match reason {
            Reason::Ready { .. } | Reason::ConcurrencyKey { .. } => false,
            Reason::Finished { .. }
            | Reason::Running { .. }
            | Reason::Dependencies { .. }
            | Reason::Jobs { .. }
            | Reason::Delayed { .. }
            | Reason::QueuePaused
            | Reason::QueueAtMaxRunning { .. }
            | Reason::RateLimited { .. }
            | Reason::NoWorker(_)
            | Reason::WorkersBusy { .. } => true,
        };
        let by_key = reasons
            .iter()
            .any(|reason| matches!(reason, Reason::ConcurrencyKey { .. }));
        let may_start = self
            .workers
            .keys()
            .any(|&worker| self.may_run(&Grant { task: id, worker }));
        let in_line = self.in_line().iter().any(|task| task.id == id);
        let queued = self.tasks[&id].state == TaskState::Queued;
        let held_back = reasons.iter().any(held_back);
        assert!(
            !reasons.is_empty()
                && (!may_start || !held_back)
                && (may_start || held_back || by_key)
                && by_key == (queued && !in_line),
            "{reasons:?} of {:?}, which may start: {may_start}, in line: {in_line}",
            self.tasks[&id]
        );
    }
}
