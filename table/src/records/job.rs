//! Job records: one submission, with counts of its tasks by state.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::OnFailure;
use crate::records::paged::Record;
use crate::types::ids::{JobId, TaskId};
use crate::types::state::{JobState, TaskState};

/// A job. Its tasks are those with ids from `first_task` on, without gaps: they came in one entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Human name; may be empty.
    pub name: Arc<str>,
    /// The queue of its first task: how long the job is kept goes by that one's settings.
    pub queue: Arc<str>,
    /// What one failed task means for the others.
    pub on_failure: OnFailure,
    /// When it was submitted, in Unix ms.
    pub created_ms: u64,
    /// When its last task became terminal, while none is unfinished again.
    pub finished_ms: Option<u64>,
    /// The first of its tasks.
    pub first_task: TaskId,
    /// How many tasks it has.
    pub tasks: u32,
    /// How many of them are in each state.
    pub counts: Counts,
    /// Bytes of payloads, results and errors of its tasks.
    pub bytes: u64,
    /// The submitter's own key, if there was one.
    pub idempotency: Option<Arc<Idempotency>>,
    /// Submitted tasks that were deduplicated.
    pub deduplicated: DeduplicatedTasks,
}

/// Existing tasks that replace submitted ones with the same unique key, each with its position in the submission;
/// ascending.
pub type DeduplicatedTasks = Option<Arc<[(u32, TaskId)]>>;

/// The result of a submission: its job and its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmissionReceipt {
    /// Its job; if all tasks were deduplicated, the job of the first.
    pub job: JobId,
    /// The first of the tasks it made.
    pub first_task: TaskId,
    /// How many it made.
    pub tasks: u32,
    /// Its deduplicated tasks.
    pub deduplicated: DeduplicatedTasks,
}

impl SubmissionReceipt {
    /// All of them, in the order submitted.
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
    /// When it came in parts: theirs; else empty.
    pub part_digests: Vec<[u8; 32]>,
}

impl Job {
    /// Its state, which follows from those of its tasks.
    pub fn state(&self) -> JobState {
        if self.counts.unfinished() > 0 {
            JobState::Running
        } else if self.counts.of(TaskState::Failed) + self.counts.of(TaskState::Expired) > 0 {
            JobState::Failed
        } else if self.counts.of(TaskState::Cancelled) > 0 {
            JobState::Cancelled
        } else {
            JobState::Succeeded
        }
    }

    /// The ids of its tasks in the order submitted.
    pub fn task_ids(&self) -> impl ExactSizeIterator<Item = TaskId> + Clone + use<> {
        let first = self.first_task.0;
        (0..self.tasks).map(move |offset| TaskId(first + u64::from(offset)))
    }

    /// The receipt of its submission.
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

/// A number of tasks for each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts([u64; TaskState::ALL.len()]);

impl Counts {
    /// How many are in this state.
    pub fn of(&self, state: TaskState) -> u64 {
        self.0[state as usize]
    }

    /// Every state with its number, in the order of a task's life.
    pub fn iter(&self) -> impl Iterator<Item = (TaskState, u64)> + '_ {
        TaskState::ALL
            .into_iter()
            .map(|state| (state, self.of(state)))
    }

    /// How many are in any state.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How many are not terminal.
    pub fn unfinished(&self) -> u64 {
        self.depth() + self.of(TaskState::Running)
    }

    /// How many are unfinished and do not run.
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
