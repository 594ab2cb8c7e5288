//! Parser of the script language. Each line is one command or one query:
//!
//! ```text
//! limits queue_depth_max=2            before the first command
//! at 5000   +100                      sets or moves the stamp of the next entry
//! submit [name= key= digest= request= fail_fast after=j1-0,j2-0!failed] / exec [queue= priority= after=a,b!failed,c!ended unique=k unique_or=k alone=k:2 …] [*3] / …
//! part 1/3 key=k [name= digest= fail_fast] / exec … / …
//! cancel_tasks t1-0 t1-1   cancel_waiting t1-0 t1-1   retry_tasks t1-0 t1-1   forget j1-0 j2-0
//! cancel_job j1-0   cancel_task t1-0   retry t1-0 [request=]
//! register a [queues=x,y kinds= slots= labels=zone:eu resources=mem:4 request=]
//! pause_worker w1-0   resume_worker w1-0   drain w1-0   leave w1-0   lose w1-0 w1-1
//! grant t1-0:w2-0 …
//! end t1-0 3.0 expired|returned|timed_out
//! report w2-0 / t1-0 3.0 succeeded [1] / t1-1 3.1 failed {} / t1-2 3.2 failed_for_good {} / t1-3 3.3 returned
//! report w2-0 / t1-0 3.0 failed_retry_after=500 {}
//! advance
//! queue mail [paused=yes|no max_running=2|none rate=10:5|none max_depth= weight= placement=pack retain_ms= retain_jobs=]
//! schedule s [next= cron= zone= forbid catch_up=none|one|all paused name= …as submit] / exec … / …
//! set_back 5000 [s:generation:next …]
//! tick s generation at [next] [pass=3]   pause s   resume s generation [next]   trigger s [request=]   delete s
//! plan w2-0:3 … [max=5]               asks the scheduler, changes nothing
//! restart                             writes a snapshot and goes on with what it reads
//! why t1-0   task t1-0   job j1-0   worker w1-0   jobs   tasks   queues   leases   timer   schedules      shows
//! ```
//!
//! A token is written as index and position of its grant.

use std::collections::BTreeMap;

use bytes::Bytes;
use triarch_table::command::{
    self, AfterJob, Backoff, Concurrency, Dependency, DependencyCondition, EndLease, EndReason,
    Grant, NewTask, OnDuplicate, OnFailure, QueueChange, RegisterWorker, ReportedOutcome, Requires,
    StagePart, SubmitJob, TaskReport, Unique,
};
use triarch_table::types::queue_options::{Placement, Rate};
use triarch_table::{Command, JobId, Limits, TaskId, Token, WorkerId};

use crate::parse_schedule::{numbered, schedule, tick};
use crate::set_back;

/// A change of one limit.
type Setting = Box<dyn Fn(&mut Limits)>;

pub enum Statement {
    Limits(Vec<Setting>),
    At(u64),
    After(u64),
    Command(Box<Command>),
    Query(Query),
}

pub enum Query {
    Plan {
        demands: Vec<command::WorkerDemand>,
        grants_max: usize,
    },
    Restart,
    Show(Show),
}

pub enum Show {
    Task(TaskId),
    Job(JobId),
    Worker(WorkerId),
    Jobs,
    Tasks,
    Queues,
    Leases,
    Timer,
    Why(TaskId),
    Schedules,
}

pub type Parsed<T> = Result<T, String>;

pub fn parse(line: &str) -> Parsed<Statement> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words: Vec<&str> = rest.split_whitespace().collect();
    if let Some(ms) = verb.strip_prefix('+') {
        return Ok(Statement::After(number(ms)?));
    }
    let query = |show| Ok(Statement::Query(Query::Show(show)));
    let command = match verb {
        "limits" => {
            return Ok(Statement::Limits(
                words
                    .iter()
                    .map(|word| limit(word))
                    .collect::<Parsed<_>>()?,
            ));
        }
        "at" => return Ok(Statement::At(number(rest)?)),
        "plan" => return Ok(Statement::Query(plan(&words)?)),
        "restart" => return Ok(Statement::Query(Query::Restart)),
        "task" => return query(Show::Task(id(rest)?)),
        "why" => return query(Show::Why(id(rest)?)),
        "job" => return query(Show::Job(id(rest)?)),
        "worker" => return query(Show::Worker(id(rest)?)),
        "jobs" => return query(Show::Jobs),
        "tasks" => return query(Show::Tasks),
        "queues" => return query(Show::Queues),
        "leases" => return query(Show::Leases),
        "timer" => return query(Show::Timer),
        "schedules" => return query(Show::Schedules),
        "submit" => Command::SubmitJob(submit(rest)?),
        "cancel_job" => Command::CancelJob { job: id(rest)? },
        "cancel_task" => Command::CancelTask { task: id(rest)? },
        "retry" => {
            let (task, settings) = (
                words.first().ok_or("which task?")?,
                settings(words.get(1..).unwrap_or(&[]))?,
            );
            let request_id = settings.get("request").map(|request| request.to_string());
            Command::RetryTask {
                task: id(task)?,
                request_id,
            }
        }
        "register" => Command::RegisterWorker(register(&words)?),
        "drain" => Command::DrainWorker { worker: id(rest)? },
        "leave" => Command::LeaveWorker { worker: id(rest)? },
        "lose" => Command::LoseWorkers {
            workers: words.iter().map(|word| id(word)).collect::<Parsed<_>>()?,
        },
        "grant" => Command::Grant {
            grants: words
                .iter()
                .map(|word| grant(word))
                .collect::<Parsed<_>>()?,
        },
        // `next w1-0:2 w1-1:1!`, of which the last is overloaded
        "next" => Command::GrantNext {
            demands: words
                .iter()
                .map(|word| worker_demand(word))
                .collect::<Parsed<_>>()?,
        },
        "end" => Command::EndLeases {
            leases: rest.split(" / ").map(end).collect::<Parsed<_>>()?,
        },
        "report" => report(rest)?,
        "advance" => Command::AdvanceTime,
        "queue" => change_queue(&words)?,
        "part" => {
            // `part 1/3 key=k … / exec / exec`
            let (which, rest) = rest.split_once(' ').ok_or("a part has tasks")?;
            let (part, parts) = which.split_once('/').ok_or("which part of how many?")?;
            let job = submit(rest)?;
            Command::StagePart(StagePart {
                key: job.idempotency_key.ok_or("a part has a key")?,
                part: number(part)?,
                parts: number(parts)?,
                digest: job.body_digest,
                name: job.name,
                on_failure: job.on_failure,
                tasks: job.tasks,
            })
        }
        "schedule" => Command::PutSchedule(schedule(rest)?),
        "tick" => Command::TickSchedule(tick(&words)?),
        "pause" => Command::PauseSchedule {
            name: rest.to_owned(),
        },
        "resume" => {
            let (name, generation, next) = numbered(&words)?;
            Command::ResumeSchedule {
                name,
                generation,
                next_tick_ms: next,
            }
        }
        "trigger" => {
            let (name, words) = words.split_first().ok_or("which schedule?")?;
            let settings = settings(words)?;
            Command::TriggerSchedule {
                name: name.to_string(),
                request_id: settings.get("request").map(|request| request.to_string()),
            }
        }
        "delete" => Command::DeleteSchedule {
            name: rest.to_owned(),
        },
        "set_back" => Command::SetTimeBack(set_back::parse(&words)?),
        "pause_worker" => Command::PauseWorker { worker: id(rest)? },
        "resume_worker" => Command::ResumeWorker { worker: id(rest)? },
        "cancel_tasks" | "cancel_waiting" => Command::CancelTasks {
            tasks: words.iter().map(|word| id(word)).collect::<Parsed<_>>()?,
            include_running: verb == "cancel_tasks",
        },
        "retry_tasks" => Command::RetryTasks {
            tasks: words.iter().map(|word| id(word)).collect::<Parsed<_>>()?,
        },
        "forget" => Command::ForgetJobs {
            jobs: words.iter().map(|word| id(word)).collect::<Parsed<_>>()?,
        },
        other => return Err(format!("what is {other:?}?")),
    };
    Ok(Statement::Command(Box::new(command)))
}

pub fn number<T: std::str::FromStr>(text: &str) -> Parsed<T> {
    text.parse()
        .map_err(|_| format!("{text:?} is no number that fits"))
}

fn id<T: std::str::FromStr>(text: &str) -> Parsed<T> {
    text.parse()
        .map_err(|_| format!("{text:?} is no id of this kind"))
}

fn settings<'a>(words: &[&'a str]) -> Parsed<BTreeMap<&'a str, &'a str>> {
    words
        .iter()
        .map(|word| word.split_once('=').ok_or(format!("{word:?} has no value")))
        .collect()
}

fn names(list: &str) -> Vec<String> {
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn pairs<T>(list: &str, value: impl Fn(&str) -> Parsed<T>) -> Parsed<BTreeMap<String, T>> {
    let pair = |pair: String| {
        let (name, text) = pair.split_once(':').ok_or(format!("{pair:?} is no pair"))?;
        Ok((name.to_owned(), value(text)?))
    };
    names(list).into_iter().map(pair).collect()
}

fn token(text: &str) -> Parsed<Token> {
    let (index, position) = text
        .split_once('.')
        .ok_or(format!("{text:?} is no token"))?;
    Token::at(number(index)?, number(position)?).ok_or(format!("{text:?} is past the bound"))
}

fn limit(word: &str) -> Parsed<Setting> {
    let (name, value) = word
        .split_once('=')
        .ok_or(format!("{word:?} has no value"))?;
    let value: u32 = number(value)?;
    let field: fn(&mut Limits, u32) = match name {
        "payload_bytes_max" => |limits, value| limits.payload_bytes_max = value,
        "tasks_per_job_max" => |limits, value| limits.tasks_per_job_max = value,
        "dependencies_per_job_max" => |limits, value| limits.dependencies_per_job_max = value,
        "inputs_bytes_max" => |limits, value| limits.inputs_bytes_max = value.into(),
        "staged_jobs_max" => |limits, value| limits.staged_jobs_max = value,
        "staged_bytes_max" => |limits, value| limits.staged_bytes_max = value.into(),
        "staged_age_ms" => |limits, value| limits.staged_age_ms = value.into(),
        "tasks_max" => |limits, value| limits.tasks_max = value.into(),
        "bytes_max" => |limits, value| limits.bytes_max = value.into(),
        "queues_max" => |limits, value| limits.queues_max = value.into(),
        "queue_depth_max" => |limits, value| limits.queue_depth_max = value.into(),
        "classes_per_queue_max" => |limits, value| limits.classes_per_queue_max = value,
        "workers_max" => |limits, value| limits.workers_max = value,
        "attempts_kept_max" => |limits, value| limits.attempts_kept_max = value,
        "advance_steps_max" => |limits, value| limits.advance_steps_max = value,
        "requests_max" => |limits, value| limits.requests_max = value.into(),
        "requests_age_ms" => |limits, value| limits.requests_age_ms = value.into(),
        "keys_max" => |limits, value| limits.keys_max = value.into(),
        "keys_age_ms" => |limits, value| limits.keys_age_ms = value.into(),
        "finished_jobs_max" => |limits, value| limits.finished_jobs_max = value.into(),
        "finished_tasks_max" => |limits, value| limits.finished_tasks_max = value.into(),
        "finished_bytes_max" => |limits, value| limits.finished_bytes_max = value.into(),
        "finished_age_ms" => |limits, value| limits.finished_age_ms = value.into(),
        "gone_workers_max" => |limits, value| limits.gone_workers_max = value.into(),
        "schedules_max" => |limits, value| limits.schedules_max = value,
        "schedules_bytes_max" => |limits, value| limits.schedules_bytes_max = value.into(),
        "gone_workers_age_ms" => |limits, value| limits.gone_workers_age_ms = value.into(),
        other => return Err(format!("there is no limit {other:?}")),
    };
    Ok(Box::new(move |limits| field(limits, value)))
}

fn plan(words: &[&str]) -> Parsed<Query> {
    let mut demands = Vec::new();
    let mut grants_max = usize::MAX;
    for word in words {
        if let Some(max) = word.strip_prefix("max=") {
            grants_max = number(max)?;
        } else {
            demands.push(worker_demand(word)?);
        }
    }
    Ok(Query::Plan {
        demands,
        grants_max,
    })
}

pub fn submit(rest: &str) -> Parsed<SubmitJob> {
    let rest = format!(" {rest}");
    let mut parts = rest.split(" / ").map(str::trim);
    let words: Vec<&str> = parts.next().unwrap_or("").split_whitespace().collect();
    let (fail_fast, words): (Vec<&str>, Vec<&str>) =
        words.into_iter().partition(|word| *word == "fail_fast");
    let mut submit = SubmitJob {
        request_id: None,
        idempotency_key: None,
        body_digest: [0; 32],
        part_digests: Vec::new(),
        after_jobs: Vec::new(),
        name: String::new(),
        on_failure: if fail_fast.is_empty() {
            OnFailure::Continue
        } else {
            OnFailure::FailFast
        },
        tasks: Vec::new(),
    };
    for (name, value) in settings(&words)? {
        match name {
            "request" => submit.request_id = Some(value.to_owned()),
            "key" => submit.idempotency_key = Some(value.to_owned()),
            "digest" => submit.body_digest = [number(value)?; 32],
            "name" => submit.name = value.to_owned(),
            "after" => {
                submit.after_jobs = names(value)
                    .iter()
                    .map(|text| after_job(text))
                    .collect::<Parsed<_>>()?
            }
            other => return Err(format!("a job has no {other:?}")),
        }
    }
    for part in parts {
        let (part, times) = part.split_once('*').unwrap_or((part, "1"));
        let task = new_task(&part.split_whitespace().collect::<Vec<_>>())?;
        submit
            .tasks
            .extend(std::iter::repeat_n(task, number(times)?));
    }
    Ok(submit)
}

/// Parses a job's id, and its condition if there is one: `j1-0`, `j1-0!failed`.
fn after_job(text: &str) -> Parsed<AfterJob> {
    let Dependency { key, when } = dependency(text)?;
    Ok(AfterJob {
        job: id(&key)?,
        when,
    })
}

fn new_task(words: &[&str]) -> Parsed<NewTask> {
    let (kind, words) = words.split_first().ok_or("a task has a kind")?;
    let mut task = NewTask {
        key: None,
        kind: if *kind == "_" {
            String::new()
        } else {
            kind.to_string()
        },
        payload: Bytes::from_static(b"{}"),
        queue: "default".to_owned(),
        priority: 0,
        not_before_ms: None,
        delay_ms: 0,
        expires_ms: None,
        timeout_ms: None,
        max_attempts: 3,
        max_losses: 5,
        backoff: Backoff {
            jitter_permille: 0,
            ..Backoff::default()
        },
        requires: Requires::default(),
        tags: Vec::new(),
        after: Vec::new(),
        unique: None,
        concurrency: None,
    };
    for (name, value) in settings(words)? {
        match name {
            "key" => task.key = Some(value.to_owned()),
            "payload" => task.payload = Bytes::from(value.to_owned()),
            "queue" => task.queue = value.to_owned(),
            "priority" => task.priority = number(value)?,
            "not_before" => task.not_before_ms = Some(number(value)?),
            "delay" => task.delay_ms = number(value)?,
            "expires" => task.expires_ms = Some(number(value)?),
            "timeout" => task.timeout_ms = Some(number(value)?),
            "attempts" => task.max_attempts = number(value)?,
            "losses" => task.max_losses = number(value)?,
            "backoff" => task.backoff.initial_ms = number(value)?,
            "factor" => task.backoff.factor_milli = number(value)?,
            "backoff_max" => task.backoff.max_ms = number(value)?,
            "jitter" => task.backoff.jitter_permille = number(value)?,
            "labels" => task.requires.labels = pairs(value, |text| Ok(text.to_owned()))?,
            "resources" => task.requires.resources = pairs(value, number)?,
            "tags" => task.tags = names(value),
            "after" => {
                task.after = names(value)
                    .iter()
                    .map(|text| dependency(text))
                    .collect::<Parsed<_>>()?
            }
            "unique" | "unique_or" => {
                task.unique = Some(Unique {
                    key: value.to_owned(),
                    on_duplicate: match name {
                        "unique" => OnDuplicate::Refuse,
                        _ => OnDuplicate::Return,
                    },
                });
            }
            "alone" => {
                let (key, limit) = value.split_once(':').unwrap_or((value, "1"));
                task.concurrency = Some(Concurrency {
                    key: key.into(),
                    limit: number(limit)?,
                });
            }
            other => return Err(format!("a task has no {other:?}")),
        }
    }
    Ok(task)
}

/// Parses a key, and its condition if there is one: `a`, `a!failed`, `a!ended`.
fn dependency(text: &str) -> Parsed<Dependency> {
    let (key, when) = text.split_once('!').unwrap_or((text, "succeeded"));
    let mut known = DependencyCondition::ALL.into_iter();
    let when = known.find(|known| known.as_str() == when);
    Ok(Dependency {
        key: key.to_owned(),
        when: when.ok_or(format!("{text:?} has no known condition"))?,
    })
}

fn register(words: &[&str]) -> Parsed<RegisterWorker> {
    let (name, words) = words.split_first().ok_or("a worker has a name")?;
    let mut register = RegisterWorker {
        request_id: None,
        name: name.to_string(),
        queues: vec!["default".to_owned()],
        kinds: vec!["exec".to_owned()],
        slots: 1,
        labels: BTreeMap::new(),
        resources: BTreeMap::new(),
    };
    for (name, value) in settings(words)? {
        match name {
            "request" => register.request_id = Some(value.to_owned()),
            "queues" => register.queues = names(value),
            "kinds" => register.kinds = names(value),
            "slots" => register.slots = number(value)?,
            "labels" => register.labels = pairs(value, |text| Ok(text.to_owned()))?,
            "resources" => register.resources = pairs(value, number)?,
            other => return Err(format!("a worker has no {other:?}")),
        }
    }
    Ok(register)
}

fn change_queue(words: &[&str]) -> Parsed<Command> {
    let (queue, words) = words.split_first().ok_or("which queue?")?;
    let mut change = QueueChange::default();
    fn bound<T: std::str::FromStr>(value: &str) -> Parsed<Option<Option<T>>> {
        match value {
            "none" => Ok(Some(None)),
            value => Ok(Some(Some(number(value)?))),
        }
    }
    for (name, value) in settings(words)? {
        match name {
            "paused" => change.paused = Some(value == "yes"),
            "max_running" => change.max_running = bound(value)?,
            "max_depth" => change.max_depth = bound(value)?,
            "retain_ms" => change.retain_ms = bound(value)?,
            "retain_jobs" => change.retain_jobs = bound(value)?,
            "weight" => change.weight = Some(number(value)?),
            "rate" if value == "none" => change.rate = Some(None),
            "rate" => {
                let (per_s, burst) = value.split_once(':').unwrap_or((value, "1"));
                change.rate = Some(Some(Rate {
                    per_s_milli: number::<u64>(per_s)? * 1_000,
                    burst: number(burst)?,
                }));
            }
            "placement" if value == "pack" => change.placement = Some(Placement::Pack),
            "placement" => change.placement = Some(Placement::Spread),
            other => return Err(format!("a queue has no {other:?}")),
        }
    }
    Ok(Command::ChangeQueue {
        queue: queue.to_string(),
        change,
    })
}

fn grant(word: &str) -> Parsed<Grant> {
    let (task, worker) = word
        .split_once(':')
        .ok_or(format!("{word:?} is no grant"))?;
    Ok(Grant {
        task: id(task)?,
        worker: id(worker)?,
    })
}

fn worker_demand(word: &str) -> Parsed<command::WorkerDemand> {
    let (worker, wanted) = word
        .split_once(':')
        .ok_or(format!("{word:?} asks for nothing"))?;
    Ok(command::WorkerDemand {
        worker: id(worker)?,
        wanted: number(wanted.trim_end_matches('!'))?,
        overloaded: wanted.ends_with('!'),
    })
}

fn end(text: &str) -> Parsed<EndLease> {
    let [task, lease, reason] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(format!("{text:?} is not a task, a token and a reason"));
    };
    let reason = match reason {
        "expired" => EndReason::Expired,
        "returned" => EndReason::Returned,
        "timed_out" => EndReason::TimedOut,
        other => return Err(format!("{other:?} is no reason")),
    };
    Ok(EndLease {
        task: id(task)?,
        token: token(lease)?,
        reason,
    })
}

fn report(rest: &str) -> Parsed<Command> {
    let mut parts = rest.split(" / ").map(str::trim);
    let worker = id(parts.next().unwrap_or(""))?;
    let result = |text: &str| {
        let mut words = text.splitn(4, ' ');
        let mut word = || words.next().ok_or(format!("{text:?} is too short"));
        let (task, lease, status) = (id(word()?)?, token(word()?)?, word()?);
        let body = Bytes::from(words.next().unwrap_or("null").to_owned());
        let outcome = match status {
            "succeeded" => ReportedOutcome::Succeeded { result: body },
            "failed" => ReportedOutcome::Failed {
                error: body,
                retryable: true,
            },
            "failed_for_good" => ReportedOutcome::Failed {
                error: body,
                retryable: false,
            },
            "returned" => ReportedOutcome::Returned,
            other => match other.strip_prefix("failed_retry_after=") {
                Some(retry_after_ms) => ReportedOutcome::FailedRetryAfter {
                    error: body,
                    retry_after_ms: number(retry_after_ms)?,
                },
                None => return Err(format!("{other:?} is no status")),
            },
        };
        Ok(TaskReport {
            task,
            token: lease,
            outcome,
        })
    };
    Ok(Command::Report {
        worker,
        results: parts.map(result).collect::<Parsed<_>>()?,
    })
}
