//! Validation of submitted jobs: parses each field within its bounds, or returns an error that names the invalid one.
//!
//! Conflicts that only the table can detect (taken keys, full queues, cycles) are refused by the table.

use bytes::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use triarch_sdk::wire::{self, exec};
use triarch_table::command::{
    AfterJob, Backoff, Concurrency, Dependency, NewTask, OnDuplicate, OnFailure, Requires,
    StagePart, SubmitJob, Unique,
};

use crate::server::app::App;
use crate::server::protocol::json::{self, JSON_DEPTH_MAX};
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::validate;
use crate::server::routes::present;

/// Bounds on one task's numbers. A number beyond them is considered a mistake.
const ATTEMPTS_MAX: u32 = 1_000;
const TEN_YEARS_MS: u64 = 10 * 366 * 24 * 3_600_000;
const BACKOFF_FACTOR_MAX: f64 = 1_000.0;
const TAGS_MAX: usize = 64;
const AFTER_JOBS_MAX: usize = 64;
const CONCURRENCY_LIMIT_MAX: u32 = 1_000_000;

/// Parsed submission.
pub enum Submission {
    /// Whole job.
    Whole(SubmitJob),
    /// One part of a job.
    Part(StagePart),
}

/// Parses a submitted job, or one part of it.
pub fn parse_job(
    app: &App,
    job: wire::SubmitJob,
    request_id: Option<String>,
) -> Result<Submission, Problem> {
    if let Some(key) = &job.idempotency_key {
        validate::name("idempotency_key", key)?;
    }
    if let Some(name) = &job.name {
        validate::bounded_text("name", name)?;
    }
    if job.tasks.is_empty() {
        return Err(Problem::invalid("tasks", "must contain at least one task"));
    }
    if job.tasks.len() > app.limits.tasks_max {
        return Err(Problem::new(
            Code::PayloadTooLarge,
            format!(
                "{} tasks in one request; the limit is {}: submit the job in parts, with \"part\" and \"parts\"",
                job.tasks.len(),
                app.limits.tasks_max
            ),
        )
        .with("field", "tasks")
        .with("tasks_max", app.limits.tasks_max));
    }
    // The job is serialized again after parsing, so that white space between fields does not change the digest.
    let canonical = serde_json::to_vec(&job).map_err(|error| {
        Problem::invalid("", format!("the body cannot be parsed again: {error}"))
    })?;
    let tasks = job
        .tasks
        .into_iter()
        .enumerate()
        .map(|(position, task)| parse_task(app, position, task))
        .collect::<Result<Vec<NewTask>, Problem>>()?;
    let on_failure = match job.on_failure.unwrap_or_default() {
        wire::OnFailure::Continue => OnFailure::Continue,
        wire::OnFailure::FailFast => OnFailure::FailFast,
    };
    let after_jobs = after_jobs(job.after_jobs.unwrap_or_default())?;
    if !after_jobs.is_empty() && job.part.or(job.parts).is_some() {
        return Err(Problem::invalid(
            "after_jobs",
            "cannot be used for a job in parts: submit a small job that comes after the others, and let it submit this one",
        ));
    }
    let digest = Sha256::digest(&canonical).into();
    let name = job.name.unwrap_or_default();
    if let (Some(part), Some(parts)) = (job.part, job.parts) {
        let key = job.idempotency_key.ok_or_else(|| {
            Problem::invalid(
                "idempotency_key",
                "is required for a job in parts: choose a key and send it with every part",
            )
        })?;
        return Ok(Submission::Part(StagePart {
            key,
            part,
            parts,
            digest,
            name,
            on_failure,
            tasks,
        }));
    }
    for (field, given) in [("part", job.part), ("parts", job.parts)] {
        if given.is_some() {
            return Err(Problem::invalid(field, "part and parts go together"));
        }
    }
    Ok(Submission::Whole(SubmitJob {
        request_id,
        idempotency_key: job.idempotency_key,
        body_digest: digest,
        part_digests: Vec::new(),
        after_jobs,
        name,
        on_failure,
        tasks,
    }))
}

/// Parses the jobs that a job comes after. The table checks that they exist.
fn after_jobs(given: Vec<wire::AfterJob>) -> Result<Vec<AfterJob>, Problem> {
    if given.len() > AFTER_JOBS_MAX {
        let detail = format!("{} jobs; the limit is {AFTER_JOBS_MAX}", given.len());
        return Err(Problem::invalid("after_jobs", detail));
    }
    let parse = |(after, position): (wire::AfterJob, usize)| {
        let field = format!("after_jobs[{position}].job");
        let job = after.job.parse().map_err(|_| {
            let shown: String = after.job.chars().take(validate::NAME_BYTES_MAX).collect();
            Problem::invalid(
                &field,
                format!("{shown:?} is no id of a job, such as j42-0"),
            )
        })?;
        Ok(AfterJob {
            job,
            when: present::condition_from_wire(after.when),
        })
    };
    given.into_iter().zip(0..).map(parse).collect()
}

/// Parses the task at `position` of a submitted job. An error names its field, such as `tasks[3].priority`.
fn parse_task(app: &App, position: usize, task: wire::TaskSpec) -> Result<NewTask, Problem> {
    let at = |field: &str| format!("tasks[{position}].{field}");
    validate::name(&at("kind"), &task.kind)?;
    let queue = task.queue.unwrap_or_else(|| "default".into());
    validate::path_name(&at("queue"), &queue)?;
    if let Some(key) = &task.key {
        validate::name(&at("key"), key)?;
    }
    let tags = task.tags.unwrap_or_default();
    if tags.len() > TAGS_MAX {
        return Err(Problem::invalid(
            &at("tags"),
            format!("{} tags; the limit is {TAGS_MAX}", tags.len()),
        ));
    }
    for (tag, position) in tags.iter().zip(0..) {
        validate::name(&at(&format!("tags[{position}]")), tag)?;
    }
    let after = task.after.unwrap_or_default();
    for (after, position) in after.iter().zip(0..) {
        let field = match after {
            wire::After::Key(_) => format!("after[{position}]"),
            wire::After::When(_) => format!("after[{position}].key"),
        };
        validate::name(&at(&field), after.key())?;
    }
    let after = after.into_iter().map(|after| Dependency {
        when: present::condition_from_wire(after.condition()),
        key: after.key().to_owned(),
    });
    let requires = task.requires.unwrap_or_default();
    for (name, value) in &requires.labels {
        validate::name(&at("requires.labels"), name)?;
        validate::bounded_text(&at(&format!("requires.labels.{name}")), value)?;
    }
    for name in requires.resources.keys() {
        validate::name(&at("requires.resources"), name)?;
    }
    let task = NewTask {
        payload: payload(app, &at("payload"), task.payload)?,
        priority: in_range(&at("priority"), task.priority.unwrap_or(0), 0, 9)?,
        not_before_ms: task.run_at.map(wire::Timestamp::unix_ms),
        delay_ms: in_range(&at("delay_ms"), task.delay_ms.unwrap_or(0), 0, TEN_YEARS_MS)?,
        expires_ms: task
            .expires_ms
            .map(|ms| in_range(&at("expires_ms"), ms, 1, TEN_YEARS_MS))
            .transpose()?,
        timeout_ms: task
            .timeout_ms
            .map(|ms| in_range(&at("timeout_ms"), ms, 1, TEN_YEARS_MS))
            .transpose()?,
        max_attempts: in_range(
            &at("max_attempts"),
            task.max_attempts.unwrap_or(3),
            1,
            ATTEMPTS_MAX,
        )?,
        max_losses: in_range(
            &at("max_losses"),
            task.max_losses.unwrap_or(5),
            1,
            ATTEMPTS_MAX,
        )?,
        backoff: backoff(&at, task.backoff.unwrap_or_default())?,
        requires: Requires {
            labels: requires.labels,
            resources: requires.resources,
        },
        unique: unique(&at, task.unique_key, task.on_duplicate)?,
        concurrency: concurrency(&at, task.concurrency_key, task.concurrency_limit)?,
        after: after.collect(),
        key: task.key,
        kind: task.kind,
        queue,
        tags,
    };
    if task.kind == exec::KIND {
        check_command(&at("payload"), &task.payload)?;
    }
    Ok(task)
}

/// Checks the payload of an `exec` task: a worker could not run any other.
fn check_command(field: &str, payload: &[u8]) -> Result<(), Problem> {
    if payload == b"null" {
        return Err(Problem::invalid(
            field,
            r#"is required for a task of kind exec, such as {"argv": ["echo", "hi"]}"#,
        ));
    }
    let command: wire::ExecPayload =
        json::parse_within(payload, JSON_DEPTH_MAX).map_err(|problem| problem.within(field))?;
    command
        .check()
        .map_err(|invalid| Problem::invalid(&invalid.field, invalid.detail).within(field))
}

fn unique(
    at: &impl Fn(&str) -> String,
    key: Option<String>,
    on_duplicate: Option<wire::OnDuplicate>,
) -> Result<Option<Unique>, Problem> {
    let Some(key) = key else {
        return match on_duplicate {
            None => Ok(None),
            Some(_) => Err(Problem::invalid(
                &at("on_duplicate"),
                "needs a unique_key, and the task has none",
            )),
        };
    };
    validate::name(&at("unique_key"), &key)?;
    let on_duplicate = match on_duplicate.unwrap_or_default() {
        wire::OnDuplicate::Refuse => OnDuplicate::Refuse,
        wire::OnDuplicate::Return => OnDuplicate::Return,
    };
    Ok(Some(Unique { key, on_duplicate }))
}

fn concurrency(
    at: &impl Fn(&str) -> String,
    key: Option<String>,
    limit: Option<u32>,
) -> Result<Option<Concurrency>, Problem> {
    let Some(key) = key else {
        return match limit {
            None => Ok(None),
            Some(_) => Err(Problem::invalid(
                &at("concurrency_limit"),
                "needs a concurrency_key, and the task has none",
            )),
        };
    };
    validate::name(&at("concurrency_key"), &key)?;
    let limit = in_range(
        &at("concurrency_limit"),
        limit.unwrap_or(1),
        1,
        CONCURRENCY_LIMIT_MAX,
    )?;
    let key = key.into();
    Ok(Some(Concurrency { key, limit }))
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
                "{field} is {} bytes long; the limit is {bound}: store the data where workers can reach it and pass its address",
                text.len()
            ),
        )
        .with("field", field)
        .with("payload_bytes_max", bound));
    }
    Ok(Bytes::from(text))
}

fn in_range<N: PartialOrd + std::fmt::Display>(
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

/// Converts a number that was checked to be within bounds to thousandths.
fn to_milli(value: f64) -> u32 {
    (value * 1_000.0).round() as u32
}

fn backoff(at: &impl Fn(&str) -> String, given: wire::Backoff) -> Result<Backoff, Problem> {
    let default = Backoff::default();
    let factor = given
        .factor
        .map(|factor| in_range(&at("backoff.factor"), factor, 1.0, BACKOFF_FACTOR_MAX))
        .transpose()?;
    let jitter = given
        .jitter
        .map(|jitter| in_range(&at("backoff.jitter"), jitter, 0.0, 1.0))
        .transpose()?;
    Ok(Backoff {
        initial_ms: in_range(
            &at("backoff.initial_ms"),
            given.initial_ms.unwrap_or(default.initial_ms),
            0,
            TEN_YEARS_MS,
        )?,
        factor_milli: factor.map_or(default.factor_milli, to_milli),
        max_ms: in_range(
            &at("backoff.max_ms"),
            given.max_ms.unwrap_or(default.max_ms),
            0,
            TEN_YEARS_MS,
        )?,
        jitter_permille: jitter.map_or(default.jitter_permille, |jitter| {
            u16::try_from(to_milli(jitter)).unwrap_or(1_000)
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_of_a_command_is_checked_with_the_name_of_the_field() {
        let refused = |payload: &str| {
            let problem = check_command("tasks[0].payload", payload.as_bytes()).err()?;
            Some(problem.field().strip_prefix("tasks[0].payload")?.to_owned())
        };
        for (payload, field) in [
            ("null", ""),
            ("{}", ""),
            ("7", ""),
            (r#"["true"]"#, ""),
            (r#"{"argv":[]}"#, ".argv"),
            (r#"{"argv":[""]}"#, ".argv[0]"),
            (r#"{"argv":"true"}"#, ".argv"),
            (r#"{"argv":["true",7]}"#, ".argv[1]"),
            (r#"{"argv":["true","a\u0000b"]}"#, ".argv[1]"),
            (r#"{"argv":["true"],"shell":true}"#, ".shell"),
            (r#"{"argv":["true"],"env":["A=1"]}"#, ".env"),
            (r#"{"argv":["true"],"env":{"A":1}}"#, ".env.A"),
            (r#"{"argv":["true"],"env":{"A=B":"1"}}"#, ".env"),
            (r#"{"argv":["true"],"env":{"A":"\u0000"}}"#, ".env.A"),
            (r#"{"argv":["true"],"stdin":7}"#, ".stdin"),
            (r#"{"argv":["true"],"cwd":""}"#, ".cwd"),
        ] {
            assert_eq!(refused(payload).as_deref(), Some(field), "{payload}");
        }
        let whole = r#"{"argv":["a b","-x",""],"env":{"A":""},"stdin":"\u0000","cwd":"."}"#;
        assert_eq!(refused(whole), None);
    }
}
