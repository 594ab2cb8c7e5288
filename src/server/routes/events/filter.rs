//! Which events a reader asked for.

use triarch_sdk::wire;
use triarch_table::types::state::{JobState, TaskState};
use triarch_table::{JobId, TaskId};

use crate::feed::{About, Happened};
use crate::server::protocol::json;
use crate::server::protocol::json::Query;
use crate::server::protocol::problem::Problem;
use crate::server::routes::tasks;

/// Most words of one filter.
const WORDS_MAX: usize = 100;

/// Each part is either empty, which lets everything through, or names what an event must have one of.
#[derive(Debug, Default)]
pub struct Filter {
    queues: Vec<String>,
    jobs: Vec<JobId>,
    tasks: Vec<TaskId>,
    states: Vec<TaskState>,
    types: Vec<&'static str>,
}

/// What there is to filter by.
#[derive(Default)]
struct Traits<'a> {
    queue: Option<&'a str>,
    job: Option<JobId>,
    task: Option<TaskId>,
    state: Option<TaskState>,
}

impl Filter {
    /// Reads it from a query.
    pub fn read(query: &Query) -> Result<Self, Problem> {
        Ok(Self {
            queues: words(query, "queue", |word| {
                json::name("queue", word)?;
                Ok(word.to_owned())
            })?,
            jobs: words(query, "job", |word| {
                let id = word.parse();
                id.map_err(|_| Problem::invalid("job", "must be the ids of jobs"))
            })?,
            tasks: words(query, "task", |word| {
                let id = word.parse();
                id.map_err(|_| Problem::invalid("task", "must be the ids of tasks"))
            })?,
            states: words(query, "state", tasks::task_state)?,
            types: words(query, "type", |word| {
                let known = wire::event::Happened::TYPES;
                let found = known.iter().copied().find(|known| *known == word);
                found.ok_or_else(|| {
                    Problem::invalid("type", format!("must be of {}", known.join(", ")))
                })
            })?,
        })
    }

    /// Whether an event that is told as this type is asked for.
    pub fn lets_through(&self, word: &str, happened: &Happened) -> bool {
        if !self.types.is_empty() && !self.types.contains(&word) {
            return false;
        }
        let traits = Traits::of(happened);
        has_one(&self.jobs, traits.job.as_ref())
            && has_one(&self.tasks, traits.task.as_ref())
            && has_one(&self.states, traits.state.as_ref())
            && (self.queues.is_empty()
                || traits
                    .queue
                    .is_some_and(|queue| self.queues.iter().any(|asked| asked == queue)))
    }
}

fn has_one<T: PartialEq>(asked: &[T], there: Option<&T>) -> bool {
    asked.is_empty() || there.is_some_and(|there| asked.contains(there))
}

fn words<T>(
    query: &Query,
    name: &str,
    read: impl Fn(&str) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let Some(text) = query.text(name) else {
        return Ok(Vec::new());
    };
    if text.split(',').count() > WORDS_MAX {
        return Err(Problem::invalid(
            name,
            format!("names more than {WORDS_MAX}"),
        ));
    }
    text.split(',').map(read).collect()
}

impl<'a> Traits<'a> {
    fn of(happened: &'a Happened) -> Self {
        match happened {
            Happened::JobSubmitted { job, .. } => Self {
                job: Some(*job),
                ..Self::default()
            },
            Happened::JobFinished { job, state, .. } => Self {
                job: Some(*job),
                state: Some(match state {
                    JobState::Running => TaskState::Running,
                    JobState::Succeeded => TaskState::Succeeded,
                    JobState::Failed => TaskState::Failed,
                    JobState::Cancelled => TaskState::Cancelled,
                }),
                ..Self::default()
            },
            Happened::TaskChanged { task, state, .. } => Self {
                state: Some(*state),
                ..Self::of_task(task)
            },
            Happened::LeaseGranted { task, .. } | Happened::LeaseEnded { task, .. } => {
                Self::of_task(task)
            }
            Happened::WorkerRegistered { .. }
            | Happened::WorkerDraining { .. }
            | Happened::WorkerLost { .. }
            | Happened::WorkerLeft { .. }
            | Happened::ScheduleChanged { .. }
            | Happened::Restored
            | Happened::WorkerChanged { .. } => Self::default(),
            Happened::QueueChanged { queue } => Self {
                queue: Some(queue),
                ..Self::default()
            },
            Happened::ScheduleTicked { job, .. } => Self {
                job: *job,
                ..Self::default()
            },
        }
    }

    fn of_task(about: &'a About) -> Self {
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
        Filter::read(&Query::read(Some(query), &names).expect("known names"))
    }

    fn changed(state: TaskState) -> Happened {
        Happened::TaskChanged {
            task: About {
                task: TaskId::at(5, 1),
                job: Some(JobId::at(5, 0)),
                class: None,
            },
            state,
            lease: None,
        }
    }

    #[test]
    fn an_event_must_have_one_of_each_that_is_asked_for() {
        let event = changed(TaskState::Queued);
        for (query, through) in [
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
                filter.lets_through("task_changed", &event),
                through,
                "{query:?}"
            );
        }
        let worker = Happened::WorkerLeft {
            worker: WorkerId::at(1, 0),
            name: None,
        };
        assert!(
            !filter("state=running")
                .expect("valid")
                .lets_through("worker_left", &worker),
            "it has no state to have"
        );
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
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
