//! What the end of a task means for the others of its job.

use bytes::Bytes;
use triarch_table::command::OnFailure;
use triarch_table::records::task::CancelCause;
use triarch_table::types::state::TaskState;
use triarch_table::{JobId, TaskId};

use super::Model;

impl Model {
    /// Makes a task terminal, with what that means for its job: those that come after it are told in the order of their
    /// ids, and what resolution of them has its own consequences after that, the last one's first.
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

    /// A waiting task has all its inputs. False if they are too large, which is its end.
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

    /// Ready from this time on.
    pub(super) fn wait_until(&mut self, id: TaskId, until_ms: u64) {
        if until_ms <= self.now_ms {
            self.queue(id);
        } else {
            let task = self.tasks.get_mut(&id).expect("found");
            (task.state, task.until_ms) = (TaskState::Delayed, until_ms);
        }
    }

    /// Gives a task a new place.
    pub(super) fn queue(&mut self, id: TaskId) {
        self.last_position += 1;
        let task = self.tasks.get_mut(&id).expect("found");
        (task.state, task.position, task.since_ms) =
            (TaskState::Queued, self.last_position, self.now_ms);
    }

    /// Puts a task into a state, and its job with it.
    pub(super) fn set(&mut self, id: TaskId, state: TaskState) {
        let task = self.tasks.get_mut(&id).expect("found");
        task.state = state;
        let job = self.jobs.get_mut(&task.job).expect("its job");
        let finished = |task: &TaskId| self.tasks[task].state.is_terminal();
        if job.tasks.iter().all(finished) {
            job.finished_ms = Some(self.now_ms);
        }
    }

    /// Cancels an unfinished task, taking it from its worker.
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

    /// The tasks that come after this one.
    pub(super) fn followers(&self, id: TaskId) -> Vec<TaskId> {
        let follow = self.tasks.values().filter(|task| task.after.contains(&id));
        follow.map(|task| task.id).collect()
    }

    fn waiting_after(&self, id: TaskId) -> Vec<TaskId> {
        let mut followers = self.followers(id);
        followers.retain(|task| self.tasks[task].state == TaskState::Waiting);
        followers
    }

    /// Those that a task comes after and that have not succeeded.
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
