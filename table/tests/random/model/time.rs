//! What time brings about, and what is forgotten.

use triarch_table::Reply;
use triarch_table::model::TaskState;

use super::{Model, ModelJob, ModelTask, OldKey, bytes_of};

impl Model {
    pub(super) fn advance(&mut self) -> Reply {
        let steps_max = u64::from(self.limits.advance_steps_max);
        let mut steps = 0;
        while steps < steps_max {
            let due = self.tasks.values().flat_map(|task| {
                let waits = [TaskState::Delayed, TaskState::Queued].contains(&task.state);
                let expiry = task
                    .expires_ms
                    .filter(|_| waits)
                    .map(|at_ms| (at_ms, 0, task.id));
                let ready =
                    (task.state == TaskState::Delayed).then_some((task.until_ms, 1, task.id));
                expiry.into_iter().chain(ready)
            });
            let Some((_, what, task)) = due.filter(|due| due.0 <= self.now_ms).min() else {
                break;
            };
            let unfinished = |model: &Self| {
                model
                    .tasks
                    .values()
                    .filter(|task| !task.state.is_terminal())
                    .count() as u64
            };
            let before = unfinished(self);
            if what == 0 {
                self.put(task, TaskState::Expired);
                steps += before - unfinished(self);
            } else {
                self.queue(task);
                steps += 1;
            }
        }
        self.forget(steps_max.saturating_sub(steps));
        Reply::Done { tasks: steps }
    }

    pub(super) fn forget(&mut self, steps_max: u64) {
        let mut steps = 0;
        let old = |at_ms: u64, age_ms: u64, now_ms: u64| at_ms + age_ms <= now_ms;
        while steps < steps_max {
            let mut finished: Vec<&ModelJob> = self
                .jobs
                .values()
                .filter(|job| job.finished_ms.is_some())
                .collect();
            finished.sort_by_key(|job| (job.finished_ms, job.id));
            let tasks: Vec<&ModelTask> = finished
                .iter()
                .flat_map(|job| &job.tasks)
                .map(|id| &self.tasks[id])
                .collect();
            let too_many = finished.len() as u64 > self.limits.finished_jobs_max
                || tasks.len() as u64 > self.limits.finished_tasks_max
                || tasks.iter().map(|task| bytes_of(task)).sum::<u64>()
                    > self.limits.finished_bytes_max;
            let Some(job) = finished.first() else { break };
            if !too_many
                && !old(
                    job.finished_ms.unwrap_or(0),
                    self.limits.finished_age_ms,
                    self.now_ms,
                )
            {
                break;
            }
            let job = self.jobs.remove(&job.id.clone()).expect("found");
            job.tasks
                .iter()
                .for_each(|task| drop(self.tasks.remove(task)));
            steps += job.tasks.len() as u64;
            if let Some((key, digest)) = job.key {
                self.old_keys.push(OldKey {
                    key,
                    digest,
                    job: job.id,
                    tasks: job.tasks,
                    at_ms: self.now_ms,
                });
                if self.old_keys.len() as u64 > self.limits.keys_max {
                    self.old_keys.remove(0);
                }
            }
        }
        let (now_ms, limits) = (self.now_ms, self.limits.clone());
        while let Some(&(gone_ms, id)) = self.gone().first().filter(|_| steps < steps_max) {
            if !old(gone_ms, limits.gone_workers_age_ms, now_ms) {
                break;
            }
            steps += 1;
            self.workers.remove(&id);
        }
        while steps < steps_max
            && self
                .answered
                .first()
                .is_some_and(|a| old(a.at_ms, limits.requests_age_ms, now_ms))
        {
            steps += 1;
            self.answered.remove(0);
        }
        while steps < steps_max
            && self
                .old_keys
                .first()
                .is_some_and(|k| old(k.at_ms, limits.keys_age_ms, now_ms))
        {
            steps += 1;
            self.old_keys.remove(0);
        }
    }
}
