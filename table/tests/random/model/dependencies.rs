//! Model of dependencies: effects of a task's end on the others of its job.

use bytes::Bytes;
use triarch_table::command::{DependencyCondition, OnFailure};
use triarch_table::records::task::CancelCause;
use triarch_table::types::state::{JobState, TaskState};
use triarch_table::{JobId, TaskId};

use super::Model;

/// Effect of an end on other tasks and jobs.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    Ended(TaskId),
    JobFailed(TaskId),
    JobEnded(JobId),
}

impl Model {
    /// Makes a task terminal and propagates the effects. Its dependents are handled in the order of their ids. The
    /// effects of those that end are handled afterwards, the last one's first.
    pub(super) fn put(&mut self, id: TaskId, state: TaskState) {
        self.set(id, state);
        self.propagate(vec![self.effect(id)]);
    }

    /// Returns the effect of the end of a task.
    fn effect(&self, id: TaskId) -> Effect {
        let task = &self.tasks[&id];
        let job = &self.jobs[&task.job];
        let fails = [TaskState::Failed, TaskState::Expired].contains(&task.state);
        if job.finished_ms.is_some() {
            Effect::JobEnded(task.job)
        } else if fails && job.on_failure == OnFailure::FailFast {
            Effect::JobFailed(id)
        } else {
            Effect::Ended(id)
        }
    }

    pub(super) fn propagate(&mut self, mut effects: Vec<Effect>) {
        while let Some(effect) = effects.pop() {
            match effect {
                Effect::JobEnded(job) => self.settle_jobs(job, &mut effects),
                Effect::JobFailed(id) => {
                    effects.push(Effect::Ended(id));
                    let job = self.tasks[&id].job;
                    let rest = self.cancel_rest(job, CancelCause::JobFailed(id));
                    effects.extend(rest.into_iter().map(|task| self.effect(task)));
                }
                Effect::Ended(id) => self.settle(id, &mut effects),
            }
        }
    }

    fn settle(&mut self, id: TaskId, effects: &mut Vec<Effect>) {
        for follower in self.waiting_after(id) {
            let when = self.condition(follower, id);
            if self.meets(id, when) == Some(false) {
                let first = &self.tasks[&id];
                let not_needed = first.state == TaskState::Succeeded
                    || matches!(first.cause, Some(CancelCause::NotNeeded(_)));
                let cause = match not_needed {
                    true => CancelCause::NotNeeded(id),
                    false => CancelCause::Dependency(id),
                };
                self.cancelled(follower, cause);
                effects.push(self.effect(follower));
                continue;
            }
            let on = &mut self.tasks.get_mut(&follower).expect("found").on;
            *on -= 1;
            if *on == 0 && !self.make_ready(follower) {
                effects.push(self.effect(follower));
            }
        }
    }

    fn settle_jobs(&mut self, ended: JobId, effects: &mut Vec<Effect>) {
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in jobs {
            let awaits = |after: &(JobId, DependencyCondition, Option<bool>)| {
                after.0 == ended && after.2.is_none()
            };
            if !self.waits_for_jobs(id) || !self.jobs[&id].after_jobs.iter().any(awaits) {
                continue;
            }
            let mut after_jobs = self.jobs[&id].after_jobs.clone();
            for after in after_jobs.iter_mut().filter(|after| after.0 == ended) {
                after.2 = self.job_meets(ended, after.1).expect("it is there");
            }
            let denied = after_jobs.iter().any(|after| after.2 == Some(false));
            self.jobs.get_mut(&id).expect("it is there").after_jobs = after_jobs;
            if denied {
                let rest = self.cancel_rest(id, CancelCause::JobDependency(ended));
                effects.extend(rest.into_iter().map(|task| self.effect(task)));
            } else if !self.waits_for_jobs(id) {
                for task in self.jobs[&id].tasks.clone() {
                    let found = &self.tasks[&task];
                    if found.state == TaskState::Waiting && found.after.is_empty() {
                        let (not_before_ms, delay_ms) = found.ready;
                        self.wait_until(task, not_before_ms.max(self.now_ms + delay_ms));
                    }
                }
            }
        }
    }

    /// Returns whether a job waits for others.
    pub(super) fn waits_for_jobs(&self, job: JobId) -> bool {
        let after = &self.jobs[&job].after_jobs;
        after.iter().any(|after| after.2.is_none())
            && !after.iter().any(|after| after.2 == Some(false))
    }

    /// Returns whether a task without dependencies waits for the jobs before its own.
    pub(super) fn waits_with_its_job(&self, id: TaskId) -> bool {
        let task = &self.tasks[&id];
        task.after.is_empty() && self.waits_for_jobs(task.job)
    }

    /// Returns whether a job meets a condition, as far as it has ended; `None` if there is no such job.
    pub(super) fn job_meets(&self, id: JobId, when: DependencyCondition) -> Option<Option<bool>> {
        let job = self.jobs.get(&id)?;
        let state = self.state_of(job);
        let denied = job.after_jobs.iter().any(|after| after.2 == Some(false));
        Some((state != JobState::Running).then_some(match when {
            DependencyCondition::Succeeded => state == JobState::Succeeded,
            DependencyCondition::Failed => {
                state == JobState::Failed || state == JobState::Cancelled && denied
            }
            DependencyCondition::Ended => true,
        }))
    }

    fn condition(&self, task: TaskId, first: TaskId) -> DependencyCondition {
        let after = self.tasks[&task].after.iter();
        let found = after.copied().find(|(id, _)| *id == first);
        found.expect("it follows").1
    }

    /// Returns whether the end of a task meets a condition; `None` while it has not ended.
    pub(super) fn meets(&self, first: TaskId, when: DependencyCondition) -> Option<bool> {
        let first = &self.tasks[&first];
        let failed = matches!(
            (first.state, first.cause),
            (TaskState::Failed | TaskState::Expired, _)
                | (
                    TaskState::Cancelled,
                    Some(
                        CancelCause::Dependency(_)
                            | CancelCause::JobFailed(_)
                            | CancelCause::JobDependency(_),
                    ),
                )
        );
        first.state.is_terminal().then_some(match when {
            DependencyCondition::Succeeded => first.state == TaskState::Succeeded,
            DependencyCondition::Failed => failed,
            DependencyCondition::Ended => true,
        })
    }

    /// Makes a waiting task ready, because it has all its inputs. Returns false if they are too large, so that the task
    /// fails.
    fn make_ready(&mut self, id: TaskId) -> bool {
        let inputs = self.tasks[&id].after.iter().filter_map(|(first, when)| {
            let first = &self.tasks[first];
            match when {
                DependencyCondition::Succeeded => first.result.as_ref(),
                DependencyCondition::Failed => first.error.as_ref(),
                DependencyCondition::Ended => first.result.as_ref().or(first.error.as_ref()),
            }
        });
        let bytes: usize = inputs.map(|input| input.len()).sum();
        if bytes as u64 > self.limits.inputs_bytes_max {
            let error = inputs_text(bytes as u64, self.limits.inputs_bytes_max);
            self.tasks.get_mut(&id).expect("found").error = Some(error);
            self.set(id, TaskState::Failed);
            return false;
        }
        let (not_before_ms, delay_ms) = self.tasks[&id].ready;
        self.wait_until(id, not_before_ms.max(self.now_ms + delay_ms));
        true
    }

    /// Makes a task ready from this time on.
    pub(super) fn wait_until(&mut self, id: TaskId, until_ms: u64) {
        if until_ms <= self.now_ms {
            self.queue(id);
        } else {
            let task = self.tasks.get_mut(&id).expect("found");
            (task.state, task.until_ms) = (TaskState::Delayed, until_ms);
        }
    }

    /// Queues a task at a new position.
    pub(super) fn queue(&mut self, id: TaskId) {
        self.last_position += 1;
        let task = self.tasks.get_mut(&id).expect("found");
        (task.state, task.position, task.since_ms) =
            (TaskState::Queued, self.last_position, self.now_ms);
    }

    /// Sets the state of a task, and finishes its job if that was the last one.
    pub(super) fn set(&mut self, id: TaskId, state: TaskState) {
        let task = self.tasks.get_mut(&id).expect("found");
        task.state = state;
        let job = self.jobs.get_mut(&task.job).expect("its job");
        let finished = |task: &TaskId| self.tasks[task].state.is_terminal();
        if job.tasks.iter().all(finished) {
            job.finished_ms = Some(self.now_ms);
        }
    }

    /// Cancels an unfinished task, and releases it from its worker.
    pub(super) fn cancelled(&mut self, id: TaskId, cause: CancelCause) {
        if self.tasks[&id].holder.is_some() {
            self.close_attempt(id, "cancelled", None);
        }
        self.tasks.get_mut(&id).expect("found").cause = Some(cause);
        self.set(id, TaskState::Cancelled);
    }

    /// Cancels the unfinished tasks of a job, waiting ones first, and returns them. A failure spares those that handle ends
    /// other than success.
    pub(super) fn cancel_rest(&mut self, job: JobId, cause: CancelCause) -> Vec<TaskId> {
        let spares = matches!(cause, CancelCause::JobFailed(_));
        let handles =
            |(_, when): &(TaskId, DependencyCondition)| *when != DependencyCondition::Succeeded;
        let mut tasks = self.jobs[&job].tasks.clone();
        tasks.retain(|id| {
            let task = &self.tasks[id];
            !(task.state.is_terminal() || spares && task.after.iter().any(handles))
        });
        tasks.sort_by_key(|id| self.tasks[id].state != TaskState::Waiting);
        tasks.iter().for_each(|&task| self.cancelled(task, cause));
        tasks
    }

    /// Returns the dependents of this task.
    pub(super) fn followers(&self, id: TaskId) -> Vec<TaskId> {
        let follow = self.tasks.values().filter(|task| {
            let mut after = task.after.iter();
            after.any(|(first, _)| *first == id)
        });
        follow.map(|task| task.id).collect()
    }

    fn waiting_after(&self, id: TaskId) -> Vec<TaskId> {
        let mut followers = self.followers(id);
        followers.retain(|task| self.tasks[task].state == TaskState::Waiting);
        followers
    }

    /// Returns the dependencies of a task that have not ended.
    pub(super) fn missing(&self, id: TaskId) -> Vec<TaskId> {
        let after = self.tasks[&id].after.iter();
        let missing = after.filter(|(first, when)| self.meets(*first, *when).is_none());
        missing.map(|(first, _)| *first).collect()
    }
}

fn inputs_text(bytes: u64, bound: u64) -> Bytes {
    let text = r#"{"type":"inputs_too_large","message":"the results of the tasks it comes after are * bytes together, the bound is #: let them return where their results are instead"}"#;
    let text = text.replace('*', &bytes.to_string());
    Bytes::from(text.replace('#', &bound.to_string()))
}
