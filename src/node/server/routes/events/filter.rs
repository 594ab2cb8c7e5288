//! Filter of an event stream.

use triarch_sdk::wire;
use triarch_table::types::state::{JobState, TaskState};
use triarch_table::{JobId, TaskId};

use crate::feed::{EventRecord, TaskRef};
use crate::server::protocol::problem::Problem;
use crate::server::protocol::query::Query;
use crate::server::protocol::validate;
use crate::server::routes::present;

/// Maximum number of values of one filter field.
const VALUES_MAX: usize = 100;

/// Filter of events. An empty part lets every event pass; any other names values, of which an event must have one.
#[derive(Debug, Default)]
pub struct Filter {
    queues: Vec<String>,
    jobs: Vec<JobId>,
    tasks: Vec<TaskId>,
    states: Vec<TaskState>,
    types: Vec<&'static str>,
}

/// Attributes of an event that can be filtered by.
#[derive(Default)]
struct EventAttributes<'a> {
    queue: Option<&'a str>,
    job: Option<JobId>,
    task: Option<TaskId>,
    state: Option<TaskState>,
}

impl Filter {
    /// Parses a filter from a query.
    pub fn read(query: &Query) -> Result<Self, Problem> {
        Ok(Self {
            queues: parse_list(query, "queue", |value| {
                validate::name("queue", value)?;
                Ok(value.to_owned())
            })?,
            jobs: parse_list(query, "job", |value| {
                let id = value.parse();
                id.map_err(|_| Problem::invalid("job", "must be the ids of jobs"))
            })?,
            tasks: parse_list(query, "task", |value| {
                let id = value.parse();
                id.map_err(|_| Problem::invalid("task", "must be the ids of tasks"))
            })?,
            states: parse_list(query, "state", present::parse_task_state)?,
            types: parse_list(query, "type", |value| {
                let known = wire::event::EventDetail::TYPES;
                let found = known.iter().copied().find(|known| *known == value);
                found.ok_or_else(|| {
                    Problem::invalid("type", format!("must be of {}", known.join(", ")))
                })
            })?,
        })
    }

    /// Returns whether an event of this type matches.
    pub fn matches(&self, value: &str, record: &EventRecord) -> bool {
        if !self.types.is_empty() && !self.types.contains(&value) {
            return false;
        }
        let attributes = EventAttributes::of(record);
        matches_any(&self.jobs, attributes.job.as_ref())
            && matches_any(&self.tasks, attributes.task.as_ref())
            && matches_any(&self.states, attributes.state.as_ref())
            && (self.queues.is_empty()
                || attributes
                    .queue
                    .is_some_and(|queue| self.queues.iter().any(|asked| asked == queue)))
    }
}

fn matches_any<T: PartialEq>(asked: &[T], there: Option<&T>) -> bool {
    asked.is_empty() || there.is_some_and(|there| asked.contains(there))
}

fn parse_list<T>(
    query: &Query,
    name: &str,
    read: impl Fn(&str) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let Some(text) = query.text(name) else {
        return Ok(Vec::new());
    };
    if text.split(',').count() > VALUES_MAX {
        return Err(Problem::invalid(
            name,
            format!("names more than {VALUES_MAX}"),
        ));
    }
    text.split(',').map(read).collect()
}

impl<'a> EventAttributes<'a> {
    fn of(record: &'a EventRecord) -> Self {
        match record {
            EventRecord::JobSubmitted { job, .. } => Self {
                job: Some(*job),
                ..Self::default()
            },
            EventRecord::JobFinished { job, state, .. } => Self {
                job: Some(*job),
                state: Some(match state {
                    JobState::Running => TaskState::Running,
                    JobState::Succeeded => TaskState::Succeeded,
                    JobState::Failed => TaskState::Failed,
                    JobState::Cancelled => TaskState::Cancelled,
                }),
                ..Self::default()
            },
            EventRecord::TaskChanged { task, state, .. } => Self {
                state: Some(*state),
                ..Self::of_task(task)
            },
            EventRecord::LeaseGranted { task, .. } | EventRecord::LeaseEnded { task, .. } => {
                Self::of_task(task)
            }
            EventRecord::WorkerRegistered { .. }
            | EventRecord::WorkerDraining { .. }
            | EventRecord::WorkerLost { .. }
            | EventRecord::WorkerLeft { .. }
            | EventRecord::ScheduleChanged { .. }
            | EventRecord::Restored
            | EventRecord::TimeSetBack { .. }
            | EventRecord::WorkerChanged { .. } => Self::default(),
            EventRecord::QueueChanged { queue } => Self {
                queue: Some(queue),
                ..Self::default()
            },
            EventRecord::ScheduleTicked { job, .. } => Self {
                job: *job,
                ..Self::default()
            },
        }
    }

    fn of_task(about: &'a TaskRef) -> Self {
        Self {
            queue: about.class.as_ref().map(|class| &*class.queue),
            job: about.job,
            task: Some(about.task),
            state: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use triarch_table::WorkerId;

    use super::*;

    fn filter(query: &str) -> Result<Filter, Problem> {
        let names = ["queue", "job", "task", "state", "type"];
        Filter::read(&Query::parse(Some(query), &names).expect("known names"))
    }

    fn changed(state: TaskState) -> EventRecord {
        EventRecord::TaskChanged {
            task: TaskRef {
                task: TaskId::at(5, 1),
                job: Some(JobId::at(5, 0)),
                class: None,
            },
            state,
            lease: None,
        }
    }

    #[test]
    fn an_event_matches_if_it_has_one_value_of_each_given_field() {
        let event = changed(TaskState::Queued);
        for (query, expected) in [
            ("", true),
            ("job=j5-0", true),
            ("job=j4-0,j5-0&state=queued,running", true),
            ("task=t5-1&type=task_changed,job_finished", true),
            ("job=j4-0", false),
            ("state=running", false),
            ("job=j5-0&state=running", false),
            ("type=job_finished", false),
            ("queue=default", false),
        ] {
            let filter = filter(query).expect("valid");
            assert_eq!(
                filter.matches("task_changed", &event),
                expected,
                "{query:?}"
            );
        }
        let worker = EventRecord::WorkerLeft {
            worker: WorkerId::at(1, 0),
            name: None,
        };
        assert!(
            !filter("state=running")
                .expect("valid")
                .matches("worker_left", &worker),
            "it has no state to have"
        );
    }

    #[test]
    fn a_filter_with_an_unknown_value_is_refused() {
        for query in [
            "job=5",
            "task=j5-0",
            "state=asleep",
            "type=explosion",
            "queue=",
            "state=queued,",
            &format!("queue={}", "a,".repeat(200)),
        ] {
            assert!(filter(query).is_err(), "{query}");
        }
    }
}
