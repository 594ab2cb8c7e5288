//! Waiting for a job that was just submitted, with the output of its tasks as it comes.
//!
//! The output of a single task is printed while it runs. Of several tasks, the output of each is printed when it has
//! finished and all before it have, so that outputs do not mix.

use std::process::ExitCode;
use std::time::Duration;

use triarch_sdk::wire::{Job, JobState, LogsQuery, Submitted, Task};

use super::context::CommandContext;
use super::error::{CommandError, EXIT_FAILED};
use super::output::{self, Format};
use super::task_output;
use super::wait::{self, JobProgressBar, WaitOutcome};

/// Maximum wait of one long poll.
const POLL_WAIT: Duration = Duration::from_secs(20);

/// Exit code of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCodes {
    /// 0 if the job succeeded, otherwise 1.
    OfJob,
    /// The highest of its tasks.
    OfTasks,
}

/// Waits until a job has finished. Prints the output of its tasks.
pub async fn wait_and_print(
    context: &CommandContext,
    submitted: &Submitted,
    codes: ExitCodes,
) -> Result<ExitCode, CommandError> {
    output::print_note(&format!("job {}", submitted.id));
    let bar = JobProgressBar::new();
    let finished = async {
        let finished = wait::finished_job(context, &submitted.id, &bar);
        match (context.format, &submitted.tasks[..]) {
            (Format::Json, _) => {
                let job = finished.await?;
                bar.clear();
                task_output::print_job(context, &job).await?;
                Ok(job)
            }
            (Format::Table, [task]) => {
                let (job, followed) = tokio::join!(finished, follow(context, task, &bar));
                bar.clear();
                followed?;
                print_end(context, task).await?;
                job
            }
            (Format::Table, tasks) => {
                let mut printed = 0;
                let job = tokio::select! {
                    job = finished => job?,
                    failed = print_in_order(context, tasks, &bar, &mut printed) => return Err(failed),
                };
                bar.clear();
                let last = printed.checked_sub(1).and_then(|last| tasks.get(last));
                task_output::print_job_after(context, &job, last.cloned()).await?;
                Ok(job)
            }
        }
    };
    let waited = wait::until_job_interrupted(context, &submitted.id, finished).await;
    bar.clear();
    match (waited?, codes) {
        (WaitOutcome::Interrupted, _) => Ok(wait::interrupted_exit_code()),
        (WaitOutcome::Finished(job), ExitCodes::OfJob) => Ok(task_output::exit_code(&job)),
        (WaitOutcome::Finished(job), ExitCodes::OfTasks) => highest_exit_code(context, &job).await,
    }
}

/// Prints the output of a task as it comes, over all of its attempts.
async fn follow(
    context: &CommandContext,
    id: &str,
    bar: &JobProgressBar,
) -> Result<(), CommandError> {
    let wait_ms = u64::try_from(POLL_WAIT.as_millis()).unwrap_or(u64::MAX);
    let mut query = LogsQuery {
        follow_ms: Some(wait_ms),
        ..LogsQuery::default()
    };
    loop {
        let logs = context.client.task_logs(id, &query).await?;
        if !logs.chunks.is_empty() {
            // The output may end in the middle of a line, where no bar can be drawn.
            bar.clear();
        }
        task_output::write_logs(&query, &logs)?;
        if logs.done {
            return Ok(());
        }
        if logs.attempt > 0 && logs.next.attempt > logs.attempt {
            let task = context.client.task(id).await?;
            bar.suspend(|| output::print_note(&retry_note(&task, logs.attempt)));
        }
        query.attempt = Some(logs.next.attempt).filter(|attempt| *attempt > 0);
        query.stdout_from = Some(logs.next.stdout_from);
        query.stderr_from = Some(logs.next.stderr_from);
    }
}

/// Returns a note about an attempt that is followed by another.
fn retry_note(task: &Task, attempt: u32) -> String {
    let attempts = task.attempts.iter().flatten();
    let ended = attempts.clone().find(|ended| ended.attempt == attempt);
    let how = ended
        .and_then(|ended| ended.outcome)
        .map_or("ended", |outcome| outcome.as_str());
    let why = ended
        .and_then(|ended| task_output::error_message(ended.error.as_deref()?))
        .map(|why| format!(" ({why})"))
        .unwrap_or_default();
    format!(
        "task {}: attempt {attempt} {how}{why}; another one follows",
        task.id
    )
}

/// Prints what the output of a followed task does not show.
async fn print_end(context: &CommandContext, id: &str) -> Result<(), CommandError> {
    let task = context.client.task(id).await?;
    if task_output::streams(&task).is_none() {
        task_output::print_result(&task)?;
    }
    task_output::print_end(&task);
    Ok(())
}

/// Prints the output of each task when it and all before it have finished. Counts those in `printed`. Returns only with an
/// error.
async fn print_in_order(
    context: &CommandContext,
    tasks: &[String],
    bar: &JobProgressBar,
    printed: &mut usize,
) -> CommandError {
    for id in tasks {
        let task = loop {
            match context.client.task_within(id, POLL_WAIT).await {
                Ok(task) if task.state.is_terminal() => break task,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        };
        if let Err(error) = bar.suspend(|| task_output::print_task(&task)) {
            return error.into();
        }
        *printed += 1;
    }
    std::future::pending().await
}

/// Returns the highest exit code of the tasks of a finished job.
async fn highest_exit_code(context: &CommandContext, job: &Job) -> Result<ExitCode, CommandError> {
    let mut highest = 0;
    let mut after = None;
    loop {
        let page = context
            .client
            .job_tasks_with(&job.id, &task_output::page_after(after))
            .await?;
        let codes = page.tasks.iter().map(task_output::propagated_exit_code);
        highest = codes.fold(highest, u8::max);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(ExitCode::from(match job.state {
        JobState::Succeeded => highest,
        JobState::Running | JobState::Failed | JobState::Cancelled => highest.max(EXIT_FAILED),
    }))
}
