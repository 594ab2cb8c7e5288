//! Dependency propagation: the effects of a task's end on its dependents, and on the whole of a job that fails fast.
//!
//! - A task with dependencies is `waiting` until the last of them has succeeded. This moment comes once, in one entry.
//!   So the task becomes ready once, in whatever order its dependencies ended.
//! - When a dependency ends without success (failed, cancelled, expired), the task can never have its inputs. It is
//!   cancelled with that dependency named as the cause, and so are its own dependents.
//! - A retry of a task undoes the effect of its end on its dependents (see `apply/retry_task`).
//!
//! A chain may be as long as a job, so effects are processed from a work list, never by recursion.

use bytes::Bytes;

use crate::command::OnFailure;
use crate::command::event::Event;
use crate::records::task::{CancelCause, Life, Task};
use crate::rules::attempt::{AttemptOutcome, error_object};
use crate::table::Table;
use crate::types::ids::{JobId, TaskId};
use crate::types::state::TaskState;

/// Effect of one task's transition on other tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DependencyEffect {
    /// The task succeeded: its dependents have one dependency less to wait for.
    Satisfied(TaskId),
    /// The task ended without success: its dependents cannot start any more.
    Unsatisfiable(TaskId),
    /// The task ended without success in a job with `fail_fast`: all unfinished tasks of the job are cancelled.
    JobFailed(TaskId),
}

impl DependencyEffect {
    /// Returns the effect of a transition from one state to another, if any.
    pub fn of(
        task: TaskId,
        before: TaskState,
        now: TaskState,
        on_failure: OnFailure,
    ) -> Option<Self> {
        if before == now {
            return None;
        }
        match (now, on_failure) {
            (TaskState::Succeeded, OnFailure::Continue | OnFailure::FailFast) => {
                Some(DependencyEffect::Satisfied(task))
            }
            (TaskState::Failed | TaskState::Expired, OnFailure::FailFast) => {
                Some(DependencyEffect::JobFailed(task))
            }
            (TaskState::Failed | TaskState::Expired, OnFailure::Continue)
            | (TaskState::Cancelled, OnFailure::Continue | OnFailure::FailFast) => {
                Some(DependencyEffect::Unsatisfiable(task))
            }
            (
                TaskState::Waiting | TaskState::Delayed | TaskState::Queued | TaskState::Running,
                OnFailure::Continue | OnFailure::FailFast,
            ) => None,
        }
    }
}

impl Table {
    /// Processes an effect and all that follow from it.
    pub(crate) fn propagate(&mut self, first: DependencyEffect, events: &mut Vec<Event>) {
        let mut effects = vec![first];
        while let Some(effect) = effects.pop() {
            match effect {
                DependencyEffect::Satisfied(task) => {
                    self.release_dependents(task, &mut effects, events)
                }
                DependencyEffect::Unsatisfiable(task) => {
                    for dependent in self.waiting_dependents(task) {
                        let cause = CancelCause::Dependency(task);
                        effects.extend(self.cancel_task_only(dependent, cause, events));
                    }
                }
                DependencyEffect::JobFailed(task) => {
                    let job = self.tasks.get(task).map(|task| task.job);
                    if let Some(job) = job {
                        self.cancel_unfinished(job, CancelCause::JobFailed(task), events);
                    }
                }
            }
        }
    }

    fn release_dependents(
        &mut self,
        task: TaskId,
        effects: &mut Vec<DependencyEffect>,
        events: &mut Vec<Event>,
    ) {
        for dependent in self.waiting_dependents(task) {
            let Some(life) = self
                .tasks
                .get(dependent)
                .map(|task| self.dependency_satisfied(task))
            else {
                continue;
            };
            let life = match life {
                WaitingStep::StillWaiting(life) | WaitingStep::Fails(life) => life,
                WaitingStep::Ready { until_ms } => self.ready_from(until_ms),
            };
            effects.extend(self.change_task_only(dependent, events, |task| task.life = life));
        }
    }

    /// Returns the next step of a waiting task after one more of its dependencies has succeeded.
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
        let inputs = task
            .after()
            .iter()
            .filter_map(|&first| self.tasks.get(first));
        let bytes: u64 = inputs
            .filter_map(|first| first.result())
            .map(|result| result.len() as u64)
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
        let Some(job) = self.jobs.get(job) else {
            return 0;
        };
        let (id, before) = (job.id, job.counts.unfinished());
        let (waiting, tasks) = (job.counts.of(TaskState::Waiting), job.task_ids());
        // Waiting tasks are cancelled first, so that they get this cause and not that of a cancelled dependency.
        if waiting > 0 {
            for task in tasks.clone() {
                let state = self.tasks.get(task).map(Task::state);
                if state == Some(TaskState::Waiting) {
                    self.cancel_task_only(task, cause, events);
                }
            }
        }
        for task in tasks {
            self.cancel_task(task, cause, events);
        }
        let left = self.jobs.get(id).map_or(0, |job| job.counts.unfinished());
        before - left
    }
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
