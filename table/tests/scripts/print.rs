//! Output format of the scripts: one line for each result, with the relevant fields only.

use std::fmt::Display;

use triarch_table::command::Grant;
use triarch_table::command::reply::ReportDecision;
use triarch_table::records::job::Counts;
use triarch_table::records::task::{Attempt, CancelCause, Life};
use triarch_table::records::worker::{Profile, WorkerLife};
use triarch_table::{
    Event, Job, JobFilter, Reply, Schedule, Table, Task, TaskFilter, Token, Worker,
};

use crate::parse::Show;

pub fn list<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

pub fn grant(grant: &Grant) -> String {
    format!("{}:{}", grant.task, grant.worker)
}

fn token(token: Token) -> String {
    format!("{}.{}", token.0 >> 12, token.0 & 0xfff)
}

pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Submitted {
            job,
            tasks,
            duplicate,
        } => {
            format!(
                "submitted {job}: {}{}",
                list(tasks),
                if *duplicate { " (duplicate)" } else { "" }
            )
        }
        Reply::Staged { received, parts } => {
            format!("staged {} of {parts}", list(received))
        }
        Reply::Registered { worker } => format!("registered {worker}"),
        Reply::Granted { leases } => {
            let leases: Vec<String> = leases
                .iter()
                .map(|lease| {
                    format!(
                        "{}:{} {} attempt={}",
                        lease.task,
                        lease.worker,
                        token(lease.token),
                        lease.attempt
                    )
                })
                .collect();
            format!(
                "granted {}",
                if leases.is_empty() {
                    "none".to_owned()
                } else {
                    leases.join(", ")
                }
            )
        }
        Reply::Reported { decisions } => {
            let word = |decision: &ReportDecision| match decision {
                ReportDecision::Accepted => "accepted",
                ReportDecision::StaleToken => "stale_token",
                ReportDecision::AlreadyFinished => "already_finished",
                ReportDecision::NotFound => "not_found",
            };
            format!(
                "reported {}",
                list(&decisions.iter().map(word).collect::<Vec<_>>())
            )
        }
        Reply::Done { tasks } => format!("done {tasks}"),
        Reply::SchedulePut { created: true } => "schedule made".to_owned(),
        Reply::SchedulePut { created: false } => "schedule replaced".to_owned(),
        Reply::Restoring { received, parts } => format!("restoring {received} of {parts}"),
        Reply::Restored { jobs, tasks } => format!("restored {jobs} jobs, {tasks} tasks"),
        Reply::Refused(refusal) => format!("refused: {refusal}"),
    }
}

pub fn event(event: &Event) -> String {
    match event {
        Event::JobSubmitted { job } => format!("{job} submitted"),
        Event::TaskChanged { task, to, .. } => format!("{task} {}", to.as_str()),
        Event::LeaseGranted {
            task,
            worker,
            token: lease,
        } => format!("lease {} {task}:{worker}", token(*lease)),
        Event::LeaseEnded {
            task,
            worker,
            token: lease,
        } => format!("lease {} {task}:{worker} ended", token(*lease)),
        Event::JobFinished { job, state } => format!("{job} {}", state.as_str()),
        Event::WorkerRegistered { worker } => format!("{worker} registered"),
        Event::WorkerDraining { worker } => format!("{worker} draining"),
        Event::WorkerChanged { worker, to } => format!("{worker} {}", to.as_str()),
        Event::Restored => "restored".to_owned(),
        Event::TimeSetBack { from_ms, to_ms } => format!("time {from_ms} set back to {to_ms}"),
        Event::QueueChanged { queue } => format!("queue {queue} changed"),
        Event::WorkerGone { worker, lost } => {
            format!("{worker} {}", if *lost { "lost" } else { "left" })
        }
        Event::ScheduleChanged { name } => format!("schedule {name} changed"),
        Event::ScheduleTicked { name, tick_ms, job } => {
            let job = job.map_or("no job".to_owned(), |job| job.to_string());
            format!("schedule {name} ticked {tick_ms}: {job}")
        }
    }
}

pub fn shown(table: &Table, show: &Show) -> String {
    match show {
        Show::Task(id) => table
            .task(*id)
            .map_or_else(|| format!("{id} is not there"), task),
        Show::Job(id) => table
            .job(*id)
            .map_or_else(|| format!("{id} is not there"), job),
        Show::Worker(id) => table
            .worker(*id)
            .map_or_else(|| format!("{id} is not there"), worker),
        Show::Jobs => {
            let jobs = table.jobs(&JobFilter::default(), None, usize::MAX).items;
            list(
                &jobs
                    .iter()
                    .map(|job| format!("{}={}", job.id, job.state().as_str()))
                    .collect::<Vec<_>>(),
            )
        }
        Show::Tasks => {
            let tasks = table.tasks(&TaskFilter::default(), None, usize::MAX).items;
            list(
                &tasks
                    .iter()
                    .map(|task| format!("{}={}", task.id, task.state().as_str()))
                    .collect::<Vec<_>>(),
            )
        }
        Show::Queues => {
            let queue = |queue: &triarch_table::QueueView<'_>| {
                let oldest = queue
                    .oldest_ready_ms
                    .map_or(String::new(), |at_ms| format!(" oldest={at_ms}"));
                format!("queue {}: {}{oldest}", queue.name, counts(&queue.counts))
            };
            table
                .queues()
                .map(|view| queue(&view))
                .collect::<Vec<_>>()
                .join("\n")
        }
        Show::Leases => {
            let leases = table
                .leases()
                .map(|lease| format!("{}:{}@{}", lease.task, lease.worker, token(lease.token)));
            format!("leases: {}", list(&leases.collect::<Vec<_>>()))
        }
        Show::Why(id) => format!("why: {:?}", table.explain(*id, 0).unwrap_or_default()),
        Show::Timer => match table.next_timer_ms() {
            Some(at_ms) if at_ms <= table.now_ms() => "timer: due".to_owned(),
            Some(at_ms) => format!("timer: {at_ms}"),
            None => "timer: none".to_owned(),
        },
        Show::Schedules => {
            let listed = table.schedules(None, 100);
            assert_eq!(listed.next, None);
            let lines: Vec<String> = listed.items.into_iter().map(schedule).collect();
            let due = table
                .ticks()
                .map(|(at_ms, schedule)| format!("{}@{at_ms}", schedule.name));
            format!(
                "{}ticks: {}",
                lines.concat(),
                list(&due.collect::<Vec<_>>())
            )
        }
    }
}

fn counts(counts: &Counts) -> String {
    let some = counts.iter().filter(|(_, count)| *count > 0);
    list(
        &some
            .map(|(state, count)| format!("{}={count}", state.as_str()))
            .collect::<Vec<_>>(),
    )
}

fn job(job: &Job) -> String {
    let finished = job
        .finished_ms
        .map_or(String::new(), |at_ms| format!(" finished={at_ms}"));
    let key = job
        .idempotency
        .as_ref()
        .map_or(String::new(), |idempotency| {
            format!(" key={}", idempotency.key)
        });
    format!(
        "{} {:?} {} [{}]{finished} bytes={}{key}",
        job.id,
        job.name,
        job.state().as_str(),
        counts(&job.counts),
        job.bytes
    )
}

fn schedule(schedule: &Schedule) -> String {
    let time = |time: Option<u64>| time.map_or("none".to_owned(), |ms| ms.to_string());
    let error = schedule.last_error.as_deref();
    format!(
        "schedule {} generation={} {:?} in {}: {} tasks overlap={:?} catch_up={:?}{} next={}\n  \
         fired={} skipped={} missed={} last={} job={}{}\n",
        schedule.name,
        schedule.generation,
        schedule.cron,
        schedule.timezone,
        schedule.job.tasks.len(),
        schedule.overlap,
        schedule.catch_up,
        if schedule.paused { " paused" } else { "" },
        time(schedule.next_tick_ms),
        schedule.fired,
        schedule.skipped,
        schedule.missed,
        time(schedule.last_tick_ms),
        schedule
            .last_job
            .map_or("none".to_owned(), |job| job.to_string()),
        error.map_or(String::new(), |error| format!("\n  last error: {error}"))
    )
}

fn worker(worker: &Worker) -> String {
    let Profile {
        queues,
        kinds,
        labels,
        resources,
    } = &*worker.profile;
    let queues: Vec<&String> = queues.iter().collect();
    let kinds: Vec<&String> = kinds.iter().collect();
    let gone = worker
        .gone_ms()
        .map_or(String::new(), |at_ms| format!(" at={at_ms}"));
    let away = match worker.life {
        WorkerLife::Quarantined { until_ms, round } => format!(" until={until_ms} round={round}"),
        _ => String::new(),
    };
    let streak = match worker.streak.len() {
        0 => String::new(),
        length => format!(" streak={length}"),
    };
    format!(
        "{} {} {}{gone}{away}{streak} slots={} queues=[{}] kinds=[{}] labels={labels:?} resources={resources:?}",
        worker.id,
        worker.name,
        worker.state().as_str(),
        worker.slots,
        list(&queues),
        list(&kinds)
    )
}

fn task(task: &Task) -> String {
    let life = match &task.life {
        Life::Waiting {
            on,
            not_before_ms,
            delay_ms,
        } => format!(" on={on} not_before={not_before_ms} delay={delay_ms}"),
        Life::Delayed { until_ms } => format!(" until={until_ms}"),
        Life::Queued { position } => {
            format!(" place={} since={}", position.order, position.since_ms)
        }
        Life::Running {
            worker,
            token: lease,
            started_ms,
            position,
        } => {
            format!(
                " on={worker} token={} started={started_ms} place={}",
                token(*lease),
                position.order
            )
        }
        Life::Succeeded {
            result,
            finished_ms,
        } => format!(" at={finished_ms} result={}", text(result)),
        Life::Failed { error, finished_ms } => format!(" at={finished_ms} error={}", text(error)),
        Life::Cancelled { finished_ms, cause } => {
            let cause = match cause {
                CancelCause::Asked => String::new(),
                CancelCause::JobFailed(task) => format!(" because {task} failed the job"),
                CancelCause::Dependency(task) => format!(" because of {task}"),
                CancelCause::NotNeeded(task) => format!(" not needed after {task}"),
                CancelCause::JobDependency(job) => format!(" because of {job}"),
            };
            format!(" at={finished_ms}{cause}")
        }
        Life::Expired { finished_ms } => format!(" at={finished_ms}"),
    };
    let expires = task
        .expires_at_ms
        .map_or(String::new(), |at_ms| format!(" expires={at_ms}"));
    let policy = &task.spec.policy;
    let mut line = format!(
        "{} {} in {} p{}: {}{life}{expires} attempt={} failures={}/{} losses={}/{}",
        task.id,
        task.kind(),
        task.queue(),
        task.priority(),
        task.state().as_str(),
        task.attempt,
        task.failures,
        policy.max_attempts,
        task.losses,
        policy.max_losses
    );
    for attempt in &task.history {
        line.push_str(&ended(attempt));
    }
    line
}

fn ended(attempt: &Attempt) -> String {
    let error = attempt
        .end
        .error()
        .map_or(String::new(), |error| format!(" {}", text(error)));
    format!(
        "\n  attempt {} {} {} {}..{} {}{error}",
        attempt.attempt,
        attempt.worker,
        token(attempt.token),
        attempt.started_ms,
        attempt.ended_ms,
        attempt.end.as_str()
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
