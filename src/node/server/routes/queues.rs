//! `/v1/queues`: depth of queues, and their settings.

use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use triarch_sdk::wire;
use triarch_table::command::QueueChange;
use triarch_table::types::queue_options::{Placement, Rate};
use triarch_table::types::state::TaskState;
use triarch_table::{Command, QueueView};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::json;
use crate::server::protocol::page::Page;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate;
use crate::server::routes::bulk_tasks::{self, Mode};
use crate::server::routes::extractors::{NoQuery, PathOnly, ReadIndex};
use crate::server::routes::list_filters::TaskFilters;

/// Bounds on settings. A number beyond them is considered a mistake.
const RATE_PER_S_MIN: f64 = 0.001;
const RATE_PER_S_MAX: f64 = 1_000_000.0;
const BURST_MAX: u32 = 1_000_000;
const WEIGHT_MAX: u32 = 1_000;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, set))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(purge))
}

/// Returns one page of queues, ordered by name, with the number of tasks in each state. Default limit: all that fit into one
/// answer.
#[utoipa::path(
    get,
    path = "/v1/queues",
    tag = "queues",
    params(wire::PageQuery),
    responses((status = 200, description = "One page of queues.", body = wire::QueueList))
)]
async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["limit", "after"])?;
    let after = query.text("after");
    let limit = match query.text("limit") {
        Some(_) => query.limit()?,
        None => usize::MAX,
    };
    let table = app.table.read();
    let now_ms = table.now_ms();
    let mut page = Page::new("queues");
    let mut last: Option<String> = None;
    let listed = table
        .queues()
        .filter(|queue| after.is_none_or(|after| queue.name > after));
    for (taken, queue) in listed.enumerate() {
        if taken == limit || !page.push(&queue_to_wire(&queue, now_ms))? {
            return Ok(ApiResponse::page(
                &table,
                index,
                page.finish(last.as_deref()),
            ));
        }
        last = Some(queue.name.to_owned());
    }
    Ok(ApiResponse::page(&table, index, page.finish(None)))
}

/// Returns a queue with its settings.
#[utoipa::path(
    get,
    path = "/v1/queues/{queue}",
    tag = "queues",
    params(("queue" = String, Path, description = "Name of the queue."), wire::ReadQuery),
    responses((status = 200, description = "The queue.", body = wire::Queue))
)]
async fn show(
    State(app): State<App>,
    Path(name): Path<String>,
    _: NoQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let table = app.table.read();
    let queue = table.queues().find(|queue| queue.name == name);
    let queue = queue.ok_or_else(|| {
        Problem::new(
            Code::NotFound,
            "there is no such queue: no task names it, and it has no settings",
        )
    })?;
    ApiResponse::from_table(&table, index, &queue_to_wire(&queue, table.now_ms()))
}

/// Changes settings of a queue. A queue that does not exist is created.
#[utoipa::path(
    put,
    path = "/v1/queues/{queue}",
    tag = "queues",
    params(("queue" = String, Path, description = "Name of the queue.")),
    request_body = wire::QueueSettings,
    responses((status = 200, description = "The queue after the change.", body = wire::Queue))
)]
async fn set(
    State(app): State<App>,
    Path(name): Path<String>,
    _: NoQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let settings: wire::QueueSettings = json::parse(&body)?;
    let current_rate = app
        .table
        .read()
        .queue(&name)
        .and_then(|queue| queue.settings.rate);
    change(&app, name, parse_settings(settings, current_rate)?).await
}

/// Pauses a queue: no further task of it starts; running attempts continue.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/pause",
    tag = "queues",
    params(("queue" = String, Path, description = "Name of the queue.")),
    responses((status = 200, description = "The queue after the change.", body = wire::Queue))
)]
async fn pause(
    State(app): State<App>,
    Path(name): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    change(&app, name, pause_change(true)).await
}

/// Resumes a paused queue.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/resume",
    tag = "queues",
    params(("queue" = String, Path, description = "Name of the queue.")),
    responses((status = 200, description = "The queue after the change.", body = wire::Queue))
)]
async fn resume(
    State(app): State<App>,
    Path(name): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    change(&app, name, pause_change(false)).await
}

/// Cancels all tasks of a queue that are unfinished and not running, or deletes its dead letters with their jobs.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/purge",
    tag = "queues",
    params(("queue" = String, Path, description = "Name of the queue.")),
    request_body(content = Option<wire::Purge>),
    responses((status = 200, description = "Numbers of tasks cancelled and jobs deleted.", body = wire::Purged))
)]
async fn purge(
    State(app): State<App>,
    Path(name): Path<String>,
    _: NoQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    validate::path_name("queue", &name)?;
    let purge: wire::Purge = json::parse_or_default(&body)?;
    let filters = TaskFilters::of_queue(name);
    let mode = Mode::of(purge.dry_run);
    let mut purged = wire::Purged::default();
    let index = if purge.dead_letters {
        let result = bulk_tasks::forget(&app, filters, TaskState::Failed, mode).await?;
        purged.forgotten_jobs = result.count;
        result.index
    } else {
        let result = bulk_tasks::cancel(&app, &filters, false, mode).await?;
        purged.cancelled = result.count;
        result.index
    };
    ApiResponse::ok(index, &purged)
}

fn pause_change(paused: bool) -> QueueChange {
    QueueChange {
        paused: Some(paused),
        ..QueueChange::default()
    }
}

async fn change(app: &App, name: String, change: QueueChange) -> Result<ApiResponse, HandlerError> {
    validate::path_name("queue", &name)?;
    let queue = name.clone();
    let (index, _) = app.propose(&Command::ChangeQueue { queue, change }).await?;
    let table = app.table.read();
    let now_ms = table.now_ms();
    let queue = table.queue(&name);
    let response = queue.map_or_else(
        || unused_queue(&name),
        |queue| queue_to_wire(&queue, now_ms),
    );
    ApiResponse::from_table(&table, index, &response)
}

fn parse_settings(
    settings: wire::QueueSettings,
    rate: Option<Rate>,
) -> Result<QueueChange, Problem> {
    let within = |field: &str, given: Option<u32>, most: u32| match given {
        Some(given) if !(1..=most).contains(&given) => Err(Problem::invalid(
            field,
            format!("is {given}, must be from 1 to {most}"),
        )),
        _ => Ok(given),
    };
    let burst = within("burst", settings.burst, BURST_MAX)?;
    let rate = match settings.rate_per_s {
        Some(None) => Some(None),
        Some(Some(per_s)) if !(RATE_PER_S_MIN..=RATE_PER_S_MAX).contains(&per_s) => {
            return Err(Problem::invalid(
                "rate_per_s",
                format!("is {per_s}, must be from {RATE_PER_S_MIN} to {RATE_PER_S_MAX}"),
            ));
        }
        Some(Some(per_s)) => Some(Some(Rate {
            per_s_milli: (per_s * 1_000.0).round() as u64,
            burst: burst.unwrap_or((per_s / 10.0).ceil() as u32).max(1),
        })),
        None => match (burst, rate) {
            (None, _) => None,
            (Some(burst), Some(rate)) => Some(Some(Rate { burst, ..rate })),
            (Some(_), None) => {
                return Err(Problem::invalid(
                    "burst",
                    "needs a rate, and the queue has none: set rate_per_s with it",
                ));
            }
        },
    };
    Ok(QueueChange {
        paused: settings.paused,
        max_running: settings.max_running,
        rate,
        max_depth: settings.max_depth,
        weight: within("weight", settings.weight, WEIGHT_MAX)?,
        placement: settings.placement.map(|placement| match placement {
            wire::Placement::Spread => Placement::Spread,
            wire::Placement::Pack => Placement::Pack,
        }),
        retain_ms: settings.retain_ms,
        retain_jobs: settings.retain_jobs,
    })
}

/// Returns the description of a queue without settings and without tasks.
fn unused_queue(name: &str) -> wire::Queue {
    wire::Queue {
        name: name.to_string(),
        depth: 0,
        delayed: 0,
        waiting: 0,
        running: 0,
        failed: 0,
        oldest_ms: None,
        paused: false,
        max_running: None,
        rate_per_s: None,
        burst: None,
        max_depth: None,
        weight: 1,
        placement: wire::Placement::Spread,
        retain_ms: None,
        retain_jobs: None,
    }
}

fn queue_to_wire(queue: &QueueView<'_>, now_ms: u64) -> wire::Queue {
    let settings = &queue.settings;
    let since = |since_ms| now_ms.saturating_sub(since_ms);
    wire::Queue {
        depth: queue.counts.of(TaskState::Queued),
        delayed: queue.counts.of(TaskState::Delayed),
        waiting: queue.counts.of(TaskState::Waiting),
        running: queue.counts.of(TaskState::Running),
        failed: queue.counts.of(TaskState::Failed),
        oldest_ms: queue.oldest_ready_ms.map(since),
        paused: settings.paused,
        max_running: settings.max_running,
        rate_per_s: settings.rate.map(|rate| rate.per_s_milli as f64 / 1_000.0),
        burst: settings.rate.map(|rate| rate.burst),
        max_depth: settings.max_depth,
        weight: settings.weight,
        placement: match settings.placement {
            Placement::Spread => wire::Placement::Spread,
            Placement::Pack => wire::Placement::Pack,
        },
        retain_ms: settings.retain_ms,
        retain_jobs: settings.retain_jobs,
        ..unused_queue(queue.name)
    }
}
