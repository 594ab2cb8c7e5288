//! Waiting for jobs and tasks to finish, with a progress bar on a terminal.
//!
//! A wait is a chain of long polls, so that it outlives the master that answers them. Ctrl-C ends only the wait. The
//! job continues, and a note shows how to wait for it again.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use triarch_sdk::wire::{Job, Task, TaskState};

use super::context::CommandContext;
use super::error::CommandError;
use super::output;

/// Maximum wait of one long poll.
const POLL_WAIT: Duration = Duration::from_secs(20);
/// Maximum wait of one long poll while a progress bar is drawn, and therefore its refresh interval.
const PROGRESS_POLL_WAIT: Duration = Duration::from_millis(250);
/// Exit code of a command ended by Ctrl-C, as in shells.
const EXIT_INTERRUPTED: u8 = 130;

/// Outcome of a wait.
pub enum WaitOutcome<T> {
    /// The job or task is terminal.
    Finished(T),
    /// The user interrupted the wait, and a note has shown how to resume it.
    Interrupted,
}

/// Returns the exit code of a wait that was interrupted.
pub fn interrupted_exit_code() -> ExitCode {
    ExitCode::from(EXIT_INTERRUPTED)
}

/// Waits until a job is terminal. Draws a progress bar on a terminal.
pub async fn wait_for_job(
    context: &CommandContext,
    id: &str,
) -> Result<WaitOutcome<Job>, CommandError> {
    let resume = context.command(&format!("job wait {id}"));
    let bar = JobProgressBar::new();
    let finished = async {
        let mut job = context.client.job(id).await?;
        while !job.state.is_terminal() {
            bar.show(&job);
            job = context.client.job_within(id, bar.poll_wait()).await?;
        }
        Ok(job)
    };
    let waited = until_interrupted(finished, &format!("Job {id}"), &resume).await;
    bar.clear();
    waited
}

/// Waits until a task is terminal.
pub async fn wait_for_task(
    context: &CommandContext,
    id: &str,
) -> Result<WaitOutcome<Task>, CommandError> {
    let resume = context.command(&format!("task wait {id}"));
    let finished = async {
        let mut task = context.client.task(id).await?;
        while !task.state.is_terminal() {
            task = context.client.task_within(id, POLL_WAIT).await?;
        }
        Ok(task)
    };
    until_interrupted(finished, &format!("Task {id}"), &resume).await
}

async fn until_interrupted<T>(
    finished: impl Future<Output = Result<T, CommandError>>,
    what: &str,
    resume: &str,
) -> Result<WaitOutcome<T>, CommandError> {
    tokio::select! {
        finished = finished => match finished {
            Ok(value) => Ok(WaitOutcome::Finished(value)),
            Err(CommandError::Unreachable(message)) => Err(CommandError::Unreachable(format!(
                "{message}\n{what} is not lost. Once the masters answer again, resume the wait with\n  {resume}"
            ))),
            Err(failure @ (CommandError::Failed(_) | CommandError::Usage(_) | CommandError::Io(_))) => Err(failure),
        },
        _ = tokio::signal::ctrl_c() => {
            output::print_note(&format!("\n{what} continues. To wait for it again, run\n  {resume}"));
            Ok(WaitOutcome::Interrupted)
        }
    }
}

/// Progress bar of a job on stderr, if that is a terminal.
struct JobProgressBar {
    bar: Option<ProgressBar>,
}

impl JobProgressBar {
    fn new() -> Self {
        let bar = output::is_interactive().then(|| {
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

    fn poll_wait(&self) -> Duration {
        if self.bar.is_some() {
            PROGRESS_POLL_WAIT
        } else {
            POLL_WAIT
        }
    }

    fn show(&self, job: &Job) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(job.task_count());
        bar.set_position(job.finished_count());
        let of = |state: TaskState| job.counts.get(&state).copied().unwrap_or(0);
        let shown = [TaskState::Running, TaskState::Delayed, TaskState::Failed];
        let parts: Vec<String> = shown
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
