//! `triarch events`: follows the cluster's events as they happen.

use std::process::ExitCode;

use clap::Args;
use triarch_sdk::wire::event::EventDetail;
use triarch_sdk::wire::{Event, EventsQuery};

use crate::context::CommandContext;
use crate::error::CommandError;
use crate::output::{self, Format};
use crate::shell;

#[derive(Debug, Args)]
#[command(
    after_help = "Runs until Ctrl-C and continues over failovers. With --output json, prints one object per line; --after \
                  accepts its \"id\"."
)]
pub struct EventsArgs {
    /// Only events of tasks in these queues
    #[arg(short, long, value_name = "QUEUE,…")]
    queue: Option<String>,
    /// Only events of these jobs and their tasks
    #[arg(long, value_name = "JOB,…")]
    job: Option<String>,
    /// Only events of these tasks
    #[arg(long, value_name = "TASK,…")]
    task: Option<String>,
    /// Only events that move a task or job into one of these states
    #[arg(long, value_name = "STATE,…")]
    state: Option<String>,
    /// Only events of these types, such as job_finished
    #[arg(long = "type", value_name = "TYPE,…")]
    types: Option<String>,
    /// Event id or log index to resume after [default: events from now on]
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Number of events after which the command ends
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl EventsArgs {
    /// Runs the command.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        let mut events = context.client.events(EventsQuery {
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
            match context.format {
                Format::Table => output::print_text(&render(&event))?,
                Format::Json => output::print_json_line(&event)?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Formats an event as one line: time, position in the log, type, and description.
fn render(event: &Event) -> String {
    let word = event.detail.type_str();
    let description = describe(&event.detail);
    let line = format!("{}  {:<10}  {word:<17}  {description}", event.at, event.id);
    output::one_line(line.trim_end()).into_owned()
}

fn describe(detail: &EventDetail) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut push = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            words.push(if name.is_empty() {
                value.to_owned()
            } else {
                format!("{name}={}", shell::quote(value))
            });
        }
    };
    let number = |number: &Option<u32>| number.map(|number| number.to_string());
    match detail {
        EventDetail::JobSubmitted { job, name, tasks } => {
            push("", Some(job));
            push("name", name.as_deref());
            push("tasks", Some(&tasks.to_string()));
        }
        EventDetail::TaskChanged {
            task,
            job,
            queue,
            kind,
            state,
            worker,
            attempt,
        } => {
            push("", Some(task));
            push("", Some(state.as_str()));
            push("job", job.as_deref());
            push("queue", queue.as_deref());
            push("kind", kind.as_deref());
            push("worker", worker.as_deref());
            push("attempt", number(attempt).as_deref());
        }
        EventDetail::LeaseGranted {
            task,
            job,
            queue,
            kind,
            worker,
            attempt,
            token,
        } => {
            push("", Some(task));
            push("worker", Some(worker));
            push("attempt", number(attempt).as_deref());
            push("token", Some(&token.to_string()));
            push("job", job.as_deref());
            push("queue", queue.as_deref());
            push("kind", kind.as_deref());
        }
        EventDetail::LeaseEnded {
            task,
            job,
            queue,
            kind,
            worker,
            attempt,
            token,
            outcome,
        } => {
            push("", Some(task));
            push("", outcome.map(|outcome| outcome.as_str()));
            push("worker", Some(worker));
            push("attempt", number(attempt).as_deref());
            push("token", Some(&token.to_string()));
            push("job", job.as_deref());
            push("queue", queue.as_deref());
            push("kind", kind.as_deref());
        }
        EventDetail::JobFinished { job, name, state } => {
            push("", Some(job));
            push("", Some(state.as_str()));
            push("name", name.as_deref());
        }
        EventDetail::WorkerRegistered { worker, name }
        | EventDetail::WorkerDraining { worker, name }
        | EventDetail::WorkerLost { worker, name }
        | EventDetail::WorkerLeft { worker, name } => {
            push("", Some(worker));
            push("name", name.as_deref());
        }
        EventDetail::WorkerChanged {
            worker,
            name,
            state,
        } => {
            push("", Some(worker));
            push("", Some(state.as_str()));
            push("name", name.as_deref());
        }
        EventDetail::QueueChanged { queue } => push("", Some(queue)),
        EventDetail::ScheduleChanged { schedule } => push("", Some(schedule)),
        EventDetail::ScheduleTicked {
            schedule,
            tick_at,
            job,
        } => {
            push("", Some(schedule));
            push("tick", Some(&tick_at.to_string()));
            push("job", job.as_deref());
        }
        EventDetail::TimeSetBack { from, to } => {
            push("from", Some(&from.to_string()));
            push("to", Some(&to.to_string()));
        }
        EventDetail::Restored | EventDetail::Unknown => {}
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
            render(&event),
            "2026-11-23T10:00:00.000Z  42.1        task_changed       t42-1 queued job=j42-0 queue='a b' kind=exec"
        );
    }
}
