//! Model of retries, and of the tasks that wait again because of one.

use triarch_table::command::reply::Refusal;
use triarch_table::command::{DependencyCondition, NewTask};
use triarch_table::records::task::CancelCause;
use triarch_table::types::state::TaskState;
use triarch_table::{Reply, TaskId};

use super::{ApplyResult, Model};

impl Model {
    pub(super) fn retry(&mut self, id: TaskId) -> ApplyResult {
        let task = self.tasks.get(&id).ok_or(Refusal::TaskNotFound(id))?;
        if !task.state.is_terminal() {
            return Err(Refusal::WrongState {
                task: id,
                state: task.state.as_str().into(),
            });
        }
        if task.state == TaskState::Succeeded && !self.followers(id).is_empty() {
            return Err(Refusal::ResultPromised { task: id });
        }
        let denied = |(first, when): &&(TaskId, DependencyCondition)| {
            self.meets(*first, *when) == Some(false)
        };
        if let Some(&(dependency, _)) = task.after.iter().find(denied) {
            let first = &self.tasks[&dependency];
            let state = first.state.as_str().into();
            return Err(match first.state {
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
            });
        }
        let again = self.revived_by(id);
        for &task in &again {
            let mut followers = self.followers(task).into_iter();
            let begun = followers.find(|follower| {
                let state = self.tasks[follower].state;
                !state.is_terminal() && state != TaskState::Waiting
            });
            if let Some(handler) = begun {
                let state = self.tasks[&handler].state.as_str().into();
                return Err(Refusal::HandlerUnfinished {
                    task,
                    handler,
                    state,
                });
            }
        }
        let all: Vec<&NewTask> = again.iter().map(|task| &self.tasks[task].new).collect();
        for unique in all.iter().filter_map(|task| task.unique.as_ref()) {
            if let Some(task) = self.holder_of(&unique.key) {
                let key = unique.key.clone();
                return Err(Refusal::UniqueKeyTaken { key, task });
            }
        }
        self.check_queues(&all)?;
        let job = self.tasks[&id].job;
        for task in again {
            self.reset_attempts(task);
        }
        for task in self.jobs[&job].tasks.clone() {
            let on = self.missing(task).len();
            self.tasks.get_mut(&task).expect("of its job").on = on;
        }
        Ok(Reply::Done { tasks: 1 })
    }

    /// Returns a task and all that wait again with it. Those were cancelled because of a dependency, and each of their
    /// dependencies that ended without success is among the returned tasks, too.
    fn revived_by(&self, id: TaskId) -> Vec<TaskId> {
        let mut again = vec![id];
        let job = &self.jobs[&self.tasks[&id].job];
        loop {
            let hopeful = |task: &&TaskId| {
                let task = &self.tasks[*task];
                let wanted = matches!(
                    task.cause,
                    Some(CancelCause::Dependency(_) | CancelCause::NotNeeded(_))
                );
                let mut after = task.after.iter();
                let denied = |(first, when): &(TaskId, DependencyCondition)| {
                    self.meets(*first, *when) == Some(false) && !again.contains(first)
                };
                wanted
                    && !again.contains(&task.id)
                    && after.clone().any(|(first, _)| again.contains(first))
                    && !after.any(denied)
            };
            match job.tasks.iter().find(hopeful) {
                Some(&task) => again.push(task),
                None => return again,
            }
        }
    }

    fn reset_attempts(&mut self, id: TaskId) {
        let task = self.tasks.get_mut(&id).expect("found");
        (task.failures, task.losses, task.expires_ms) = (0, 0, None);
        (task.result, task.error, task.cause) = (None, None, None);
        task.ready = (0, 0);
        let job = task.job;
        self.jobs.get_mut(&job).expect("its job").finished_ms = None;
        if self.missing(id).is_empty() && !self.waits_with_its_job(id) {
            self.queue(id);
        } else {
            self.tasks.get_mut(&id).expect("found").state = TaskState::Waiting;
        }
    }
}
