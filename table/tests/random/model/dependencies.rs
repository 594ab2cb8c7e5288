//! Model of dependencies: effects of a task's end on the others of its job.

use bytes::Bytes;
use triarch_table::command::OnFailure;
use triarch_table::records::task::CancelCause;
use triarch_table::types::state::TaskState;
use triarch_table::{JobId, TaskId};

use super::Model;

impl Model {
    /// Makes a task terminal and propagates the effects. Its dependents are handled in the order of their ids. The
    /// effects of those that end are handled afterwards, the last one's first.
    pub(super) fn put(&mut self, id: TaskId, state: TaskState) {
        self.set(id, state);
        let mut ended = vec![id];
        while let Some(id) = ended.pop() {
            let (job, state) = (self.tasks[&id].job, self.tasks[&id].state);
            let fails = [TaskState::Failed, TaskState::Expired].contains(&state);
            if fails && self.jobs[&job].on_failure == OnFailure::FailFast {
                self.cancel_rest(job, CancelCause::JobFailed(id));
                continue;
            }
            for follower in self.waiting_after(id) {
                if state != TaskState::Succeeded {
                    self.cancelled(follower, CancelCause::Dependency(id));
                    ended.push(follower);
                } else if self.missing(follower).is_empty() && !self.make_ready(follower) {
                    ended.push(follower);
                }
            }
        }
    }

    /// Makes a waiting task ready, because it has all its inputs. Returns false if they are too large, so that the task
    /// fails.
    fn make_ready(&mut self, id: TaskId) -> bool {
        let inputs = self.tasks[&id].after.iter();
        let bytes: usize = inputs
            .filter_map(|first| self.tasks[first].result.as_ref())
            .map(|result| result.len())
            .sum();
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

    pub(super) fn cancel_rest(&mut self, job: JobId, cause: CancelCause) -> u64 {
        let mut tasks = self.jobs[&job].tasks.clone();
        tasks.retain(|id| !self.tasks[id].state.is_terminal());
        tasks.iter().for_each(|&task| self.cancelled(task, cause));
        tasks.len() as u64
    }

    /// Returns the dependents of this task.
    pub(super) fn followers(&self, id: TaskId) -> Vec<TaskId> {
        let follow = self.tasks.values().filter(|task| task.after.contains(&id));
        follow.map(|task| task.id).collect()
    }

    fn waiting_after(&self, id: TaskId) -> Vec<TaskId> {
        let mut followers = self.followers(id);
        followers.retain(|task| self.tasks[task].state == TaskState::Waiting);
        followers
    }

    /// Returns the dependencies of a task that have not succeeded.
    pub(super) fn missing(&self, id: TaskId) -> Vec<TaskId> {
        let mut missing = self.tasks[&id].after.clone();
        missing.retain(|first| self.tasks[first].state != TaskState::Succeeded);
        missing
    }
}

fn inputs_text(bytes: u64, bound: u64) -> Bytes {
    let text = r#"{"type":"inputs_too_large","message":"the results of the tasks it comes after are * bytes together, the bound is #: let them return where their results are instead"}"#;
    let text = text.replace('*', &bytes.to_string());
    Bytes::from(text.replace('#', &bound.to_string()))
}
