//! Filters of the list of tasks, which combine: a task must match all of them.

use triarch_sdk::wire;
use triarch_table::records::task::Task;
use triarch_table::types::state::TaskState;
use triarch_table::{ListOrder, ListPage, Table, TaskFilter, TaskId};

use crate::server::protocol::problem::Problem;
use crate::server::protocol::query::Query;
use crate::server::routes::present;
use crate::server::routes::task_view::error_type;

/// Parameters of the list of tasks.
pub const PARAMETERS: [&str; 15] = [
    "queue",
    "state",
    "kind",
    "worker",
    "tag",
    "name",
    "error_type",
    "submitted_after",
    "submitted_before",
    "ended_after",
    "ended_before",
    "order",
    "limit",
    "after",
    "fields",
];

/// Filters of a list of tasks, and its order.
#[derive(Debug, Default)]
pub struct TaskFilters {
    /// Filters that the table knows.
    filter: TaskFilter,
    /// States of which the task must be in one; empty for any.
    states: Vec<TaskState>,
    name: Option<String>,
    error_type: Option<String>,
    submitted: TimeRange,
    ended: TimeRange,
    order: ListOrder,
}

/// Times from one moment until before another.
#[derive(Debug, Clone, Copy, Default)]
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

impl TaskFilters {
    /// Reads the filters of a query.
    pub fn parse(query: &Query) -> Result<Self, Problem> {
        let states = match query.text("state") {
            None => Vec::new(),
            Some(text) => {
                let states = text.split(',').map(present::parse_task_state);
                states.collect::<Result<Vec<TaskState>, Problem>>()?
            }
        };
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
            error_type: text("error_type"),
            submitted: TimeRange::parse(query, "submitted_after", "submitted_before")?,
            ended: TimeRange::parse(query, "ended_after", "ended_before")?,
            order: match query.text("order") {
                None | Some("asc") => ListOrder::OldestFirst,
                Some("desc") => ListOrder::NewestFirst,
                Some(_) => {
                    return Err(Problem::invalid(
                        "order",
                        "must be asc (the default) or desc, newest first",
                    ));
                }
            },
        })
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
            && self.error_type.as_deref().is_none_or(|wanted| {
                task.error().and_then(|error| error_type(error)).as_deref() == Some(wanted)
            })
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
