//! Filters of the lists of tasks and jobs, and of bulk changes. They combine: an item must match all of them. Also counts
//! of lists.

use triarch_sdk::wire;
use triarch_table::query::list::SCAN_MAX;
use triarch_table::records::job::Job;
use triarch_table::records::task::Task;
use triarch_table::types::state::{JobState, TaskState};
use triarch_table::{JobFilter, JobId, ListOrder, ListPage, Table, TaskFilter, TaskId};

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;
use crate::server::routes::present;
use crate::server::routes::task_view::error_type;

/// Parameters of the list of tasks.
pub const TASK_PARAMETERS: [&str; 17] = [
    "queue",
    "state",
    "kind",
    "worker",
    "tag",
    "name",
    "schedule",
    "error_type",
    "submitted_after",
    "submitted_before",
    "ended_after",
    "ended_before",
    "order",
    "count",
    "limit",
    "after",
    "fields",
];

/// Parameters of the list of jobs.
pub const JOB_PARAMETERS: [&str; 14] = [
    "state",
    "name",
    "queue",
    "kind",
    "tag",
    "schedule",
    "submitted_after",
    "submitted_before",
    "ended_after",
    "ended_before",
    "order",
    "count",
    "limit",
    "after",
];

/// Beginning of the idempotency keys of the jobs of a schedule's ticks.
const TICK_KEY_PREFIX: &str = "schedule:";

/// Filters of a list of tasks, and its order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskFilters {
    /// Filters that the table knows.
    filter: TaskFilter,
    /// States of which the task must be in one; empty for any.
    states: Vec<TaskState>,
    name: Option<String>,
    schedule: Option<String>,
    error_type: Option<String>,
    submitted: TimeRange,
    ended: TimeRange,
    order: ListOrder,
}

/// Times from one moment until before another.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct TimeRange {
    from_ms: Option<u64>,
    before_ms: Option<u64>,
}

impl TimeRange {
    fn parse(query: &Query, from: &str, before: &str) -> Result<Self, Problem> {
        Ok(Self {
            from_ms: time(query, from)?,
            before_ms: time(query, before)?,
        })
    }

    fn is_open(self) -> bool {
        self.from_ms.is_none() && self.before_ms.is_none()
    }

    fn contains(self, ms: u64) -> bool {
        self.from_ms.is_none_or(|from| ms >= from)
            && self.before_ms.is_none_or(|before| ms < before)
    }
}

/// Reads the states that an item may be in; empty for any.
fn states<S>(query: &Query, parse: impl Fn(&str) -> Result<S, Problem>) -> Result<Vec<S>, Problem> {
    let text = query.text("state");
    text.map_or_else(
        || Ok(Vec::new()),
        |text| text.split(',').map(parse).collect(),
    )
}

impl TaskFilters {
    /// Reads the filters of a query.
    pub fn parse(query: &Query) -> Result<Self, Problem> {
        let states = states(query, present::parse_task_state)?;
        let text = |name: &str| query.text(name).map(str::to_string);
        Ok(Self {
            filter: TaskFilter {
                queue: text("queue"),
                state: match states[..] {
                    [state] => Some(state),
                    _ => None,
                },
                kind: text("kind"),
                worker: query.parsed("worker", "a worker's id")?,
                job: None,
                tag: text("tag"),
            },
            states,
            name: text("name"),
            schedule: text("schedule"),
            error_type: text("error_type"),
            submitted: TimeRange::parse(query, "submitted_after", "submitted_before")?,
            ended: TimeRange::parse(query, "ended_after", "ended_before")?,
            order: order(query, ListOrder::OldestFirst)?,
        })
    }

    /// Reads the filters of a selection for a bulk change.
    pub fn of_selection(selection: wire::TaskSelection) -> Result<Self, Problem> {
        let id = |field: &str| Problem::invalid(field, "is not an id of this kind");
        let worker = selection.worker.map(|worker| worker.parse());
        let job = selection.job.map(|job| job.parse());
        let range = |from: Option<wire::Timestamp>, before: Option<wire::Timestamp>| TimeRange {
            from_ms: from.map(wire::Timestamp::unix_ms),
            before_ms: before.map(wire::Timestamp::unix_ms),
        };
        Ok(Self {
            filter: TaskFilter {
                queue: selection.queue,
                state: selection.state.map(present::task_state_from_wire),
                kind: selection.kind,
                worker: worker.transpose().map_err(|_| id("worker"))?,
                job: job.transpose().map_err(|_| id("job"))?,
                tag: selection.tag,
            },
            states: Vec::new(),
            name: selection.name,
            schedule: selection.schedule,
            error_type: selection.error_type,
            submitted: range(selection.submitted_after, selection.submitted_before),
            ended: range(selection.ended_after, selection.ended_before),
            order: ListOrder::OldestFirst,
        })
    }

    /// Returns the filters of a queue's tasks.
    pub fn of_queue(queue: String) -> Self {
        Self {
            filter: TaskFilter {
                queue: Some(queue),
                ..TaskFilter::default()
            },
            ..Self::default()
        }
    }

    /// Returns the one state that tasks must be in, if there is one.
    pub fn state(&self) -> Option<TaskState> {
        self.filter.state
    }

    /// Returns the same filters for tasks in this state.
    pub fn with_state(mut self, state: TaskState) -> Self {
        self.filter.state = Some(state);
        self.states.clear();
        self
    }

    /// Returns the tasks that match, beyond a cursor.
    pub fn tasks<'a>(
        &self,
        table: &'a Table,
        after: Option<TaskId>,
        limit: usize,
    ) -> ListPage<'a, Task, TaskId> {
        let matches = |task: &Task| self.matches(table, task);
        table.tasks_where(&self.filter, self.order, after, limit, matches)
    }

    /// Returns whether a task matches what the table does not filter by.
    fn matches(&self, table: &Table, task: &Task) -> bool {
        let ended = || task.finished_ms().is_some_and(|ms| self.ended.contains(ms));
        (self.states.is_empty() || self.states.contains(&task.state()))
            && self.submitted.contains(task.created_ms)
            && (self.ended.is_open() || ended())
            && self
                .name
                .as_deref()
                .is_none_or(|name| table.job(task.job).is_some_and(|job| &*job.name == name))
            && self
                .schedule
                .as_deref()
                .is_none_or(|name| table.job(task.job).is_some_and(|job| is_of(job, name)))
            && self.error_type.as_deref().is_none_or(|wanted| {
                task.error().and_then(|error| error_type(error)).as_deref() == Some(wanted)
            })
    }
}

impl TaskFilters {
    /// Returns the number of tasks that match, if it is known without a search.
    fn known_count(&self, table: &Table) -> Option<u64> {
        let others = Self {
            filter: TaskFilter {
                queue: None,
                state: None,
                ..self.filter.clone()
            },
            states: Vec::new(),
            order: ListOrder::default(),
            ..self.clone()
        };
        if others != Self::default() {
            return None;
        }
        let counts = match &self.filter.queue {
            Some(queue) => table.queue(queue).map(|queue| queue.counts)?,
            None => *table.counts(),
        };
        let all = TaskState::ALL.into_iter();
        let states = all.filter(|state| self.states.is_empty() || self.states.contains(state));
        Some(states.map(|state| counts.of(state)).sum())
    }
}

/// Filters of a list of jobs, and its order.
#[derive(Debug, Default)]
pub struct JobFilters {
    filter: JobFilter,
    states: Vec<JobState>,
    queue: Option<String>,
    kind: Option<String>,
    tag: Option<String>,
    schedule: Option<String>,
    submitted: TimeRange,
    ended: TimeRange,
    order: ListOrder,
}

impl JobFilters {
    /// Reads the filters of a query.
    pub fn parse(query: &Query) -> Result<Self, Problem> {
        let states = states(query, present::parse_job_state)?;
        let text = |name: &str| query.text(name).map(str::to_string);
        Ok(Self {
            filter: JobFilter {
                state: None,
                name: text("name"),
            },
            states,
            queue: text("queue"),
            kind: text("kind"),
            tag: text("tag"),
            schedule: text("schedule"),
            submitted: TimeRange::parse(query, "submitted_after", "submitted_before")?,
            ended: TimeRange::parse(query, "ended_after", "ended_before")?,
            order: order(query, ListOrder::NewestFirst)?,
        })
    }

    /// Returns the jobs that match, beyond a cursor.
    pub fn jobs<'a>(
        &self,
        table: &'a Table,
        after: Option<JobId>,
        limit: usize,
    ) -> ListPage<'a, Job, JobId> {
        let matches = |job: &Job| self.matches(table, job);
        table.jobs_where(&self.filter, self.order, after, limit, matches)
    }

    fn matches(&self, table: &Table, job: &Job) -> bool {
        let first_task =
            |matches: &dyn Fn(&Task) -> bool| table.task(job.first_task).is_some_and(matches);
        let ended = || job.finished_ms.is_some_and(|ms| self.ended.contains(ms));
        (self.states.is_empty() || self.states.contains(&job.state()))
            && self.submitted.contains(job.created_ms)
            && (self.ended.is_open() || ended())
            && self
                .queue
                .as_deref()
                .is_none_or(|queue| &*job.queue == queue)
            && self.schedule.as_deref().is_none_or(|name| is_of(job, name))
            && self
                .kind
                .as_deref()
                .is_none_or(|kind| first_task(&|task| task.kind() == kind))
            && self
                .tag
                .as_ref()
                .is_none_or(|tag| first_task(&|task| task.spec.policy.tags.contains(tag)))
    }
}

/// Returns the number of all tasks that match, if the query asks for it.
pub async fn count_tasks(
    app: &App,
    query: &Query,
    filters: &TaskFilters,
) -> Result<Option<u64>, HandlerError> {
    if !is_count_wanted(query)? {
        return Ok(None);
    }
    if let Some(known) = filters.known_count(&app.table.read()) {
        return Ok(Some(known));
    }
    let next = |table: &Table, after| {
        let found = filters.tasks(table, after, SCAN_MAX);
        (found.items.len(), found.next)
    };
    count(app, next).await.map(Some)
}

/// Returns the number of all jobs that match, if the query asks for it.
pub async fn count_jobs(
    app: &App,
    query: &Query,
    filters: &JobFilters,
) -> Result<Option<u64>, HandlerError> {
    if !is_count_wanted(query)? {
        return Ok(None);
    }
    let next = |table: &Table, after| {
        let found = filters.jobs(table, after, SCAN_MAX);
        (found.items.len(), found.next)
    };
    count(app, next).await.map(Some)
}

fn is_count_wanted(query: &Query) -> Result<bool, Problem> {
    let wanted = query.parsed::<bool>("count", "true or false")?;
    Ok(wanted.unwrap_or_default())
}

/// Counts piece by piece, so that changes of the table wait for one piece at most. One count runs at a time, because its
/// cost grows with the table.
async fn count<C: Copy>(
    app: &App,
    next: impl Fn(&Table, Option<C>) -> (usize, Option<C>),
) -> Result<u64, HandlerError> {
    let permit = app.count_permit.acquire().await;
    let _permit = permit.map_err(|_| Problem::new(Code::Unavailable, "this node is stopping"))?;
    let (mut count, mut after) = (0, None);
    loop {
        let (found, next) = next(&app.table.read(), after);
        count += found as u64;
        if next.is_none() {
            return Ok(count);
        }
        after = next;
        tokio::task::yield_now().await;
    }
}

/// Returns whether a job was made by a tick of this schedule.
fn is_of(job: &Job, schedule: &str) -> bool {
    let tick = job.idempotency.as_ref().and_then(|idempotency| {
        let key = idempotency.key.strip_prefix(TICK_KEY_PREFIX)?;
        key.strip_prefix(schedule)?.strip_prefix(':')
    });
    // The name of another schedule may begin with this one and a colon.
    tick.is_some_and(|tick| chrono::DateTime::parse_from_rfc3339(tick).is_ok())
}

fn order(query: &Query, default: ListOrder) -> Result<ListOrder, Problem> {
    match query.text("order") {
        None => Ok(default),
        Some("asc") => Ok(ListOrder::OldestFirst),
        Some("desc") => Ok(ListOrder::NewestFirst),
        Some(_) => Err(Problem::invalid(
            "order",
            "must be asc, the oldest first, or desc, the newest first",
        )),
    }
}

fn time(query: &Query, name: &str) -> Result<Option<u64>, Problem> {
    let Some(text) = query.text(name) else {
        return Ok(None);
    };
    let deserializer = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text);
    let time: wire::Timestamp = serde::Deserialize::deserialize(deserializer)
        .map_err(|_| Problem::invalid(name, "must be a time, such as 2026-11-23T10:00:00Z"))?;
    Ok(Some(time.unix_ms()))
}
