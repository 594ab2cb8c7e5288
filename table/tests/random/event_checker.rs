//! Checker of the event stream. The events alone must lead to the same state as the table, and must never break a
//! promise made to users.

use std::collections::{BTreeMap, BTreeSet};

use triarch_table::types::state::{JobState, TaskState};
use triarch_table::{Event, JobId, Table, TaskId, Token, WorkerId};

#[derive(Default)]
pub struct EventChecker {
    tasks: BTreeMap<TaskId, (JobId, TaskState)>,
    jobs: BTreeMap<JobId, Option<JobState>>,
    leases: BTreeMap<TaskId, (WorkerId, Token)>,
    last_tokens: BTreeMap<TaskId, Token>,
    present: BTreeSet<WorkerId>,
}

impl EventChecker {
    /// Checks the events of one entry. Only a retry may move a task out of a terminal state.
    pub fn check(&mut self, events: &[Event], table: &Table, retries: bool) {
        for event in events {
            self.take(event, retries);
        }
        self.agrees_with(table);
    }

    fn take(&mut self, event: &Event, retries: bool) {
        match *event {
            Event::QueueChanged { .. } | Event::Restored | Event::TimeSetBack { .. } => {}
            Event::WorkerChanged { worker, .. } => {
                assert!(self.present.contains(&worker), "{event:?}")
            }
            Event::JobSubmitted { job } => {
                assert_eq!(self.jobs.insert(job, None), None, "{event:?}")
            }
            Event::TaskChanged { task, job, to } => {
                assert!(self.jobs.contains_key(&job), "{event:?}");
                let before = self.tasks.insert(task, (job, to));
                assert!(
                    before.is_none_or(|(same, _)| same == job),
                    "{event:?} from {before:?}"
                );
                assert!(
                    is_valid_transition(before.map(|(_, from)| from), to, retries),
                    "{event:?} from {before:?}"
                );
                assert_eq!(
                    to == TaskState::Running,
                    self.leases.contains_key(&task),
                    "{event:?}"
                );
                if !to.is_terminal() {
                    self.jobs.insert(job, None);
                }
            }
            Event::LeaseGranted {
                task,
                worker,
                token,
            } => {
                assert_eq!(
                    self.leases.insert(task, (worker, token)),
                    None,
                    "two leases: {event:?}"
                );
                let last = self.last_tokens.insert(task, token);
                assert!(
                    last.is_none_or(|last| last < token),
                    "{event:?} after {last:?}"
                );
                assert!(self.present.contains(&worker), "{event:?}");
            }
            Event::LeaseEnded {
                task,
                worker,
                token,
            } => {
                assert_eq!(
                    self.leases.remove(&task),
                    Some((worker, token)),
                    "{event:?}"
                );
            }
            Event::JobFinished { job, state } => {
                assert!(state.is_terminal());
                assert_eq!(self.jobs.insert(job, Some(state)), Some(None), "{event:?}");
                let tasks = self.tasks.values().filter(|(of, _)| *of == job);
                assert!(
                    tasks.clone().all(|(_, state)| state.is_terminal()),
                    "{event:?}"
                );
            }
            Event::WorkerRegistered { worker } => assert!(self.present.insert(worker), "{event:?}"),
            Event::WorkerDraining { worker } => {
                assert!(self.present.contains(&worker), "{event:?}")
            }
            Event::WorkerGone { worker, .. } => assert!(self.present.remove(&worker), "{event:?}"),
            Event::ScheduleChanged { .. } => {}
            Event::ScheduleTicked { job, .. } => {
                assert!(
                    job.is_none_or(|job| self.jobs.contains_key(&job)),
                    "{event:?}"
                )
            }
        }
    }

    fn agrees_with(&mut self, table: &Table) {
        self.tasks.retain(|&id, (job, state)| match table.task(id) {
            Some(task) => {
                assert_eq!((task.job, task.state()), (*job, *state), "{id}");
                true
            }
            None => {
                assert!(state.is_terminal(), "{id} was forgotten while {state:?}");
                assert!(
                    table.job(*job).is_none(),
                    "{id} was forgotten without its job"
                );
                false
            }
        });
        self.jobs.retain(|&id, state| {
            let job = table.job(id);
            assert!(
                job.is_none_or(|job| job.state() == state.unwrap_or(JobState::Running)),
                "{id} {state:?}"
            );
            job.is_some()
        });
        // Conservation: every submitted task is in the table or was forgotten when finished, and there are no others.
        assert_eq!(table.counts().total(), self.tasks.len() as u64);
        assert_eq!(table.jobs_len(), self.jobs.len());
        let leases: BTreeMap<_, _> = table
            .leases()
            .map(|lease| (lease.task, (lease.worker, lease.token)))
            .collect();
        assert_eq!(leases, self.leases);
    }
}

/// Returns whether a task may change from one state to another in one step.
fn is_valid_transition(from: Option<TaskState>, to: TaskState, retries: bool) -> bool {
    let to_any_of = match from {
        None => &[TaskState::Waiting, TaskState::Delayed, TaskState::Queued][..],
        // A waiting task fails if its inputs are too large.
        Some(TaskState::Waiting) => &[
            TaskState::Delayed,
            TaskState::Queued,
            TaskState::Failed,
            TaskState::Cancelled,
            TaskState::Expired,
        ],
        Some(TaskState::Delayed) => &[TaskState::Queued, TaskState::Cancelled, TaskState::Expired],
        Some(TaskState::Queued) => &[TaskState::Running, TaskState::Cancelled, TaskState::Expired],
        Some(TaskState::Running) => &[
            TaskState::Delayed,
            TaskState::Queued,
            TaskState::Succeeded,
            TaskState::Failed,
            TaskState::Cancelled,
        ],
        Some(
            TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Expired,
        ) => &[TaskState::Waiting, TaskState::Queued],
    };
    let again = from.is_some_and(TaskState::is_terminal);
    (retries || !again) && to_any_of.contains(&to)
}
