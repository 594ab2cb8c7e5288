//! `/v1/schedules`: jobs submitted at the times of cron expressions, or at intervals.
//!
//! Cron and time zones are evaluated here and by the leader; the table only knows the next tick as a number.

use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use serde_json::value::RawValue;
use triarch_sdk::wire;
use triarch_table::command::{CatchUp, Overlap, PutSchedule};
use triarch_table::{Command, Reply, Schedule, Table, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::cron::{CronError, CronSchedule};
use crate::schedule_times::{self, ScheduleTimes};
use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::json;
use crate::server::protocol::page;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate;
use crate::server::protocol::validate::NAME_BYTES_MAX;
use crate::server::routes::extractors::{NoQuery, PathOnly, ReadIndex, RequestId};
use crate::server::routes::job_submission::{self, Submission};

/// Number of upcoming runs in a response.
const NEXT_RUNS_SHOWN: usize = 5;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(put, show, remove))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(trigger))
}

/// Creates a schedule, or replaces the one with this name.
#[utoipa::path(
    put,
    path = "/v1/schedules/{name}",
    tag = "schedules",
    params(("name" = String, Path, description = "Name of the schedule.", min_length = 1, max_length = 170)),
    request_body = wire::PutSchedule,
    responses((status = 201, description = "Schedule created.", body = wire::Schedule), (status = 200, description = "Schedule replaced.", body = wire::Schedule))
)]
async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    _: NoQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    app.check_table_memory(body.len())?;
    validate::path_name("name", &name)?;
    let given: wire::PutSchedule = json::parse(&body)?;
    let (cron, timezone, times) = parse_times(&given)?;
    if given.job.idempotency_key.is_some() {
        return Err(Problem::invalid(
            "job.idempotency_key",
            "must be omitted: the job of each tick has its own key, made of the schedule's name and the tick's time",
        )
        .into());
    }
    if given.job.after_jobs.is_some() {
        let detail = "must be omitted: the job of a schedule comes after no other job";
        return Err(Problem::invalid("job.after_jobs", detail).into());
    }
    let job_text = serde_json::to_vec(&given.job).map_err(|error| {
        Problem::invalid("job", format!("the job cannot be parsed again: {error}"))
    })?;
    let job = job_submission::parse_job(&app, given.job, None)
        .map_err(|problem| problem.within("job"))?;
    let Submission::Whole(job) = job else {
        return Err(Problem::invalid(
            "job.part",
            "must be omitted: the job of a schedule cannot have parts",
        )
        .into());
    };
    let lead = app.leader_term()?;
    let _held = lead.hold_time().await;
    let next_tick_ms = times.next_after(lead.now_ms()).ok_or_else(|| {
        Problem::invalid("cron", format!("\"{cron}\" names a date that never occurs"))
    })?;
    let command = Command::PutSchedule(PutSchedule {
        name: name.clone(),
        cron,
        timezone,
        job,
        job_text: job_text.into(),
        overlap: match given.overlap.unwrap_or_default() {
            wire::Overlap::Allow => Overlap::Allow,
            wire::Overlap::Forbid => Overlap::Forbid,
        },
        catch_up: match given.catch_up.unwrap_or_default() {
            wire::CatchUp::None => CatchUp::None,
            wire::CatchUp::One => CatchUp::One,
            wire::CatchUp::All => CatchUp::All,
        },
        paused: given.paused.unwrap_or(false),
        next_tick_ms: Some(next_tick_ms),
    });
    let (index, reply) = app.propose(&command).await?;
    let Reply::SchedulePut { created } = reply else {
        return Err(app.unexpected_reply(&reply));
    };
    let schedule = schedule_with_runs(&app.table.read(), &name)?;
    if created {
        ApiResponse::created(index, &schedule)
    } else {
        ApiResponse::ok(index, &schedule)
    }
}

/// Returns one page of schedules, ordered by name.
#[utoipa::path(
    get,
    path = "/v1/schedules",
    tag = "schedules",
    params(wire::PageQuery),
    responses((status = 200, description = "One page of schedules.", body = wire::ScheduleList))
)]
async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["limit", "after"])?;
    let limit = query.limit()?;
    let table = app.table.read();
    let found = table.schedules(query.text("after"), limit);
    let next = found.next.map(|next| next.to_string());
    let name = |schedule: &&Schedule| schedule.name.to_string();
    let page = page::write("schedules", found.items, next, name, |schedule| {
        schedule_to_wire(schedule)
    })?;
    Ok(ApiResponse::page(&table, index, page))
}

/// Returns a schedule, with its job and its next ticks.
#[utoipa::path(
    get,
    path = "/v1/schedules/{name}",
    tag = "schedules",
    params(("name" = String, Path, description = "Name of the schedule.", min_length = 1, max_length = 170), wire::ReadQuery),
    responses((status = 200, description = "The schedule.", body = wire::Schedule))
)]
async fn show(
    State(app): State<App>,
    Path(name): Path<String>,
    _: NoQuery,
    ReadIndex(index): ReadIndex,
) -> Result<ApiResponse, HandlerError> {
    let table = app.table.read();
    ApiResponse::from_table(&table, index, &schedule_with_runs(&table, &name)?)
}

/// Deletes a schedule. Jobs that it submitted stay.
#[utoipa::path(
    delete,
    path = "/v1/schedules/{name}",
    tag = "schedules",
    params(("name" = String, Path, description = "Name of the schedule.", min_length = 1, max_length = 170)),
    responses((status = 200, description = "Schedule deleted.", body = wire::DeletedSchedule))
)]
async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    let (index, _) = app
        .propose(&Command::DeleteSchedule { name: name.clone() })
        .await?;
    ApiResponse::ok(index, &wire::DeletedSchedule { name })
}

/// Pauses a schedule: its ticks submit nothing until it is resumed.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/pause",
    tag = "schedules",
    params(("name" = String, Path, description = "Name of the schedule.", min_length = 1, max_length = 170)),
    responses((status = 200, description = "The schedule.", body = wire::Schedule))
)]
async fn pause(
    State(app): State<App>,
    Path(name): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    let (index, _) = app
        .propose(&Command::PauseSchedule { name: name.clone() })
        .await?;
    let table = app.table.read();
    ApiResponse::from_table(&table, index, &schedule_with_runs(&table, &name)?)
}

/// Resumes a paused schedule from its next tick on.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/resume",
    tag = "schedules",
    params(("name" = String, Path, description = "Name of the schedule.", min_length = 1, max_length = 170)),
    responses((status = 200, description = "The schedule.", body = wire::Schedule))
)]
async fn resume(
    State(app): State<App>,
    Path(name): Path<String>,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    // The table read here may be behind, so apply compares the generation.
    app.node.read_barrier().await?;
    let lead = app.leader_term()?;
    let _held = lead.hold_time().await;
    let (generation, times) = {
        let table = app.table.read();
        let schedule = table.schedule(&name).ok_or_else(|| not_found(&name))?;
        let times =
            ScheduleTimes::parse_kept(&schedule.cron, &schedule.timezone).map_err(times_problem)?;
        (schedule.generation, times)
    };
    let (index, _) = app
        .propose(&Command::ResumeSchedule {
            name: name.clone(),
            generation,
            next_tick_ms: times.next_after(lead.now_ms()),
        })
        .await?;
    let table = app.table.read();
    ApiResponse::from_table(&table, index, &schedule_with_runs(&table, &name)?)
}

/// Submits one job of a schedule now, in addition to those of its ticks.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/trigger",
    tag = "schedules",
    params(("name" = String, Path, description = "Name of the schedule.", min_length = 1, max_length = 170)),
    responses((status = 201, description = "Job created, and durable on a majority of the voters.", body = wire::Submitted), (status = 200, description = "The job was created before, or all of its tasks existed already.", body = wire::Submitted))
)]
async fn trigger(
    State(app): State<App>,
    Path(name): Path<String>,
    RequestId(request_id): RequestId,
    _: PathOnly,
) -> Result<ApiResponse, HandlerError> {
    app.check_table_memory(0)?;
    let (index, reply) = app
        .propose(&Command::TriggerSchedule { name, request_id })
        .await?;
    let Reply::Submitted {
        job,
        tasks,
        duplicate,
    } = reply
    else {
        return Err(app.unexpected_reply(&reply));
    };
    let submitted = wire::Submitted {
        id: job.to_string(),
        tasks: tasks.iter().map(TaskId::to_string).collect(),
        duplicate,
    };
    if duplicate {
        ApiResponse::ok(index, &submitted)
    } else {
        ApiResponse::created(index, &submitted)
    }
}

/// Parses the times of a schedule. Also returns their text and their time zone for the table.
fn parse_times(given: &wire::PutSchedule) -> Result<(String, String, ScheduleTimes), Problem> {
    match (&given.cron, given.every_ms) {
        (Some(cron), None) => {
            let timezone = given.timezone.as_deref().unwrap_or("UTC");
            let times = CronSchedule::parse(cron, timezone).map_err(times_problem)?;
            let times = ScheduleTimes::Cron(Box::new(times));
            Ok((cron.clone(), timezone.to_owned(), times))
        }
        (None, Some(every_ms)) => {
            let text = schedule_times::interval_text(every_ms)
                .map_err(|problem| Problem::invalid("every_ms", problem))?;
            if given.timezone.is_some() {
                return Err(Problem::invalid(
                    "timezone",
                    "belongs to cron: an interval is the same in all time zones",
                ));
            }
            Ok((text, "UTC".to_owned(), ScheduleTimes::Every(every_ms)))
        }
        (Some(_), Some(_)) => Err(Problem::invalid(
            "every_ms",
            "cron and every_ms exclude each other: give one of them",
        )),
        (None, None) => Err(Problem::invalid(
            "cron",
            "is missing: give cron or every_ms",
        )),
    }
}

fn times_problem(unclear: CronError) -> Problem {
    match unclear {
        CronError::Expression(why) => Problem::invalid("cron", why),
        CronError::Timezone(why) => Problem::invalid("timezone", why),
    }
}

fn not_found(name: &str) -> Problem {
    let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
    Problem::new(Code::NotFound, format!("there is no schedule \"{shown}\""))
}

/// Returns one schedule, with its job and its next runs.
fn schedule_with_runs(table: &Table, name: &str) -> Result<wire::Schedule, Problem> {
    let schedule = table.schedule(name).ok_or_else(|| not_found(name))?;
    let times = ScheduleTimes::parse_kept(&schedule.cron, &schedule.timezone).ok();
    let ticks = std::iter::successors(schedule.next_tick_ms, |&tick| {
        times.as_ref()?.next_after(tick)
    });
    let run = |tick_ms: u64| {
        Some(wire::ScheduledRun {
            at: wire::Timestamp::from_unix_ms(tick_ms),
            local: times.as_ref()?.local_time(tick_ms)?,
        })
    };
    let job = String::from_utf8(schedule.job_text.to_vec()).ok();
    Ok(wire::Schedule {
        next_runs: Some(ticks.take(NEXT_RUNS_SHOWN).filter_map(run).collect()),
        job: job.and_then(|text| RawValue::from_string(text).ok()),
        ..schedule_to_wire(schedule)
    })
}

fn schedule_to_wire(schedule: &Schedule) -> wire::Schedule {
    let at = |ms: Option<u64>| ms.map(wire::Timestamp::from_unix_ms);
    let every_ms = schedule_times::interval_ms(&schedule.cron);
    wire::Schedule {
        name: schedule.name.to_string(),
        cron: every_ms.is_none().then(|| schedule.cron.to_string()),
        every_ms,
        timezone: schedule.timezone.to_string(),
        overlap: match schedule.overlap {
            Overlap::Allow => wire::Overlap::Allow,
            Overlap::Forbid => wire::Overlap::Forbid,
        },
        catch_up: match schedule.catch_up {
            CatchUp::None => wire::CatchUp::None,
            CatchUp::One => wire::CatchUp::One,
            CatchUp::All => wire::CatchUp::All,
        },
        paused: schedule.paused,
        next_tick_at: at(schedule.next_tick_ms),
        last_tick_at: at(schedule.last_tick_ms),
        last_job: schedule.last_job.map(|job| job.to_string()),
        last_error: schedule.last_error.as_deref().map(str::to_owned),
        fired: schedule.fired,
        skipped: schedule.skipped,
        missed: schedule.missed,
        created_at: wire::Timestamp::from_unix_ms(schedule.created_ms),
        job: None,
        next_runs: None,
    }
}
