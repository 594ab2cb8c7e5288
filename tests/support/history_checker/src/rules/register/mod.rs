//! Rule: linearizability. The operations on each task can be put into one order that explains every answer, and in
//! which an operation comes before all those that began after its end. The order is searched with porcupine.
//!
//! Each task is a separate register. The search is bounded in steps, and thereby in memory.
//! Sources: Herlihy and Wing; Wing and Gong's search as improved by Lowe; etcd's robustness tests.

mod model;

use std::collections::HashMap;

use porcupine_rs::{Operation, check_operations};

use crate::Bounds;
use crate::index::{HistoryIndex, TaskIndex};
use crate::record::{Consistency, JobState, Op, Outcome, Record, Status};
use crate::verdict::Findings;
use model::{Action, RestingStates, Step, Task, TaskTraits};

/// The rule, as listed in [`super::RULES`].
pub fn judge(indexed: &HistoryIndex<'_>, bounds: Bounds, findings: &mut Findings) {
    let of_jobs = of_jobs(indexed);
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut total = bounds.steps_total_max;
    for (id, task) in &indexed.tasks {
        let mut operations = Operations {
            is_retried: task.was_retried(indexed),
            ..Operations::default()
        };
        made(indexed, task, &mut operations);
        for at in of_jobs.get(task.job).into_iter().flatten() {
            of_job(indexed.record(*at), *at, &mut operations);
        }
        for at in &task.records {
            read_record(indexed.record(*at), *at, id, &mut numbers, &mut operations);
        }
        revived(indexed, id, task, &mut operations);
        let steps = bounds.steps_max.min(total);
        model::set_step_budget(steps);
        let explained = check_operations::<Task>(&operations.list);
        total -= steps - model::steps_left();
        if explained {
            continue;
        }
        let mut places = operations.places;
        places.sort_unstable();
        places.dedup();
        if model::steps_left() == 0 {
            findings.undecided(
                &places,
                format!(
                    "task {id}: no order of its {} operations was found within {} steps",
                    operations.list.len(),
                    steps
                ),
            );
        } else {
            findings.broken(
                &places,
                format!(
                    "task {id}: no order of its {} operations explains what they were answered",
                    operations.list.len()
                ),
            );
        }
    }
}

#[derive(Default)]
struct Operations {
    list: Vec<Operation<Task>>,
    places: Vec<usize>,
    /// Whether the task may run again after its end, so that the same act may take effect twice.
    is_retried: bool,
}

impl Operations {
    fn add(&mut self, record: &Record, at: usize, action: Action) {
        let unknown = record.outcome == Outcome::Unknown;
        self.places.push(at);
        // For a repeated request it makes no difference whether it takes effect once or several times, and the earliest
        // one stands for all. Each further one would double the search.
        if unknown && (action.is_done_once() || !self.is_retried) {
            let step = Step {
                action: action.clone(),
                unknown,
            };
            if let Some(same) = self.list.iter_mut().find(|one| one.op == step) {
                same.call_time = same.call_time.min(time(record.invoke_ns));
                return;
            }
        }
        self.list.push(Operation {
            client_id: None,
            call_time: time(record.invoke_ns),
            return_time: if unknown {
                i64::MAX
            } else {
                time(record.return_ns)
            },
            op: Step { action, unknown },
            metadata: None,
        });
    }
}

fn time(ns: u64) -> i64 {
    // Three hundred years in nanoseconds.
    i64::try_from(ns).unwrap_or(i64::MAX - 1)
}

/// Returns the operations that may have created the task: the submission whose answer contains its id, and all with the
/// same key.
fn made(indexed: &HistoryIndex<'_>, task: &TaskIndex<'_>, operations: &mut Operations) {
    let traits = TaskTraits {
        observed: task.spec.observed,
        ends_with_others: task.ends_with_others(),
        has_inputs: !task.spec.after.is_empty(),
        expires: task.spec.expires,
    };
    let Op::Submit { key, .. } = &indexed.record(task.acknowledged).op else {
        return;
    };
    let mut submissions = vec![task.acknowledged];
    if let Some(key) = key {
        submissions.extend(indexed.keys.get(key.as_str()).into_iter().flatten());
    }
    submissions.sort_unstable();
    submissions.dedup();
    for at in submissions {
        let record = indexed.record(at);
        if record.outcome != Outcome::Fail {
            operations.add(record, at, Action::Make(traits));
        }
    }
}

/// Operations on jobs, and reads of them.
fn of_jobs<'a>(indexed: &HistoryIndex<'a>) -> HashMap<&'a str, Vec<usize>> {
    let mut records: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, record) in indexed.history.records.iter().enumerate() {
        if let Op::CancelJob { job } | Op::ReadJob { job, .. } = &record.op {
            records.entry(job).or_default().push(at);
        }
    }
    records
}

fn of_job(record: &Record, at: usize, operations: &mut Operations) {
    match &record.op {
        Op::CancelJob { .. } if record.outcome != Outcome::Fail => {
            operations.add(record, at, Action::CancelJob);
        }
        Op::ReadJob {
            consistency: Consistency::Linearizable,
            seen: Some(seen),
            ..
        } if record.outcome == Outcome::Ok => {
            let places = match seen {
                JobState::Running => return,
                JobState::Succeeded => RestingStates::SUCCEEDED,
                JobState::Cancelled => RestingStates::SUCCEEDED.or(RestingStates::CANCELLED),
                JobState::Failed => RestingStates::ENDED,
            };
            operations.add(record, at, Action::Ended(places));
        }
        _ => {}
    }
}

fn read_record<'a>(
    record: &'a Record,
    at: usize,
    id: &str,
    numbers: &mut HashMap<&'a str, u32>,
    operations: &mut Operations,
) {
    let mut number = |result: Option<&'a str>| {
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        *numbers.entry(result.unwrap_or("null")).or_insert(next)
    };
    match (&record.op, record.outcome) {
        (Op::CancelTask { .. }, Outcome::Ok | Outcome::Unknown) => {
            operations.add(record, at, Action::Cancel);
        }
        (Op::CancelTask { .. }, Outcome::Fail)
            if record.why.as_deref() == Some("already_finished") =>
        {
            operations.add(record, at, Action::CancelRefused);
        }
        (Op::RetryTask { .. }, Outcome::Ok | Outcome::Unknown) => {
            operations.add(record, at, Action::Retry);
        }
        (Op::Poll { leases, .. }, Outcome::Ok) => {
            for lease in leases.iter().filter(|lease| lease.task == id) {
                let action = Action::Lease {
                    attempt: lease.attempt,
                    token: lease.token,
                };
                operations.add(record, at, action);
            }
        }
        (Op::Report { results, .. }, Outcome::Ok | Outcome::Unknown) => {
            for one in results.iter().filter(|one| one.task == id) {
                let (attempt, token, status) = (one.attempt, one.token, one.status);
                let taken = one.accepted == Some(true) || record.outcome == Outcome::Unknown;
                let action = if taken {
                    let result =
                        (status == Status::Succeeded).then(|| number(one.result.as_deref()));
                    Action::Accepted {
                        attempt,
                        token,
                        status,
                        result,
                    }
                } else {
                    Action::Refused {
                        attempt,
                        token,
                        status,
                        missing: one.code.as_deref() == Some("not_found"),
                    }
                };
                operations.add(record, at, action);
            }
        }
        (
            Op::ReadTask {
                consistency: Consistency::Linearizable,
                seen,
                ..
            },
            Outcome::Ok,
        ) => {
            let action = match seen {
                None => Action::Missing,
                Some(seen) => {
                    let latest = seen.attempts.iter().find(|one| one.attempt == seen.attempt);
                    let succeeded = seen.state == crate::record::TaskState::Succeeded;
                    Action::Read {
                        state: seen.state,
                        attempt: seen.attempt,
                        token: latest.map(|one| one.token),
                        result: succeeded.then(|| number(seen.result.as_deref())),
                    }
                }
            };
            operations.add(record, at, action);
        }
        _ => {}
    }
}

/// Returns the requested retries of other tasks of the job, which may retry this task too.
fn revived(
    indexed: &HistoryIndex<'_>,
    id: &str,
    task: &TaskIndex<'_>,
    operations: &mut Operations,
) {
    if !task.ends_with_others() {
        return;
    }
    for other in task.siblings.iter().filter_map(|one| one.id.as_deref()) {
        if other == id {
            continue;
        }
        for at in indexed
            .tasks
            .get(other)
            .into_iter()
            .flat_map(|one| &one.records)
        {
            let record = indexed.record(*at);
            if matches!(record.op, Op::RetryTask { .. }) && record.outcome != Outcome::Fail {
                operations.add(record, *at, Action::RetryOfAnother);
            }
        }
    }
}
