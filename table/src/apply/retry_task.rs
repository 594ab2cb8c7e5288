//! Retry of a terminal task: it goes back into its queue with a fresh budget of attempts. Its history stays and its
//! attempts are counted on; its job runs again.
//!
//! Tasks that were cancelled because this one ended without success wait for it again, and so do their dependents. The
//! exception are tasks of which another dependency ended without success, too.

use std::collections::BTreeSet;

use crate::command::RequestId;
use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::command::validate::request_id_reused;
use crate::records::dedup::RecordedReply;
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
            .map_err(|ended| Refusal::DependencyEnded {
                task: id,
                dependency: ended.id,
                state: ended.state().as_str().to_owned(),
            })?;
        let revived = self.revived_by(id);
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
        for dependent in revived {
            let task = self.tasks.get(dependent).expect("it was found");
            let on = self
                .missing_inputs(task, &BTreeSet::new())
                .expect("what ended the hope of it was revived before");
            let life = Life::Waiting {
                on,
                not_before_ms: 0,
                delay_ms: 0,
            };
            self.change_task(dependent, events, |task| reset_attempts(task, life));
        }
        Ok(())
    }

    /// Counts the dependencies of a task that have not succeeded.
    ///
    /// # Errors
    ///
    /// Returns the first dependency that ended without success and is not among the `revived`.
    fn missing_inputs(&self, task: &Task, revived: &BTreeSet<TaskId>) -> Result<u32, &Task> {
        let mut missing = 0;
        for first in task
            .after()
            .iter()
            .filter_map(|&first| self.tasks.get(first))
        {
            let state = first.state();
            if state.is_terminal() && state != TaskState::Succeeded && !revived.contains(&first.id)
            {
                return Err(first);
            }
            missing += u32::from(state != TaskState::Succeeded);
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
                    matches!(task.cancel_cause(), Some(CancelCause::Dependency(_)))
                        && self.missing_inputs(task, &revived).is_ok()
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
