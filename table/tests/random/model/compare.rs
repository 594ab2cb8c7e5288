//! Compares the model with a table.

use triarch_table::Table;
use triarch_table::task::Life;

use super::Model;

impl Model {
    /// Compares everything that a reader of the table can see.
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
                Life::Delayed { until_ms } => until_ms == task.until_ms,
                Life::Queued { place } | Life::Running { place, .. } => place.order == task.place,
                _ => real.state().is_terminal() && real.finished_ms().is_some(),
            };
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
        let workers: Vec<_> = table
            .workers()
            .map(|worker| (worker.id, worker.state()))
            .collect();
        assert_eq!(
            workers,
            self.workers
                .values()
                .map(|worker| (worker.id, worker.state))
                .collect::<Vec<_>>()
        );
    }
}
