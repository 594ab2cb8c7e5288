//! Model of timers and retention.

use triarch_table::types::state::{TaskState, WorkerState};
use triarch_table::{JobId, Reply, TaskId};

use super::{Body, Model, ModelJob, RetiredKey, bytes_of};

impl Model {
    pub(super) fn advance(&mut self) -> Reply {
        let steps_max = u64::from(self.limits.advance_steps_max);
        let mut steps = 0;
        while steps < steps_max {
            let due = self.tasks.values().flat_map(|task| {
                let waits = [TaskState::Waiting, TaskState::Delayed, TaskState::Queued]
                    .contains(&task.state);
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
            if what == 0 {
                let states = |model: &Self| -> Vec<TaskState> {
                    model.tasks.values().map(|task| task.state).collect()
                };
                let before = states(self);
                self.put(task, TaskState::Expired);
                let changed = before.iter().zip(states(self));
                steps += changed.filter(|(before, now)| *before != now).count() as u64;
            } else {
                self.queue(task);
                steps += 1;
            }
        }
        self.end_quarantines();
        self.forget(steps_max.saturating_sub(steps));
        Reply::Done { tasks: steps }
    }

    pub(super) fn forget(&mut self, steps_max: u64) {
        let mut steps = 0;
        let old = |at_ms: u64, age_ms: u64, now_ms: u64| at_ms + age_ms <= now_ms;
        while steps < steps_max {
            let finished = self.jobs.values().filter(|job| job.finished_ms.is_some());
            let Some(job) = finished.min_by_key(|job| (job.finished_ms, job.id)) else {
                break;
            };
            let too_many = self.too_many_finished();
            if !too_many
                && !old(
                    job.finished_ms.unwrap_or(0),
                    self.limits.finished_age_ms,
                    self.now_ms,
                )
            {
                break;
            }
            steps += self.forget_job(job.id);
        }
        while steps < steps_max {
            let due = self
                .queues
                .keys()
                .filter_map(|name| self.retention_due_in(name));
            let Some((_, _, job)) = due.filter(|due| due.0 <= self.now_ms).min() else {
                break;
            };
            steps += self.forget_job(job);
        }
        let (now_ms, limits) = (self.now_ms, self.limits.clone());
        while let Some(&(gone_ms, id)) = self.gone().first().filter(|_| steps < steps_max) {
            if !old(gone_ms, limits.gone_workers_age_ms, now_ms) {
                break;
            }
            steps += 1;
            self.workers.remove(&id);
        }
        self.staged
            .retain(|_, staged| !old(staged.touched_ms, limits.staged_age_ms, now_ms));
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
                .retired_keys
                .first()
                .is_some_and(|k| old(k.at_ms, limits.keys_age_ms, now_ms))
        {
            steps += 1;
            self.retired_keys.remove(0);
        }
    }

    /// Returns since when a queue has had a finished job to forget by its own settings, and that job.
    fn retention_due_in<'a>(&self, name: &'a str) -> Option<(u64, &'a str, JobId)> {
        let of_queue = |job: &&ModelJob| job.queue == name;
        let finished = self.jobs.values().filter(of_queue);
        let mut finished: Vec<(u64, JobId)> = finished
            .filter_map(|job| Some((job.finished_ms?, job.id)))
            .collect();
        finished.sort();
        let settings = &self.queues[name].settings;
        let &(finished_ms, job) = finished.first()?;
        if settings
            .retain_jobs
            .is_some_and(|max| finished.len() as u64 > max)
        {
            return Some((0, name, job));
        }
        Some((finished_ms + settings.retain_ms?, name, job))
    }

    pub(super) fn forget_jobs(&mut self, jobs: &[JobId]) -> Reply {
        let mut tasks = 0;
        for job in jobs {
            let finished = |job: &ModelJob| job.finished_ms.is_some();
            if self.jobs.get(job).is_some_and(finished) {
                self.forget_job(*job);
                tasks += 1;
            }
        }
        Reply::Done { tasks }
    }

    /// Forgets a job; returns the number of its tasks.
    fn forget_job(&mut self, id: JobId) -> u64 {
        let job = self.jobs.remove(&id).expect("found");
        self.tasks.retain(|_, task| task.job != id);
        if let Some((key, body)) = job.key {
            self.keep_key(key, body, id, job.answer);
        }
        job.tasks.len() as u64
    }

    pub(super) fn keep_key(&mut self, key: String, body: Body, job: JobId, tasks: Vec<TaskId>) {
        self.retired_keys.push(RetiredKey {
            key,
            body,
            job,
            tasks,
            at_ms: self.now_ms,
        });
        if self.retired_keys.len() as u64 > self.limits.keys_max {
            self.retired_keys.remove(0);
        }
    }

    /// Returns when the next timer is due: for tasks exact to the millisecond, for retention rounded up to a second.
    pub fn next_timer_ms(&self) -> Option<u64> {
        let tasks = self.tasks.values().flat_map(|task| {
            let ready = (task.state == TaskState::Delayed).then_some(task.until_ms);
            let waits = [TaskState::Waiting, TaskState::Delayed, TaskState::Queued];
            let expiry = task.expires_ms.filter(|_| waits.contains(&task.state));
            [ready, expiry]
        });
        let away = self.workers.values();
        let away = away.filter(|worker| worker.state == WorkerState::Quarantined);
        let away = away.map(|worker| worker.until_ms);
        let limits = &self.limits;
        let finished = self.jobs.values().filter_map(|job| job.finished_ms);
        let jobs = finished.map(|at_ms| at_ms + limits.finished_age_ms);
        let of_queues = self
            .queues
            .keys()
            .filter_map(|name| self.retention_due_in(name));
        let workers = self.gone().into_iter();
        // The oldest is the one that came first, also after the time was set back.
        let answers = self.answered.first().into_iter();
        let keys = self.retired_keys.first().into_iter();
        let staged = self.staged.values().map(|staged| staged.touched_ms);
        let old = jobs
            .chain(staged.map(|at_ms| at_ms + limits.staged_age_ms))
            .chain(of_queues.map(|(at_ms, ..)| at_ms))
            .chain(workers.map(|(at_ms, _)| at_ms + limits.gone_workers_age_ms))
            .chain(answers.map(|answered| answered.at_ms + limits.requests_age_ms))
            .chain(keys.map(|key| key.at_ms + limits.keys_age_ms));
        let too_many = self.too_many_finished().then_some(self.now_ms);
        let old = too_many.or_else(|| old.min().map(|at_ms| at_ms.div_ceil(1_000) * 1_000));
        tasks.flatten().chain(away).chain(old).min()
    }

    fn too_many_finished(&self) -> bool {
        let finished = self.jobs.values().filter(|job| job.finished_ms.is_some());
        let tasks = finished.clone().flat_map(|job| &job.tasks);
        let bytes = tasks.clone().map(|id| bytes_of(&self.tasks[id]));
        finished.count() as u64 > self.limits.finished_jobs_max
            || tasks.count() as u64 > self.limits.finished_tasks_max
            || bytes.sum::<u64>() > self.limits.finished_bytes_max
    }
}
