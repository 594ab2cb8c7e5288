//! Waiting for jobs and tasks to finish: the progress a person sees meanwhile, and the way out.
//!
//! A wait is a chain of short questions, so that it outlives the master that answers them. Ctrl-C ends only the wait:
//! the job goes on, and the user is told how to wait for it again.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use triarch_sdk::wire::{Job, Task, TaskState};

use super::Failure;
use super::output;
use crate::cli::context::Session;

/// How long a master may hold its answer when nobody watches.
const HOLD: Duration = Duration::from_secs(20);
/// The same for a person's progress bar: how often its numbers change.
const HOLD_WATCHED: Duration = Duration::from_millis(250);
/// What shells give for a command ended by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// What a wait came to.
pub enum Waited<T> {
    /// It is terminal.
    Finished(T),
    /// The user would not wait any longer, and was told how to go on.
    Interrupted,
}

/// The exit code of a wait that was interrupted.
pub fn interrupted() -> ExitCode {
    ExitCode::from(EXIT_INTERRUPTED)
}

/// Waits until a job is terminal; a person sees how far it is.
pub async fn job(session: &Session, id: &str) -> Result<Waited<Job>, Failure> {
    let again = session.command(&format!("job wait {id}"));
    let bar = Progress::new();
    let finished = async {
        let mut job = session.client.job(id).await?;
        while !job.state.is_terminal() {
            bar.show(&job);
            job = session.client.job_within(id, bar.hold()).await?;
        }
        Ok(job)
    };
    let waited = or_interrupt(finished, &format!("Job {id}"), &again).await;
    bar.clear();
    waited
}

/// Waits until a task is terminal.
pub async fn task(session: &Session, id: &str) -> Result<Waited<Task>, Failure> {
    let again = session.command(&format!("task wait {id}"));
    let finished = async {
        let mut task = session.client.task(id).await?;
        while !task.state.is_terminal() {
            task = session.client.task_within(id, HOLD).await?;
        }
        Ok(task)
    };
    or_interrupt(finished, &format!("Task {id}"), &again).await
}

async fn or_interrupt<T>(
    finished: impl Future<Output = Result<T, Failure>>,
    what: &str,
    again: &str,
) -> Result<Waited<T>, Failure> {
    tokio::select! {
        finished = finished => match finished {
            Ok(value) => Ok(Waited::Finished(value)),
            Err(Failure::Unreachable(message)) => Err(Failure::Unreachable(format!(
                "{message}\n{what} is not lost: once masters answer again, go on waiting with\n  {again}"
            ))),
            Err(failure @ (Failure::Failed(_) | Failure::Usage(_) | Failure::Io(_))) => Err(failure),
        },
        _ = tokio::signal::ctrl_c() => {
            output::note(&format!("\n{what} goes on. Wait for it again with\n  {again}"));
            Ok(Waited::Interrupted)
        }
    }
}

/// A bar on stderr, if a person is there to see it.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new() -> Self {
        let bar = output::person_watches().then(|| {
            let bar = ProgressBar::new(0);
            let style =
                ProgressStyle::with_template("{bar:32.green} {pos}/{len} {msg} {elapsed:.dim}");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar
        });
        Self { bar }
    }

    fn hold(&self) -> Duration {
        if self.bar.is_some() {
            HOLD_WATCHED
        } else {
            HOLD
        }
    }

    fn show(&self, job: &Job) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(job.task_count());
        bar.set_position(job.finished_count());
        let of = |state: TaskState| job.counts.get(&state).copied().unwrap_or(0);
        let told = [TaskState::Running, TaskState::Delayed, TaskState::Failed];
        let parts: Vec<String> = told
            .into_iter()
            .filter(|state| of(*state) > 0)
            .map(|state| format!("{} {state}", of(state)))
            .collect();
        bar.set_message(parts.join(", "));
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
