//! Dependency propagation: the effects of a task's end on its dependents, and on the whole of a job that fails fast.
//!
//! - A task with dependencies is `waiting` until the last of them has ended as its condition says. This moment comes once,
//!   in one entry. So the task becomes ready once, in whatever order its dependencies ended.
//! - When a dependency ends in another way, the task can never start. It is cancelled with that dependency named as the
//!   cause, and its own dependents follow from that.
//! - A job that fails fast leaves tasks with a condition other than success alone: errors are handled and things cleaned up
//!   after the rest was cancelled.
//! - A retry of a task undoes the effect of its end on its dependents (see `apply/retry_task`).
//!
//! A chain may be as long as a job, so effects are processed from a work list, never by recursion.

use bytes::Bytes;

use crate::command::DependencyCondition;
use crate::command::event::Event;
use crate::records::task::{CancelCause, Life, Task};
use crate::rules::attempt::{AttemptOutcome, error_object};
use crate::rules::dependency_effect::DependencyEffect;
use crate::table::Table;
use crate::types::ids::{JobId, TaskId};
use crate::types::state::TaskState;

impl Table {
    /// Processes an effect and all that follow from it.
    pub(crate) fn propagate(&mut self, first: DependencyEffect, events: &mut Vec<Event>) {
        let mut effects = vec![first];
        while let Some(effect) = effects.pop() {
            match effect {
                DependencyEffect::Ended(task) => {
                    self.settle_dependents(task, &mut effects, events);
                }
                DependencyEffect::JobEnded(job) => {
                    self.settle_waiting_jobs(job, &mut effects, events);
                }
                DependencyEffect::JobFailed(task) => {
                    effects.push(DependencyEffect::Ended(task));
                    let job = self.tasks.get(task).map(|task| task.job);
                    if let Some(job) = job {
                        let cause = CancelCause::JobFailed(task);
                        self.cancel_unfinished_only(job, cause, &mut effects, events);
                    }
                }
            }
        }
    }

    /// Moves the waiting dependents of a task that has ended to their next states.
    fn settle_dependents(
        &mut self,
        task: TaskId,
        effects: &mut Vec<DependencyEffect>,
        events: &mut Vec<Event>,
    ) {
        for dependent in self.waiting_dependents(task) {
            let (Some(first), Some(waiting)) = (self.tasks.get(task), self.tasks.get(dependent))
            else {
                continue;
            };
            let life = match first.meets(waiting.condition_on(task)) {
                None => continue,
                Some(true) => match self.dependency_satisfied(waiting) {
                    WaitingStep::StillWaiting(life) | WaitingStep::Fails(life) => life,
                    WaitingStep::Ready { until_ms } => self.ready_from(until_ms),
                },
                Some(false) => Life::Cancelled {
                    finished_ms: self.now_ms,
                    cause: cause_of_unmet(first),
                },
            };
            effects.extend(self.change_task_only(dependent, events, |task| task.life = life));
        }
    }

    /// Starts or cancels the jobs that waited for a job that has ended, unless they wait for others.
    fn settle_waiting_jobs(
        &mut self,
        ended: JobId,
        effects: &mut Vec<DependencyEffect>,
        events: &mut Vec<Event>,
    ) {
        let waiting: Vec<JobId> = self.index.jobs_waiting_for(ended).collect();
        let Some(other) = self.jobs.get(ended).cloned() else {
            return;
        };
        for id in waiting {
            let job = self.jobs.get_mut(id).expect("the index knows it");
            self.index.remove_job_dependencies(job);
            for after in job.after_jobs.iter_mut().filter(|after| after.job == ended) {
                after.met = other.meets(after.when);
            }
            self.index.add_job_dependencies(job);
            let is_denied = job.after_jobs.iter().any(|after| after.met == Some(false));
            let (waits, tasks) = (job.waits_for_jobs(), job.task_ids());
            if is_denied {
                let cause = CancelCause::JobDependency(ended);
                self.cancel_unfinished_only(id, cause, effects, events);
            } else if !waits {
                for task in tasks {
                    effects.extend(self.start_waiting_task(task, events));
                }
            }
        }
    }

    /// Makes a task ready that waits for nothing but the jobs before its own.
    fn start_waiting_task(
        &mut self,
        id: TaskId,
        events: &mut Vec<Event>,
    ) -> Option<DependencyEffect> {
        let task = self.tasks.get(id).filter(|task| task.after().is_empty())?;
        let Life::Waiting {
            not_before_ms,
            delay_ms,
            ..
        } = task.life
        else {
            return None;
        };
        let life = self.ready_from(not_before_ms.max(self.now_ms.saturating_add(delay_ms)));
        self.change_task_only(id, events, |task| task.life = life)
    }

    /// Returns the next step of a waiting task after one more of its dependencies has ended as it should.
    fn dependency_satisfied(&self, task: &Task) -> WaitingStep {
        let Life::Waiting {
            on,
            not_before_ms,
            delay_ms,
        } = task.life
        else {
            panic!("{} does not wait, it is {}", task.id, task.state().as_str())
        };
        if on > 1 && !mutated!(DependencyStartedEarly) {
            return WaitingStep::StillWaiting(Life::Waiting {
                on: on - 1,
                not_before_ms,
                delay_ms,
            });
        }
        let bytes: u64 = task
            .dependencies()
            .filter_map(|(first, when)| input_bytes(self.tasks.get(first)?, when))
            .sum();
        if bytes > self.limits.inputs_bytes_max {
            return WaitingStep::Fails(Life::Failed {
                error: inputs_error(bytes, self.limits.inputs_bytes_max),
                finished_ms: self.now_ms,
            });
        }
        WaitingStep::Ready {
            until_ms: not_before_ms.max(self.now_ms.saturating_add(delay_ms)),
        }
    }

    /// Returns the state of a task that may start from this time on: delayed or queued.
    pub(crate) fn ready_from(&mut self, until_ms: u64) -> Life {
        if until_ms > self.now_ms {
            Life::Delayed { until_ms }
        } else {
            Life::Queued {
                position: self.next_position(),
            }
        }
    }

    fn waiting_dependents(&self, task: TaskId) -> Vec<TaskId> {
        let waits = |dependent: &TaskId| {
            self.tasks
                .get(*dependent)
                .is_some_and(|task| task.state() == TaskState::Waiting)
        };
        self.index.dependents_of(task).filter(waits).collect()
    }

    /// Cancels a task if it is unfinished; returns whether it did.
    pub(crate) fn cancel_task(
        &mut self,
        id: TaskId,
        cause: CancelCause,
        events: &mut Vec<Event>,
    ) -> bool {
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        match task.life {
            Life::Waiting { .. } | Life::Delayed { .. } | Life::Queued { .. } => {
                if let Some(effect) = self.cancel_task_only(id, cause, events) {
                    self.propagate(effect, events);
                }
                true
            }
            Life::Running { .. } => {
                self.end_attempt(id, AttemptOutcome::Cancelled { cause }, events);
                true
            }
            Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => false,
        }
    }

    /// Cancels a task that has not started; returns the effect on its dependents.
    fn cancel_task_only(
        &mut self,
        id: TaskId,
        cause: CancelCause,
        events: &mut Vec<Event>,
    ) -> Option<DependencyEffect> {
        let finished_ms = self.now_ms;
        self.change_task_only(id, events, |task| {
            task.life = Life::Cancelled { finished_ms, cause };
        })
    }

    /// Cancels every unfinished task of a job; returns how many there were.
    pub(crate) fn cancel_unfinished(
        &mut self,
        job: JobId,
        cause: CancelCause,
        events: &mut Vec<Event>,
    ) -> u64 {
        let unfinished =
            |table: &Table| table.jobs.get(job).map_or(0, |job| job.counts.unfinished());
        let before = unfinished(self);
        let mut effects = Vec::new();
        self.cancel_unfinished_only(job, cause, &mut effects, events);
        // Nothing of the job is left that these effects could change, unless the job failed fast.
        for effect in effects {
            self.propagate(effect, events);
        }
        before - unfinished(self)
    }

    /// Cancels every unfinished task of a job, and adds the effects on the others. If the job failed fast, tasks with a
    /// condition other than success are left alone.
    fn cancel_unfinished_only(
        &mut self,
        job: JobId,
        cause: CancelCause,
        effects: &mut Vec<DependencyEffect>,
        events: &mut Vec<Event>,
    ) {
        let Some(job) = self.jobs.get(job) else {
            return;
        };
        let (waiting, tasks) = (job.counts.of(TaskState::Waiting), job.task_ids());
        let spares_handlers = matches!(cause, CancelCause::JobFailed(_));
        let spared = |task: &Task| spares_handlers && !task.conditions().is_empty();
        // Waiting tasks are cancelled first, so that they get this cause and not that of a cancelled dependency.
        if waiting > 0 {
            for id in tasks.clone() {
                let waits = |task: &&Task| task.state() == TaskState::Waiting && !spared(task);
                if self.tasks.get(id).filter(waits).is_some() {
                    effects.extend(self.cancel_task_only(id, cause, events));
                }
            }
        }
        for id in tasks {
            let Some(task) = self.tasks.get(id).filter(|task| !spared(task)) else {
                continue;
            };
            match task.life {
                Life::Waiting { .. } | Life::Delayed { .. } | Life::Queued { .. } => {
                    effects.extend(self.cancel_task_only(id, cause, events));
                }
                Life::Running { .. } => {
                    let outcome = AttemptOutcome::Cancelled { cause };
                    effects.extend(self.end_attempt_only(id, outcome, events).effect);
                }
                Life::Succeeded { .. }
                | Life::Failed { .. }
                | Life::Cancelled { .. }
                | Life::Expired { .. } => {}
            }
        }
    }
}

/// Returns the cause with which a task is cancelled whose condition the end of this dependency does not meet.
fn cause_of_unmet(first: &Task) -> CancelCause {
    if first.state() == TaskState::Succeeded || first.is_not_needed() {
        CancelCause::NotNeeded(first.id)
    } else {
        CancelCause::Dependency(first.id)
    }
}

/// Returns the bytes of what a dependency gives to its dependent.
fn input_bytes(first: &Task, when: DependencyCondition) -> Option<u64> {
    let text = match when {
        DependencyCondition::Succeeded => first.result(),
        DependencyCondition::Failed => first.error(),
        DependencyCondition::Ended => first.result().or_else(|| first.error()),
    };
    text.map(|text| text.len() as u64)
}

/// Next step of a waiting task. See [`Table::dependency_satisfied`].
enum WaitingStep {
    StillWaiting(Life),
    Ready { until_ms: u64 },
    Fails(Life),
}

fn inputs_error(bytes: u64, bytes_max: u64) -> Bytes {
    let message = format!(
        "the results of the tasks it comes after are {bytes} bytes together, the bound is {bytes_max}: let them \
         return where their results are instead"
    );
    error_object("inputs_too_large", &message)
}
