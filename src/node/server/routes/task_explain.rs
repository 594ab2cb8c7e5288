//! `/v1/tasks/{id}/explain`: why a task is not running yet, as messages and as fields.

use axum::extract::{Path, State};
use triarch_sdk::wire;
use triarch_table::command::DependencyCondition;
use triarch_table::command::reply::Refusal;
use triarch_table::query::explain::{ClosestWorker, Lack, Reason};
use triarch_table::types::state::TaskState;
use triarch_table::{Table, Task, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::problem::Problem;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate;
use crate::server::routes::extractors::{NoQuery, ReadIndex};
use crate::server::routes::present;
use crate::server::routes::task_view;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(explain))
}

/// Explains why a task does not run yet.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/explain",
    tag = "tasks",
    params(("id" = String, Path, description = "Id of the task."), wire::ReadQuery),
    responses((status = 200, description = "All reasons why the task does not run.", body = wire::Explanation))
)]
async fn explain(
    State(app): State<App>,
    Path(id): Path<String>,
    _: NoQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let id: TaskId = validate::parse_id("task", &id)?;
    let now_ms = app.clock.now_ms();
    let table = app.table.read();
    let found = table.task(id).zip(table.explain(id, now_ms));
    let (task, reasons) = found.ok_or_else(|| Problem::from(Refusal::TaskNotFound(id)))?;
    let reasons: Vec<wire::Reason> = reasons
        .into_iter()
        .map(|reason| reason_to_wire(&table, task, reason))
        .collect();
    let messages: Vec<&str> = reasons.iter().map(|reason| &*reason.message).collect();
    ApiResponse::from_table(
        &table,
        index,
        &wire::Explanation {
            task: id.to_string(),
            state: present::task_state(task.state()),
            summary: messages.join("; "),
            reasons,
        },
    )
}

fn reason_to_wire(table: &Table, task: &Task, reason: Reason) -> wire::Reason {
    let queue = task.queue();
    let mut fields = wire::Reason::default();
    let (code, message) = match reason {
        Reason::Finished { state } => {
            let verb = if state == TaskState::Cancelled {
                "was"
            } else {
                "has"
            };
            ("finished", format!("it {verb} {}", state.as_str()))
        }
        Reason::Running { worker } => {
            fields.worker = Some(worker.to_string());
            let name = table.worker(worker).map_or("", |worker| &worker.name);
            ("running", format!("it runs on worker {worker} ({name})"))
        }
        Reason::Dependencies {
            tasks: firsts,
            count,
        } => {
            let conditional = firsts
                .iter()
                .any(|(_, when)| *when != DependencyCondition::Succeeded);
            fields.tasks = Some(firsts.iter().map(|(first, _)| first.to_string()).collect());
            fields.count = Some(u64::from(count));
            let keys = task_view::after_of(table, firsts.into_iter());
            let keys: Vec<String> = keys.iter().map(wire::After::to_string).collect();
            let more = match count as usize - keys.len().min(count as usize) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let keys = keys.join(", ");
            let end = match conditional {
                true => "ended in the way that it waits for",
                false => "succeeded",
            };
            (
                "dependencies",
                format!("it waits for {keys}{more}, which have not {end} yet"),
            )
        }
        Reason::Jobs { jobs } => {
            fields.jobs = Some(jobs.iter().map(|(job, _)| job.to_string()).collect());
            let jobs: Vec<String> = jobs
                .into_iter()
                .map(|(job, when)| {
                    let when = present::condition_to_wire(when);
                    wire::After::when(job.to_string(), when).to_string()
                })
                .collect();
            let jobs = jobs.join(", ");
            ("jobs", format!("its job waits for {jobs}"))
        }
        Reason::Delayed { until_ms, failures } => {
            let until = wire::Timestamp::from_unix_ms(until_ms);
            fields.until = Some(until);
            match failures {
                0 => ("delayed", format!("it is delayed until {until}")),
                failures => (
                    "backoff",
                    format!("{failures} attempts failed; the next one is due at {until}"),
                ),
            }
        }
        Reason::QueuePaused => (
            "queue_paused",
            format!("queue {queue} is paused; resume it with: triarch queue resume {queue}"),
        ),
        Reason::QueueAtMaxRunning { max_running } => {
            fields.limit = Some(u64::from(max_running));
            (
                "queue_max_running",
                format!("queue {queue} runs {max_running} tasks, its limit"),
            )
        }
        Reason::RateLimited { until_ms } => {
            let until = wire::Timestamp::from_unix_ms(until_ms);
            fields.until = Some(until);
            (
                "queue_rate",
                format!("the rate of queue {queue} allows the next task to start at {until}"),
            )
        }
        Reason::ConcurrencyKey {
            key,
            limit,
            running,
            ahead,
        } => {
            fields.key = Some(key.to_string());
            fields.limit = Some(u64::from(limit));
            fields.count = Some(u64::from(running) + ahead);
            (
                "concurrency_key",
                format!(
                    "at most {limit} tasks with concurrency key {key} run at once: {running} run now, and {ahead} are ahead of it"
                ),
            )
        }
        Reason::NoWorker(lack) => no_worker(table, task, lack),
        Reason::WorkersBusy { workers } => {
            fields.count = Some(workers);
            (
                "workers_busy",
                format!("{workers} workers accept it, and none has a free slot and the resources"),
            )
        }
        Reason::Ready { workers } => {
            fields.count = Some(workers);
            (
                "ready",
                format!(
                    "it is ready: {workers} workers have a free slot for it, and the next one that polls gets it"
                ),
            )
        }
    };
    wire::Reason {
        code: code.to_string(),
        message,
        ..fields
    }
}

fn no_worker(table: &Table, task: &Task, lack: Lack) -> (&'static str, String) {
    let (queue, kind) = (task.queue(), task.kind());
    match lack {
        Lack::Anyone => (
            "no_worker",
            "no worker takes tasks: start one with triarch worker, or see triarch worker list"
                .to_string(),
        ),
        Lack::Queue => (
            "no_worker_for_queue",
            format!("no worker takes tasks from queue {queue}: start one with --queues {queue}"),
        ),
        Lack::Kind => (
            "no_worker_for_kind",
            format!("no worker of queue {queue} takes tasks of kind {kind}"),
        ),
        Lack::Labels { missing, closest } => {
            let labels: Vec<String> = missing
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let what = match labels.is_empty() {
                true => {
                    "no worker of its queue and kind has all the labels it requires".to_string()
                }
                false => format!(
                    "no worker of its queue and kind has the label {}: start one with --label {}",
                    labels.join(", "),
                    labels.join(" --label ")
                ),
            };
            let lacks = |name: &String| {
                let wanted = task.spec.class.requires.labels.get(name)?;
                let has = table.worker(closest.worker)?.profile.labels.get(name);
                Some(match has {
                    Some(has) => format!("has {name}={has} in place of {name}={wanted}"),
                    None => format!("lacks {name}={wanted}"),
                })
            };
            let lacks: Vec<String> = closest.lacks.iter().filter_map(lacks).collect();
            (
                "no_worker_with_labels",
                format!(
                    "{what}; {}, which {}",
                    closest_worker(table, &closest),
                    lacks.join(" and ")
                ),
            )
        }
        Lack::Resources { missing, closest } => {
            let resources = missing.iter().map(|(name, wanted, most)| {
                format!("{wanted} of {name} (the most that one has is {most})")
            });
            let resources: Vec<String> = resources.collect();
            let what = match resources.is_empty() {
                true => "no worker of its queue, kind and labels has all the resources it requires, even when idle"
                    .to_string(),
                false => format!(
                    "no worker of its queue, kind and labels has {}, even when idle",
                    resources.join(", ")
                ),
            };
            let lacks = |name: &String| {
                let wanted = task.spec.class.requires.resources.get(name)?;
                let has = table
                    .worker(closest.worker)?
                    .profile
                    .resources
                    .get(name)
                    .copied();
                Some(format!(
                    "has {} of {name}, and {wanted} are required",
                    has.unwrap_or(0)
                ))
            };
            let lacks: Vec<String> = closest.lacks.iter().filter_map(lacks).collect();
            (
                "no_worker_with_resources",
                format!(
                    "{what}; {}, which {}",
                    closest_worker(table, &closest),
                    lacks.join(" and ")
                ),
            )
        }
    }
}

fn closest_worker(table: &Table, closest: &ClosestWorker) -> String {
    let name = table
        .worker(closest.worker)
        .map_or("", |worker| &worker.name);
    format!("the closest is {name} ({})", closest.worker)
}
