//! Retry of a terminal task: it goes back into its queue with a fresh budget of attempts. Its history stays and its
//! attempts are counted on; its job runs again.
//!
//! Tasks that were cancelled because of the way in which this one ended wait for it again, and so do their dependents. The
//! exception are tasks of which another dependency ended in such a way, too. A dependent that has run because of this end,
//! such as one that handles the failure, has done its work and does not run again. While it has not ended, the retry is
//! refused, because its input would change under it.

use std::collections::BTreeSet;

use crate::command::RequestId;
use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::command::validate::request_id_reused;
use crate::records::dedup::RecordedReply;
use crate::records::job::Job;
use crate::records::task::{CancelCause, Life, Task};
use crate::table::Table;
use crate::types::ids::TaskId;
use crate::types::state::TaskState;

impl Table {
    pub(super) fn retry_task(
        &mut self,
        id: TaskId,
        request_id: Option<RequestId>,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        if let Some(answered) = request_id
            .as_deref()
            .and_then(|request| self.answered_requests.get(request))
        {
            return match &answered.reply {
                RecordedReply::Retried { task } if *task == id => Ok(Reply::Done { tasks: 1 }),
                RecordedReply::Retried { .. }
                | RecordedReply::Submitted { .. }
                | RecordedReply::Registered { .. } => Err(request_id_reused()),
            };
        }
        let task = self.tasks.get(id).ok_or(Refusal::TaskNotFound(id))?;
        if !task.state().is_terminal() {
            return Err(Refusal::WrongState {
                task: id,
                state: task.state().as_str().to_owned(),
            });
        }
        self.limits.check_request_id(request_id.as_deref())?;
        self.retry_terminal_task(id, events)?;
        self.record_reply(request_id, RecordedReply::Retried { task: id });
        Ok(Reply::Done { tasks: 1 })
    }

    /// Retries a terminal task, or refuses and changes nothing.
    pub(super) fn retry_terminal_task(
        &mut self,
        id: TaskId,
        events: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        let task = self.tasks.get(id).ok_or(Refusal::TaskNotFound(id))?;
        if task.state() == TaskState::Succeeded && self.index.dependents_of(id).next().is_some() {
            return Err(Refusal::ResultPromised { task: id });
        }
        let on = self
            .missing_inputs(task, &BTreeSet::new())
            .map_err(|ended| {
                let (dependency, state) = (ended.id, ended.state().as_str().to_owned());
                match ended.state() {
                    TaskState::Succeeded => Refusal::NotNeeded {
                        task: id,
                        dependency,
                        state,
                    },
                    _ => Refusal::DependencyEnded {
                        task: id,
                        dependency,
                        state,
                    },
                }
            })?;
        let on = on + self.jobs_to_wait_for(task);
        let revived = self.revived_by(id);
        let waiting = self.dependents_at_retry(id, &revived)?;
        self.check_retry_bounds(id, &revived)?;

        let life = match on {
            0 => Life::Queued {
                position: self.next_position(),
            },
            on => Life::Waiting {
                on,
                not_before_ms: 0,
                delay_ms: 0,
            },
        };
        self.change_task(id, events, |task| reset_attempts(task, life));
        let retried: BTreeSet<TaskId> = revived.iter().copied().chain([id]).collect();
        for dependent in revived {
            let on = self.missing_at_retry(dependent, &retried);
            let life = Life::Waiting {
                on,
                not_before_ms: 0,
                delay_ms: 0,
            };
            self.change_task(dependent, events, |task| reset_attempts(task, life));
        }
        for dependent in waiting {
            let missing = self.missing_at_retry(dependent, &retried);
            self.change_task(dependent, events, |task| {
                if let Life::Waiting { on, .. } = &mut task.life {
                    *on = missing;
                }
            });
        }
        Ok(())
    }

    /// Returns the waiting tasks for which the end of these tasks counted already, and counts no more.
    ///
    /// # Errors
    ///
    /// Returns a refusal if another task has started because of the end of one of them and has not ended.
    fn dependents_at_retry(
        &self,
        id: TaskId,
        revived: &[TaskId],
    ) -> Result<BTreeSet<TaskId>, Refusal> {
        let mut waiting = BTreeSet::new();
        for &first in std::iter::once(&id).chain(revived) {
            for dependent in self.index.dependents_of(first) {
                let Some(task) = self.tasks.get(dependent) else {
                    continue;
                };
                match task.life {
                    Life::Waiting { .. } => {
                        waiting.insert(dependent);
                    }
                    Life::Delayed { .. } | Life::Queued { .. } | Life::Running { .. } => {
                        return Err(Refusal::HandlerUnfinished {
                            task: first,
                            handler: dependent,
                            state: task.state().as_str().to_owned(),
                        });
                    }
                    Life::Succeeded { .. }
                    | Life::Failed { .. }
                    | Life::Cancelled { .. }
                    | Life::Expired { .. } => {}
                }
            }
        }
        Ok(waiting)
    }

    /// Returns 1 if a task without dependencies waits for the jobs before its own.
    fn jobs_to_wait_for(&self, task: &Task) -> u32 {
        let job = self.jobs.get(task.job).filter(|_| task.after().is_empty());
        u32::from(job.is_some_and(Job::waits_for_jobs))
    }

    /// Counts the dependencies that a task waits for once all these are retried.
    fn missing_at_retry(&self, id: TaskId, retried: &BTreeSet<TaskId>) -> u32 {
        let task = self.tasks.get(id).expect("it was found");
        self.missing_inputs(task, retried)
            .expect("what ended the hope of it is retried")
    }

    /// Counts the dependencies of a task that have not ended, or are `revived`.
    ///
    /// # Errors
    ///
    /// Returns the first dependency whose end does not meet its condition, and which is not among the `revived`.
    fn missing_inputs(&self, task: &Task, revived: &BTreeSet<TaskId>) -> Result<u32, &Task> {
        let mut missing = 0;
        for (first, when) in task.dependencies() {
            let Some(first) = self.tasks.get(first) else {
                continue;
            };
            match first.meets(when) {
                Some(_) if revived.contains(&first.id) => missing += 1,
                Some(true) => {}
                Some(false) => return Err(first),
                None => missing += 1,
            }
        }
        Ok(missing)
    }

    /// Returns the tasks that wait again when this one is retried, each after its own dependencies.
    fn revived_by(&self, id: TaskId) -> Vec<TaskId> {
        let mut revived = BTreeSet::from([id]);
        let mut order = Vec::new();
        let mut front = vec![id];
        while let Some(first) = front.pop() {
            for dependent in self.index.dependents_of(first) {
                let hopeful = self.tasks.get(dependent).is_some_and(|task| {
                    matches!(
                        task.cancel_cause(),
                        Some(CancelCause::Dependency(_) | CancelCause::NotNeeded(_))
                    ) && self.missing_inputs(task, &revived).is_ok()
                });
                if hopeful && revived.insert(dependent) {
                    order.push(dependent);
                    front.push(dependent);
                }
            }
        }
        order
    }

    /// Checks that queues, scheduler and unique keys have room for these terminal tasks.
    fn check_retry_bounds(&self, id: TaskId, revived: &[TaskId]) -> Result<(), Refusal> {
        let ids = std::iter::once(&id).chain(revived);
        let tasks: Vec<&Task> = ids.filter_map(|id| self.tasks.get(*id)).collect();
        for key in tasks.iter().filter_map(|task| task.unique_key()) {
            if let Some(&task) = self.index.unique_keys.get(key) {
                let key = key.to_string();
                return Err(Refusal::UniqueKeyTaken { key, task });
            }
        }
        self.check_queue_bounds(tasks.iter().map(|task| &*task.spec.class))
    }
}

/// Gives a task a fresh budget. It loses its expiry, because the submitter did not mean that time for a retry.
fn reset_attempts(task: &mut Task, life: Life) {
    task.life = life;
    task.failures = 0;
    task.losses = 0;
    task.expires_at_ms = None;
}
