//! `triarch events`: what happens, as it happens.

use std::io;
use std::process::ExitCode;

use clap::Args;
use triarch_sdk::wire::event::Happened;
use triarch_sdk::wire::{Event, EventsQuery};

use crate::cli::Failure;
use crate::cli::context::Session;
use crate::cli::output;
use crate::cli::output::Format;

/// Follow what happens, in the order of the log
#[derive(Debug, Args)]
#[command(
    after_help = "Runs until Ctrl-C, over failovers. With --output json, one object per line; its \"id\" is what --after takes."
)]
pub struct EventsArgs {
    /// Only tasks in these queues
    #[arg(short, long, value_name = "QUEUE,…")]
    queue: Option<String>,
    /// Only these jobs and their tasks
    #[arg(long, value_name = "JOB,…")]
    job: Option<String>,
    /// Only these tasks
    #[arg(long, value_name = "TASK,…")]
    task: Option<String>,
    /// Only changes to these states
    #[arg(long, value_name = "STATE,…")]
    state: Option<String>,
    /// Only events of these types, such as job_finished
    #[arg(long = "type", value_name = "TYPE,…")]
    types: Option<String>,
    /// Go on after this event, or after this log index [default: from now on]
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl EventsArgs {
    /// Does what was asked.
    pub async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        let mut events = session.client.events(EventsQuery {
            queue: self.queue,
            job: self.job,
            task: self.task,
            state: self.state,
            types: self.types,
            after: self.after,
        });
        let mut left = self.limit.unwrap_or(u64::MAX);
        while left > 0 {
            let event = tokio::select! {
                event = events.next() => event?,
                _ = tokio::signal::ctrl_c() => break,
            };
            left -= 1;
            output::line(&match session.format {
                Format::Table => for_people(&event),
                Format::Json => serde_json::to_string(&event).map_err(io::Error::other)?,
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One line: when, where in the log, what, and what it is about.
fn for_people(event: &Event) -> String {
    let word = event.what.type_str();
    let about = about(&event.what);
    let line = format!("{}  {:<10}  {word:<17}  {about}", event.at, event.id);
    line.trim_end().to_owned()
}

fn about(what: &Happened) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut say = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            words.push(if name.is_empty() {
                value.to_owned()
            } else {
                format!("{name}={}", crate::cli::quoted(value))
            });
        }
    };
    let number = |number: &Option<u32>| number.map(|number| number.to_string());
    match what {
        Happened::JobSubmitted { job, name, tasks } => {
            say("", Some(job));
            say("name", name.as_deref());
            say("tasks", Some(&tasks.to_string()));
        }
        Happened::TaskChanged {
            task,
            job,
            queue,
            kind,
            state,
            worker,
            attempt,
        } => {
            say("", Some(task));
            say("", Some(state.as_str()));
            say("job", job.as_deref());
            say("queue", queue.as_deref());
            say("kind", kind.as_deref());
            say("worker", worker.as_deref());
            say("attempt", number(attempt).as_deref());
        }
        Happened::LeaseGranted {
            task,
            job,
            queue,
            kind,
            worker,
            attempt,
            token,
        } => {
            say("", Some(task));
            say("worker", Some(worker));
            say("attempt", number(attempt).as_deref());
            say("token", Some(&token.to_string()));
            say("job", job.as_deref());
            say("queue", queue.as_deref());
            say("kind", kind.as_deref());
        }
        Happened::LeaseEnded {
            task,
            job,
            queue,
            kind,
            worker,
            attempt,
            token,
            outcome,
        } => {
            say("", Some(task));
            say("", outcome.map(|outcome| outcome.as_str()));
            say("worker", Some(worker));
            say("attempt", number(attempt).as_deref());
            say("token", Some(&token.to_string()));
            say("job", job.as_deref());
            say("queue", queue.as_deref());
            say("kind", kind.as_deref());
        }
        Happened::JobFinished { job, name, state } => {
            say("", Some(job));
            say("", Some(state.as_str()));
            say("name", name.as_deref());
        }
        Happened::WorkerRegistered { worker, name }
        | Happened::WorkerDraining { worker, name }
        | Happened::WorkerLost { worker, name }
        | Happened::WorkerLeft { worker, name } => {
            say("", Some(worker));
            say("name", name.as_deref());
        }
        Happened::WorkerChanged {
            worker,
            name,
            state,
        } => {
            say("", Some(worker));
            say("", Some(state.as_str()));
            say("name", name.as_deref());
        }
        Happened::QueueChanged { queue } => say("", Some(queue)),
        Happened::ScheduleChanged { schedule } => say("", Some(schedule)),
        Happened::ScheduleTicked {
            schedule,
            tick_at,
            job,
        } => {
            say("", Some(schedule));
            say("tick", Some(&tick_at.to_string()));
            say("job", job.as_deref());
        }
        Happened::Restored | Happened::Unknown => {}
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event: Event = serde_json::from_str(
            r#"{"id":"42.1","at":"2026-11-23T10:00:00Z","type":"task_changed","task":"t42-1","job":"j42-0",
                "queue":"a b","kind":"exec","state":"queued","worker":null,"attempt":null}"#,
        )
        .expect("valid");
        assert_eq!(
            for_people(&event),
            "2026-11-23T10:00:00.000Z  42.1        task_changed       t42-1 queued job=j42-0 queue='a b' kind=exec"
        );
    }
}
