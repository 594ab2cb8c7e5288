//! How the tasks of a job act on one another: what the end of one means for those that come after it, and for all of a
//! job that fails fast.
//!
//! - A task that comes after others is `waiting` until the last of them has succeeded. That moment comes once, in one
//!   entry, so it becomes ready once, however its last dependencies ended.
//! - When one that it comes after ends without success (failed, cancelled, expired), it can never have its inputs: it is
//!   cancelled with that task named as the cause, and so are those that come after it.
//! - Retrying a task takes back what its end has done to those after it (see `apply/retry_task`).
//!
//! A chain may be as long as a job, so what follows from a change is worked off a list, never by recursion.

use bytes::Bytes;

use crate::command::OnFailure;
use crate::command::event::Event;
use crate::records::task::{CancelCause, Life, Task};
use crate::rules::attempt::{End, error_object};
use crate::table::Table;
use crate::types::ids::{JobId, TaskId};
use crate::types::state::TaskState;

/// A change of one task that means something for others.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sequel {
    /// It has succeeded: those after it have one less to wait for.
    Succeeded(TaskId),
    /// It ended without success: those after it cannot start any more.
    Ended(TaskId),
    /// As [`Sequel::Ended`], in a job that fails fast: nothing of it goes on.
    FailedAll(TaskId),
}

impl Sequel {
    /// What it means that a task came from one state to another.
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
                Some(Sequel::Succeeded(task))
            }
            (TaskState::Failed | TaskState::Expired, OnFailure::FailFast) => {
                Some(Sequel::FailedAll(task))
            }
            (TaskState::Failed | TaskState::Expired, OnFailure::Continue)
            | (TaskState::Cancelled, OnFailure::Continue | OnFailure::FailFast) => {
                Some(Sequel::Ended(task))
            }
            (
                TaskState::Waiting | TaskState::Delayed | TaskState::Queued | TaskState::Running,
                OnFailure::Continue | OnFailure::FailFast,
            ) => None,
        }
    }
}

impl Table {
    /// Works off what follows from a sequel.
    pub(crate) fn follow(&mut self, first: Sequel, events: &mut Vec<Event>) {
        let mut sequels = vec![first];
        while let Some(sequel) = sequels.pop() {
            match sequel {
                Sequel::Succeeded(task) => self.release_dependents(task, &mut sequels, events),
                Sequel::Ended(task) => {
                    for dependent in self.waiting_dependents(task) {
                        let cause = CancelCause::Dependency(task);
                        sequels.extend(self.cancel_alone(dependent, cause, events));
                    }
                }
                Sequel::FailedAll(task) => {
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
        sequels: &mut Vec<Sequel>,
        events: &mut Vec<Event>,
    ) {
        for dependent in self.waiting_dependents(task) {
            let Some(life) = self.tasks.get(dependent).map(|task| self.one_less(task)) else {
                continue;
            };
            let life = match life {
                Step::Waits(life) | Step::Fails(life) => life,
                Step::Ready { until_ms } => self.ready_from(until_ms),
            };
            sequels.extend(self.change_alone(dependent, events, |task| task.life = life));
        }
    }

    /// Where a waiting task goes when one more of those it comes after has succeeded.
    fn one_less(&self, task: &Task) -> Step {
        let Life::Waiting {
            on,
            not_before_ms,
            delay_ms,
        } = task.life
        else {
            panic!("{} does not wait, it is {}", task.id, task.state().as_str())
        };
        if on > 1 && !mutated!(DependencyStartedEarly) {
            return Step::Waits(Life::Waiting {
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
            return Step::Fails(Life::Failed {
                error: inputs_error(bytes, self.limits.inputs_bytes_max),
                finished_ms: self.now_ms,
            });
        }
        Step::Ready {
            until_ms: not_before_ms.max(self.now_ms.saturating_add(delay_ms)),
        }
    }

    /// The life of a task that may start from this time on.
    pub(crate) fn ready_from(&mut self, until_ms: u64) -> Life {
        if until_ms > self.now_ms {
            Life::Delayed { until_ms }
        } else {
            Life::Queued {
                place: self.new_place(),
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

    /// Cancels a task if it is unfinished.
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
                if let Some(sequel) = self.cancel_alone(id, cause, events) {
                    self.follow(sequel, events);
                }
                true
            }
            Life::Running { .. } => {
                self.end_attempt(id, End::Cancelled { cause }, events);
                true
            }
            Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => false,
        }
    }

    /// Cancels a task that has not started.
    fn cancel_alone(
        &mut self,
        id: TaskId,
        cause: CancelCause,
        events: &mut Vec<Event>,
    ) -> Option<Sequel> {
        let finished_ms = self.now_ms;
        self.change_alone(id, events, |task| {
            task.life = Life::Cancelled { finished_ms, cause };
        })
    }

    /// Cancels every unfinished task of a job, and says how many that were.
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
        // Those that wait go first, for this cause and not for that of one they come after.
        if waiting > 0 {
            for task in tasks.clone() {
                let state = self.tasks.get(task).map(Task::state);
                if state == Some(TaskState::Waiting) {
                    self.cancel_alone(task, cause, events);
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

/// See [`Table::one_less`].
enum Step {
    Waits(Life),
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
