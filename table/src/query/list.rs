//! Paginated lists with filters and cursors. A cursor is the id of the last record seen, so a list stays right while
//! the table changes. No record is listed twice, and no record that stays is left out.
//!
//! A filter that matches little must not make one call scan everything. So a call scans at most [`SCAN_MAX`] records,
//! and then returns what it has with the cursor to continue from.

use std::ops::Bound;

use crate::index::ready_queue::QueueIndex;
use crate::records::job::{Counts, Job};
use crate::records::task::Task;
use crate::table::Table;
use crate::types::ids::{JobId, TaskId, WorkerId};
use crate::types::queue_options::QueueSettings;
use crate::types::state::{JobState, TaskState};

/// Maximum number of records that one call scans.
pub const SCAN_MAX: usize = 50_000;

/// Order of a list of tasks or jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListOrder {
    /// In the order submitted. A cursor continues with greater ids.
    #[default]
    OldestFirst,
    /// In the opposite order. A cursor continues with smaller ids.
    NewestFirst,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListPage<'a, T, C> {
    /// The records found. There may be fewer than requested although the list continues.
    pub items: Vec<&'a T>,
    /// The cursor to continue from; `None` at the end of the list.
    pub next: Option<C>,
}

/// Filter of jobs; `None` matches all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFilter {
    /// Jobs in this state.
    pub state: Option<JobState>,
    /// Jobs of exactly this name.
    pub name: Option<String>,
}

impl JobFilter {
    fn matches(&self, job: &Job) -> bool {
        self.state.is_none_or(|state| state == job.state())
            && self.name.as_deref().is_none_or(|name| name == &*job.name)
    }
}

/// Filter of tasks; `None` matches all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskFilter {
    /// Tasks in this queue.
    pub queue: Option<String>,
    /// Tasks in this state.
    pub state: Option<TaskState>,
    /// Tasks of this kind.
    pub kind: Option<String>,
    /// Tasks run by this worker, now or at the last attempt.
    pub worker: Option<WorkerId>,
    /// Tasks of this job.
    pub job: Option<JobId>,
    /// Tasks with this tag.
    pub tag: Option<String>,
}

impl TaskFilter {
    fn matches(&self, task: &Task) -> bool {
        self.state.is_none_or(|state| state == task.state())
            && self
                .queue
                .as_deref()
                .is_none_or(|queue| queue == task.queue())
            && self.kind.as_deref().is_none_or(|kind| kind == task.kind())
            && self
                .worker
                .is_none_or(|worker| task.worker() == Some(worker))
            && self.job.is_none_or(|job| task.job == job)
            && self
                .tag
                .as_ref()
                .is_none_or(|tag| task.spec.policy.tags.contains(tag))
    }

    /// Returns whether the counts prove that no task can match.
    fn matches_nothing(&self, table: &Table) -> bool {
        let counts = match &self.queue {
            Some(queue) => table.index.queue(queue).map(|queue| &queue.counts),
            None => Some(&table.index.counts),
        };
        counts.is_none_or(|counts| self.state.is_some_and(|state| counts.of(state) == 0))
    }
}

/// Read view of a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueView<'a> {
    /// Name of the queue.
    pub name: &'a str,
    /// Settings made by users.
    pub settings: QueueSettings,
    /// Service received so far, in shares.
    pub served: u64,
    /// Its tasks by state, finished ones that are still kept included.
    pub counts: Counts,
    /// Since when the oldest startable task has been ready, in Unix ms. A task that its concurrency key holds back does
    /// not count.
    pub oldest_ready_ms: Option<u64>,
}

/// The queue that is listed even when no task names it.
pub const DEFAULT_QUEUE: &str = "default";

impl Table {
    /// Returns jobs, newest first, with ids below `after`.
    pub fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobId>,
        limit: usize,
    ) -> ListPage<'_, Job, JobId> {
        self.jobs_where(filter, ListOrder::NewestFirst, after, limit, |_| true)
    }

    /// Returns jobs that also satisfy `condition`, beyond the cursor `after` in this order.
    pub fn jobs_where(
        &self,
        filter: &JobFilter,
        order: ListOrder,
        after: Option<JobId>,
        limit: usize,
        condition: impl Fn(&Job) -> bool,
    ) -> ListPage<'_, Job, JobId> {
        let matches = |job: &Job| filter.matches(job) && condition(job);
        match order {
            ListOrder::OldestFirst => {
                collect(self.jobs.iter_after(after), |job| job.id, matches, limit)
            }
            ListOrder::NewestFirst => {
                collect(self.jobs.iter_before(after), |job| job.id, matches, limit)
            }
        }
    }

    /// Returns the tasks of a job in the order submitted, with ids above `after`; empty if there is no such job.
    pub fn tasks_of(
        &self,
        job: JobId,
        after: Option<TaskId>,
        limit: usize,
    ) -> ListPage<'_, Task, TaskId> {
        let Some(job) = self.jobs.get(job) else {
            return ListPage {
                items: Vec::new(),
                next: None,
            };
        };
        let (first, last) = job.task_range().into_inner();
        let first = after.map_or(first, |after| first.max(TaskId(after.0.saturating_add(1))));
        collect(
            self.tasks.range(first..=last),
            |task| task.id,
            |_| true,
            limit,
        )
    }

    /// Returns tasks in the order submitted, with ids above `after`.
    pub fn tasks(
        &self,
        filter: &TaskFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> ListPage<'_, Task, TaskId> {
        self.tasks_where(filter, ListOrder::OldestFirst, after, limit, |_| true)
    }

    /// Returns tasks that also satisfy `condition`, beyond the cursor `after` in this order.
    pub fn tasks_where(
        &self,
        filter: &TaskFilter,
        order: ListOrder,
        after: Option<TaskId>,
        limit: usize,
        condition: impl Fn(&Task) -> bool,
    ) -> ListPage<'_, Task, TaskId> {
        if filter.matches_nothing(self) {
            return ListPage {
                items: Vec::new(),
                next: None,
            };
        }
        let matches = |task: &Task| filter.matches(task) && condition(task);
        let is_beyond = |task: TaskId| {
            after.is_none_or(|after| match order {
                ListOrder::OldestFirst => task > after,
                ListOrder::NewestFirst => task < after,
            })
        };
        match (filter, order) {
            (
                TaskFilter {
                    worker: Some(worker),
                    state: Some(TaskState::Running),
                    ..
                },
                _,
            ) => {
                let mut tasks: Vec<TaskId> =
                    self.leases_of(*worker).map(|lease| lease.task).collect();
                if order == ListOrder::NewestFirst {
                    tasks.reverse();
                }
                let tasks = tasks.into_iter().filter(|&task| is_beyond(task));
                collect(
                    tasks.filter_map(|task| self.tasks.get(task)),
                    |task| task.id,
                    matches,
                    limit,
                )
            }
            (TaskFilter { job: Some(job), .. }, ListOrder::OldestFirst) => {
                let range = self.jobs.get(*job).map(Job::task_range);
                let tasks = range.map(|range| {
                    let (first, last) = range.into_inner();
                    let next = after.map_or(first, |after| TaskId(after.0.saturating_add(1)));
                    self.tasks
                        .range(first.max(next)..=last.max(first.max(next)))
                });
                let of_job = tasks.into_iter().flatten().filter(|task| task.job == *job);
                collect(of_job, |task| task.id, matches, limit)
            }
            (TaskFilter { job: Some(job), .. }, ListOrder::NewestFirst) => {
                let range = self.jobs.get(*job).map(Job::task_range);
                let tasks = range.map(|range| {
                    let (first, last) = range.into_inner();
                    let end = TaskId(last.0.saturating_add(1));
                    let before = after.map_or(end, |after| after.min(end));
                    let tasks = self.tasks.iter_before(Some(before));
                    tasks.take_while(move |task| task.id >= first)
                });
                let of_job = tasks.into_iter().flatten().filter(|task| task.job == *job);
                collect(of_job, |task| task.id, matches, limit)
            }
            (TaskFilter { .. }, ListOrder::OldestFirst) => {
                collect(self.tasks.iter_after(after), |task| task.id, matches, limit)
            }
            (TaskFilter { .. }, ListOrder::NewestFirst) => collect(
                self.tasks.iter_before(after),
                |task| task.id,
                matches,
                limit,
            ),
        }
    }

    /// Returns the default queue and every other one that a task names or that has settings of its own, by name.
    pub fn queues(&self) -> impl Iterator<Item = QueueView<'_>> {
        let default = Some(QueueView {
            name: DEFAULT_QUEUE,
            settings: QueueSettings::default(),
            served: 0,
            counts: Counts::default(),
            oldest_ready_ms: None,
        });
        let default = default.filter(|default| !self.queues.contains_key(default.name));
        let before = self
            .index
            .queues
            .range::<str, _>((Bound::Unbounded, Bound::Excluded(DEFAULT_QUEUE)));
        let after = self
            .index
            .queues
            .range::<str, _>((Bound::Included(DEFAULT_QUEUE), Bound::Unbounded));
        before
            .map(|(_, (queue, _))| QueueView::of(queue))
            .chain(default)
            .chain(after.map(|(_, (queue, _))| QueueView::of(queue)))
    }

    /// Returns the number of queues that [`Table::queues`] returns.
    pub fn queues_len(&self) -> usize {
        let default = usize::from(!self.queues.contains_key(DEFAULT_QUEUE));
        self.queues.len() + default
    }

    /// Returns a queue that a task names or that has settings of its own.
    pub fn queue(&self, name: &str) -> Option<QueueView<'_>> {
        self.index.queue(name).map(QueueView::of)
    }
}

impl<'a> QueueView<'a> {
    fn of(queue: &'a QueueIndex) -> Self {
        Self {
            name: &queue.record.name,
            settings: queue.record.settings.clone(),
            served: queue.record.served,
            counts: queue.counts,
            oldest_ready_ms: queue.oldest_ready_ms(),
        }
    }
}

fn collect<'a, T, C: Copy>(
    mut records: impl Iterator<Item = &'a T>,
    id: impl Fn(&T) -> C,
    matches: impl Fn(&T) -> bool,
    limit: usize,
) -> ListPage<'a, T, C> {
    let mut items = Vec::new();
    let mut cursor = None;
    for record in records.by_ref().take(SCAN_MAX) {
        if items.len() == limit {
            return ListPage {
                items,
                next: cursor,
            };
        }
        cursor = Some(id(record));
        if matches(record) {
            items.push(record);
        }
    }
    let next = cursor.filter(|_| records.next().is_some());
    ListPage { items, next }
}
