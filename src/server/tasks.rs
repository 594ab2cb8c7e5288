//! `/v1/tasks`: showing, listing, waiting, cancelling, retrying; and reading a task as submitted.

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::routing::{get, post};
use bytes::Bytes;
use serde_json::value::RawValue;
use triarch_sdk::wire;
use triarch_table::command::{Backoff, NewTask};
use triarch_table::model::TaskState;
use triarch_table::task::{Attempt, AttemptEnd, Life, Task};
use triarch_table::{Command, Listed, TaskFilter, TaskId};

use super::App;
use super::answer::{Answer, ReadIndex, RequestId};
use super::extract::{self, Query};
use super::jobs::{self, too_many_waiters, wait};
use super::problem::{Code, Failure, Problem};

/// Bounds on one task's numbers; beyond them a number is a mistake.
const ATTEMPTS_MAX: u32 = 1_000;
const TEN_YEARS_MS: u64 = 10 * 366 * 24 * 3_600_000;
const FACTOR_MAX: f64 = 1_000.0;
const TAGS_MAX: usize = 64;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/tasks", get(list))
        .route("/v1/tasks/{id}", get(show))
        .route("/v1/tasks/{id}/cancel", post(cancel))
        .route("/v1/tasks/{id}/retry", post(retry))
}

/// Reads the task at `position` of a submitted job; what breaks a rule is named as `tasks[3].priority`.
pub(super) fn new_task(
    app: &App,
    position: usize,
    task: wire::TaskSpec,
) -> Result<NewTask, Problem> {
    let at = |field: &str| format!("tasks[{position}].{field}");
    let later = [
        ("after", task.after.is_some()),
        ("unique_key", task.unique_key.is_some()),
        ("on_duplicate", task.on_duplicate.is_some()),
        ("concurrency_key", task.concurrency_key.is_some()),
        ("concurrency_limit", task.concurrency_limit.is_some()),
    ];
    if let Some((field, _)) = later.iter().find(|(_, given)| *given) {
        return Err(Problem::invalid(
            &at(field),
            "is not available in this version; nothing was submitted",
        ));
    }
    extract::name(&at("kind"), &task.kind)?;
    let queue = task.queue.unwrap_or_else(|| "default".into());
    extract::name(&at("queue"), &queue)?;
    if let Some(key) = &task.key {
        extract::name(&at("key"), key)?;
    }
    let tags = task.tags.unwrap_or_default();
    if tags.len() > TAGS_MAX {
        return Err(Problem::invalid(
            &at("tags"),
            format!("{} tags; the bound is {TAGS_MAX}", tags.len()),
        ));
    }
    for (tag, position) in tags.iter().zip(0..) {
        extract::name(&at(&format!("tags[{position}]")), tag)?;
    }
    let requires = task.requires.unwrap_or_default();
    for (name, value) in &requires.labels {
        extract::name(&at("requires.labels"), name)?;
        extract::bounded_text(&at(&format!("requires.labels.{name}")), value)?;
    }
    for name in requires.resources.keys() {
        extract::name(&at("requires.resources"), name)?;
    }
    Ok(NewTask {
        payload: payload(app, &at("payload"), task.payload)?,
        priority: number(&at("priority"), task.priority.unwrap_or(0), 0, 9)?,
        not_before_ms: task.run_at.map(wire::Timestamp::unix_ms),
        delay_ms: number(&at("delay_ms"), task.delay_ms.unwrap_or(0), 0, TEN_YEARS_MS)?,
        expires_ms: task
            .expires_ms
            .map(|ms| number(&at("expires_ms"), ms, 1, TEN_YEARS_MS))
            .transpose()?,
        timeout_ms: task
            .timeout_ms
            .map(|ms| number(&at("timeout_ms"), ms, 1, TEN_YEARS_MS))
            .transpose()?,
        max_attempts: number(
            &at("max_attempts"),
            task.max_attempts.unwrap_or(3),
            1,
            ATTEMPTS_MAX,
        )?,
        max_losses: number(
            &at("max_losses"),
            task.max_losses.unwrap_or(5),
            1,
            ATTEMPTS_MAX,
        )?,
        backoff: backoff(&at, task.backoff.unwrap_or_default())?,
        requires: jobs::requires(requires),
        key: task.key,
        kind: task.kind,
        queue,
        tags,
    })
}

fn payload(app: &App, field: &str, payload: Option<Box<RawValue>>) -> Result<Bytes, Problem> {
    let bound = app.limits.payload_bytes_max;
    let text = payload.map_or_else(
        || "null".to_string(),
        |payload| String::from(Box::<str>::from(payload)),
    );
    if text.len() > bound {
        return Err(Problem::new(
            Code::PayloadTooLarge,
            format!(
                "{field} is {} bytes, the bound is {bound}: put the data where workers can reach it and pass its address",
                text.len()
            ),
        )
        .with("field", field)
        .with("payload_bytes_max", bound));
    }
    Ok(Bytes::from(text))
}

fn number<N: PartialOrd + std::fmt::Display>(
    field: &str,
    given: N,
    least: N,
    most: N,
) -> Result<N, Problem> {
    if given < least || given > most {
        return Err(Problem::invalid(
            field,
            format!("is {given}, must be from {least} to {most}"),
        ));
    }
    Ok(given)
}

/// Thousandths of a number that was checked to be within bounds.
fn milli(value: f64) -> u32 {
    (value * 1_000.0).round() as u32
}

fn backoff(at: &impl Fn(&str) -> String, given: wire::Backoff) -> Result<Backoff, Problem> {
    let default = Backoff::default();
    let factor = given
        .factor
        .map(|factor| number(&at("backoff.factor"), factor, 1.0, FACTOR_MAX))
        .transpose()?;
    let jitter = given
        .jitter
        .map(|jitter| number(&at("backoff.jitter"), jitter, 0.0, 1.0))
        .transpose()?;
    Ok(Backoff {
        initial_ms: number(
            &at("backoff.initial_ms"),
            given.initial_ms.unwrap_or(default.initial_ms),
            0,
            TEN_YEARS_MS,
        )?,
        factor_milli: factor.map_or(default.factor_milli, milli),
        max_ms: number(
            &at("backoff.max_ms"),
            given.max_ms.unwrap_or(default.max_ms),
            0,
            TEN_YEARS_MS,
        )?,
        jitter_permille: jitter.map_or(default.jitter_permille, |jitter| {
            u16::try_from(milli(jitter)).unwrap_or(1_000)
        }),
    })
}

async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<Answer, Failure> {
    let query = Query::read(query.as_deref(), &["wait_ms"])?;
    let id: TaskId = extract::id("task", &id)?;
    let wait = wait(&query)?;
    let terminal = |app: &App| {
        app.table
            .read()
            .task(id)
            .map(|task| task.state().is_terminal())
    };
    let mut index = index;
    if !wait.is_zero() && terminal(&app) == Some(false) {
        let mut woken = app.table.waiters.task(id).map_err(|_| too_many_waiters())?;
        // Looked at again after registering: its end cannot slip between.
        if terminal(&app) == Some(false) {
            app.until(wait, woken.woken()).await;
            index = app.node.applied_index();
        }
    }
    answer(&app, index, id)
}

async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<Answer, Failure> {
    let query = Query::read(
        query.as_deref(),
        &["queue", "state", "kind", "worker", "limit", "after"],
    )?;
    let filter = TaskFilter {
        queue: query.text("queue").map(str::to_string),
        state: query.text("state").map(task_state).transpose()?,
        kind: query.text("kind").map(str::to_string),
        worker: query.parsed("worker", "a worker's id")?,
    };
    let after: Option<TaskId> = query.parsed("after", "a task's id, as given in \"next\"")?;
    let limit = query.limit()?;
    let table = app.table.read();
    Answer::ok(index, &page(&app, table.tasks(&filter, after, limit)))
}

async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Answer, Failure> {
    Query::read(query.as_deref(), &[])?;
    extract::no_body(&body)?;
    let id: TaskId = extract::id("task", &id)?;
    let (index, _) = app.change(&Command::CancelTask { task: id }).await?;
    answer(&app, index, id)
}

async fn retry(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    RequestId(request_id): RequestId,
    body: Bytes,
) -> Result<Answer, Failure> {
    Query::read(query.as_deref(), &[])?;
    extract::no_body(&body)?;
    let id: TaskId = extract::id("task", &id)?;
    let retried = app
        .change(&Command::RetryTask {
            task: id,
            request_id,
        })
        .await;
    let (index, _) = retried.map_err(|failure| match failure {
        Failure::Problem(problem) if problem.code() == Code::AlreadyFinished => Failure::Problem(Problem::new(
            Code::Conflict,
            format!("task {id} is not finished: there is nothing to retry; cancel it first to start it over"),
        )),
        other @ (Failure::Problem(_) | Failure::NotLeader | Failure::Unknown(_)) => other,
    })?;
    answer(&app, index, id)
}

fn answer(app: &App, index: u64, id: TaskId) -> Result<Answer, Failure> {
    let table = app.table.read();
    let task = table.task(id).ok_or_else(|| {
        Problem::new(
            Code::NotFound,
            format!("there is no task {id}; finished tasks are kept for a bounded time"),
        )
    })?;
    Answer::ok(index, &present(app, task, Detail::Whole))
}

/// How much of a task is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// In a list.
    Row,
    /// By itself: with its payload and all attempts that are kept.
    Whole,
}

/// Part of a list, as rows.
pub(super) fn page(app: &App, found: Listed<'_, Task, TaskId>) -> wire::TaskList {
    wire::TaskList {
        tasks: found
            .items
            .into_iter()
            .map(|task| present(app, task, Detail::Row))
            .collect(),
        next: found.next.map(|next| next.to_string()),
    }
}

fn task_state(text: &str) -> Result<TaskState, Problem> {
    TaskState::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| {
            let known: Vec<&str> = TaskState::ALL.iter().map(|state| state.as_str()).collect();
            Problem::invalid("state", format!("must be one of {}", known.join(", ")))
        })
}

pub(super) fn present_state(state: TaskState) -> wire::TaskState {
    match state {
        TaskState::Waiting => wire::TaskState::Waiting,
        TaskState::Delayed => wire::TaskState::Delayed,
        TaskState::Queued => wire::TaskState::Queued,
        TaskState::Running => wire::TaskState::Running,
        TaskState::Succeeded => wire::TaskState::Succeeded,
        TaskState::Failed => wire::TaskState::Failed,
        TaskState::Cancelled => wire::TaskState::Cancelled,
        TaskState::Expired => wire::TaskState::Expired,
    }
}

fn present(app: &App, task: &Task, detail: Detail) -> wire::Task {
    let (policy, class) = (&task.spec.policy, &task.spec.class);
    let lease = task.lease();
    let progress = lease.and_then(|lease| {
        let lead = app.lead.borrow().clone()?;
        let desk = lead.desk.lock();
        desk.progress(lease.token).cloned()
    });
    let run_at = match task.life {
        Life::Delayed { until_ms } => Some(wire::Timestamp::from_unix_ms(until_ms)),
        Life::Waiting
        | Life::Queued { .. }
        | Life::Running { .. }
        | Life::Succeeded { .. }
        | Life::Failed { .. }
        | Life::Cancelled { .. }
        | Life::Expired { .. } => None,
    };
    wire::Task {
        id: task.id.to_string(),
        job: task.job.to_string(),
        key: task.key().map(str::to_string),
        kind: task.kind().to_string(),
        queue: task.queue().to_string(),
        state: present_state(task.state()),
        priority: policy.priority,
        attempt: task.attempt,
        max_attempts: policy.max_attempts,
        failures: task.failures,
        max_losses: policy.max_losses,
        losses: task.losses,
        worker: task.worker().map(|worker| worker.to_string()),
        result: task.result().and_then(raw),
        error: task.error().and_then(raw),
        timeout_ms: policy.timeout_ms,
        run_at,
        expires_at: task.expires_at_ms.map(wire::Timestamp::from_unix_ms),
        requires: Some(wire::Requires {
            labels: class.requires.labels.clone(),
            resources: class.requires.resources.clone(),
        })
        .filter(|requires| !requires.is_empty()),
        tags: policy.tags.clone(),
        progress: progress.as_ref().and_then(|progress| progress.progress),
        note: progress.and_then(|progress| progress.note),
        payload: Some(task.payload())
            .filter(|_| detail == Detail::Whole)
            .and_then(raw),
        created_at: wire::Timestamp::from_unix_ms(task.created_ms),
        started_at: task.started_ms().map(wire::Timestamp::from_unix_ms),
        finished_at: task.finished_ms().map(wire::Timestamp::from_unix_ms),
        attempts: match detail {
            Detail::Row => None,
            Detail::Whole => Some(attempts(task)),
        },
    }
}

fn attempts(task: &Task) -> Vec<wire::Attempt> {
    let present = |attempt: &Attempt| wire::Attempt {
        attempt: attempt.attempt,
        worker: attempt.worker.to_string(),
        token: attempt.token.0,
        started_at: wire::Timestamp::from_unix_ms(attempt.started_ms),
        ended_at: Some(wire::Timestamp::from_unix_ms(attempt.ended_ms)),
        outcome: Some(match &attempt.end {
            AttemptEnd::Succeeded => wire::AttemptOutcome::Succeeded,
            AttemptEnd::Failed { .. } => wire::AttemptOutcome::Failed,
            AttemptEnd::TimedOut => wire::AttemptOutcome::TimedOut,
            AttemptEnd::Lost | AttemptEnd::LeaseExpired => wire::AttemptOutcome::Lost,
            AttemptEnd::Returned => wire::AttemptOutcome::Returned,
            AttemptEnd::Cancelled => wire::AttemptOutcome::Cancelled,
        }),
        error: attempt.end.error().and_then(raw),
    };
    let running = task
        .lease()
        .zip(task.started_ms())
        .map(|(lease, started_ms)| wire::Attempt {
            attempt: lease.attempt,
            worker: lease.worker.to_string(),
            token: lease.token.0,
            started_at: wire::Timestamp::from_unix_ms(started_ms),
            ended_at: None,
            outcome: None,
            error: None,
        });
    task.history.iter().map(present).chain(running).collect()
}

/// JSON text as it came. It was checked when it came, so it is only missing if the table itself made it wrong.
pub(super) fn raw(text: &Bytes) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(text).ok()?;
    RawValue::from_string(text.to_string()).ok()
}
