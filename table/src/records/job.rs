//! Job records: one submission, with counts of its tasks by state.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{DependencyCondition, OnFailure};
use crate::records::paged::Record;
use crate::types::ids::{JobId, TaskId};
use crate::types::state::{JobState, TaskState};

/// A job. Its tasks have consecutive ids from `first_task` on, because they were created in one entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Display name; may be empty.
    pub name: Arc<str>,
    /// The queue of its first task. The settings of that queue decide how long the job is kept.
    pub queue: Arc<str>,
    /// Effect of one failed task on the others.
    pub on_failure: OnFailure,
    /// Time at which it was submitted, in Unix ms.
    pub created_ms: u64,
    /// Time at which its last task became terminal, in Unix ms; `None` while any task is unfinished.
    pub finished_ms: Option<u64>,
    /// The first of its tasks.
    pub first_task: TaskId,
    /// The number of its tasks.
    pub tasks: u32,
    /// The number of its tasks in each state.
    pub counts: Counts,
    /// Bytes of payloads, results and errors of its tasks.
    pub bytes: u64,
    /// The submitter's own key, if any.
    pub idempotency: Option<Arc<Idempotency>>,
    /// Submitted tasks that were deduplicated.
    pub deduplicated: DeduplicatedTasks,
    /// The number of its tasks that were cancelled because they are not needed. Derived from the tasks.
    #[serde(skip)]
    pub not_needed: u32,
    /// The jobs it comes after. A snapshot has them in a record of their own.
    #[serde(skip)]
    pub after_jobs: Box<[JobDependency]>,
}

/// Dependency of a job on another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDependency {
    /// The other job. It may be forgotten once it has ended.
    pub job: JobId,
    /// How it must end.
    pub when: DependencyCondition,
    /// Whether it has ended so; `None` while it is unfinished.
    pub met: Option<bool>,
}

/// Existing tasks that replace submitted ones with the same unique key, each with its position in the submission;
/// ascending.
pub type DeduplicatedTasks = Option<Arc<[(u32, TaskId)]>>;

/// Receipt of a submission: its job and its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmissionReceipt {
    /// Its job; if all tasks were deduplicated, the job of the first.
    pub job: JobId,
    /// The first of the tasks it made.
    pub first_task: TaskId,
    /// The number of tasks it made.
    pub tasks: u32,
    /// Its deduplicated tasks.
    pub deduplicated: DeduplicatedTasks,
}

impl SubmissionReceipt {
    /// Returns all of its tasks, in the order submitted.
    pub fn task_ids(&self) -> Vec<TaskId> {
        let deduplicated = self.deduplicated.as_deref().unwrap_or(&[]);
        let mut own = (0..self.tasks).map(|offset| TaskId(self.first_task.0 + u64::from(offset)));
        let mut others = deduplicated.iter().peekable();
        let total = self.tasks + deduplicated.len() as u32;
        (0..total)
            .filter_map(|position| match others.next_if(|(at, _)| *at == position) {
                Some((_, task)) => Some(*task),
                None => own.next(),
            })
            .collect()
    }
}

/// An idempotency key with the digests of the request it came with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The submitter's key.
    pub key: Arc<str>,
    /// Digest of the request body it came with.
    pub body_digest: [u8; 32],
    /// Digests of the parts of a multipart submission; else empty.
    pub part_digests: Vec<[u8; 32]>,
}

impl Job {
    /// Returns its state, which is derived from those of its tasks.
    pub fn state(&self) -> JobState {
        if self.counts.unfinished() > 0 {
            JobState::Running
        } else if self.counts.of(TaskState::Failed) + self.counts.of(TaskState::Expired) > 0 {
            JobState::Failed
        } else if self.counts.of(TaskState::Cancelled) > u64::from(self.not_needed) {
            JobState::Cancelled
        } else {
            JobState::Succeeded
        }
    }

    /// Returns whether it waits for other jobs.
    pub fn waits_for_jobs(&self) -> bool {
        self.after_jobs.iter().any(|after| after.met.is_none()) && !self.is_denied()
    }

    /// Returns whether a job that it comes after ended in another way than it was to.
    fn is_denied(&self) -> bool {
        self.after_jobs.iter().any(|after| after.met == Some(false))
    }

    /// Returns whether its end meets this condition of another job; `None` while it is unfinished.
    pub(crate) fn meets(&self, when: DependencyCondition) -> Option<bool> {
        let state = self.state();
        if state == JobState::Running {
            return None;
        }
        Some(match when {
            DependencyCondition::Succeeded => state == JobState::Succeeded,
            DependencyCondition::Failed => {
                state == JobState::Failed || state == JobState::Cancelled && self.is_denied()
            }
            DependencyCondition::Ended => true,
        })
    }

    /// Returns the ids of its tasks in the order submitted.
    pub fn task_ids(&self) -> impl ExactSizeIterator<Item = TaskId> + Clone + use<> {
        let first = self.first_task.0;
        (0..self.tasks).map(move |offset| TaskId(first + u64::from(offset)))
    }

    /// Returns the receipt of its submission.
    pub(crate) fn receipt(&self) -> SubmissionReceipt {
        SubmissionReceipt {
            job: self.id,
            first_task: self.first_task,
            tasks: self.tasks,
            deduplicated: self.deduplicated.clone(),
        }
    }

    pub(crate) fn task_range(&self) -> RangeInclusive<TaskId> {
        self.first_task..=TaskId(self.first_task.0 + u64::from(self.tasks) - 1)
    }
}

impl Record for Job {
    type Key = JobId;
    fn key(&self) -> JobId {
        self.id
    }
}

/// Number of tasks in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts([u64; TaskState::ALL.len()]);

impl Counts {
    /// Returns the number in this state.
    pub fn of(&self, state: TaskState) -> u64 {
        self.0[state as usize]
    }

    /// Returns every state with its number, in the order of a task's life.
    pub fn iter(&self) -> impl Iterator<Item = (TaskState, u64)> + '_ {
        TaskState::ALL
            .into_iter()
            .map(|state| (state, self.of(state)))
    }

    /// Returns the number in all states.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the number that are not terminal.
    pub fn unfinished(&self) -> u64 {
        self.depth() + self.of(TaskState::Running)
    }

    /// Returns the number that are unfinished and do not run.
    pub fn depth(&self) -> u64 {
        self.of(TaskState::Waiting) + self.of(TaskState::Delayed) + self.of(TaskState::Queued)
    }

    pub(crate) fn add(&mut self, state: TaskState) {
        self.0[state as usize] += 1;
    }

    pub(crate) fn remove(&mut self, state: TaskState) {
        let count = &mut self.0[state as usize];
        assert!(*count > 0, "no {} task to take away", state.as_str());
        *count -= 1;
    }
}
