//! Waiting for jobs and tasks to finish, with a progress bar on a terminal.
//!
//! A wait is a chain of long polls, so that it outlives the master that answers them. Ctrl-C ends only the wait. The
//! job continues, and a note shows how to wait for it again. After a time without progress, a note says why.

use std::future::Future;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use triarch_sdk::wire::{Job, PageQuery, Task, TaskState};

use super::context::CommandContext;
use super::error::CommandError;
use super::output;

/// Maximum wait of one long poll.
const POLL_WAIT: Duration = Duration::from_secs(20);
/// Maximum wait of one long poll while a progress bar is drawn, and therefore its refresh interval.
const PROGRESS_POLL_WAIT: Duration = Duration::from_millis(250);
/// Time without progress after which a wait says why.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
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
    let bar = JobProgressBar::new();
    let waited = until_job_interrupted(context, id, finished_job(context, id, &bar)).await;
    bar.clear();
    waited
}

/// Returns a job once it is terminal. Shows its progress in `bar`.
pub async fn finished_job(
    context: &CommandContext,
    id: &str,
    bar: &JobProgressBar,
) -> Result<Job, CommandError> {
    let mut stall = StallDetector::new(Instant::now());
    let mut job = context.client.job(id).await?;
    while !job.state.is_terminal() {
        bar.show(&job);
        let counts = job.counts.values().copied().collect();
        let running = job.counts.get(&TaskState::Running).copied().unwrap_or(0) > 0;
        if stall.is_noticed(Instant::now(), counts, running) {
            let why = job_explanation(context, id).await;
            bar.suspend(|| why.iter().for_each(|why| output::print_note(why)));
        }
        let wait = stall.poll_wait(Instant::now(), bar.poll_wait());
        job = context.client.job_within(id, wait).await?;
    }
    Ok(job)
}

/// Waits for something that concerns a job, until it is done or the user interrupts it.
pub async fn until_job_interrupted<T>(
    context: &CommandContext,
    id: &str,
    finished: impl Future<Output = Result<T, CommandError>>,
) -> Result<WaitOutcome<T>, CommandError> {
    let resume = context.command(&format!("job wait {id}"));
    until_interrupted(finished, &format!("Job {id}"), &resume).await
}

/// Waits until a task is terminal.
pub async fn wait_for_task(
    context: &CommandContext,
    id: &str,
) -> Result<WaitOutcome<Task>, CommandError> {
    let resume = context.command(&format!("task wait {id}"));
    let finished = async {
        let mut stall = StallDetector::new(Instant::now());
        let mut task = context.client.task(id).await?;
        while !task.state.is_terminal() {
            let (state, attempt) = (task.state as u64, u64::from(task.attempt));
            if stall.is_noticed(
                Instant::now(),
                vec![state, attempt],
                task.state == TaskState::Running,
            ) && let Some(why) = task_explanation(context, id).await
            {
                output::print_note(&why);
            }
            task = context
                .client
                .task_within(id, stall.poll_wait(Instant::now(), POLL_WAIT))
                .await?;
        }
        Ok(task)
    };
    until_interrupted(finished, &format!("Task {id}"), &resume).await
}

/// Returns why the first unfinished task of a job does not run, if that is known.
async fn job_explanation(context: &CommandContext, id: &str) -> Option<String> {
    let page = context
        .client
        .job_tasks(id, &PageQuery::default())
        .await
        .ok()?;
    let open = page.tasks.iter().find(|task| !task.state.is_terminal())?;
    task_explanation(context, &open.id).await
}

async fn task_explanation(context: &CommandContext, id: &str) -> Option<String> {
    let explanation = context.client.explain_task(id).await.ok()?;
    (explanation.state != TaskState::Running && !explanation.state.is_terminal())
        .then(|| format!("Task {id} does not run yet: {}.", explanation.summary))
}

/// Detector of a wait without progress. It is noticed once.
struct StallDetector {
    since: Instant,
    last: Vec<u64>,
    noticed: bool,
}

impl StallDetector {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            last: Vec::new(),
            noticed: false,
        }
    }

    /// Returns whether nothing has changed for a time while nothing runs, the first time that this is so.
    fn is_noticed(&mut self, now: Instant, counts: Vec<u64>, running: bool) -> bool {
        if running || counts != self.last {
            (self.last, self.since) = (counts, now);
        }
        let noticed = !self.noticed && now.saturating_duration_since(self.since) >= STALL_TIMEOUT;
        self.noticed |= noticed;
        noticed
    }

    /// Returns how long to wait for the next answer, at most this long.
    fn poll_wait(&self, now: Instant, most: Duration) -> Duration {
        let stalled = now.saturating_duration_since(self.since);
        match self.noticed {
            true => most,
            // A little more, so that the time has passed by then.
            false => most.min(STALL_TIMEOUT.saturating_sub(stalled) + Duration::from_millis(50)),
        }
    }
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
pub struct JobProgressBar {
    bar: Option<ProgressBar>,
}

impl JobProgressBar {
    /// Creates a bar that shows nothing yet.
    pub fn new() -> Self {
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

    /// Removes the bar for good.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Prints something in the place of the bar, which comes back below it.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_without_progress_is_noticed_once() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut stall = StallDetector::new(begun);
        assert!(!stall.is_noticed(at(0), vec![1, 0], false));
        let second = Duration::from_secs(1);
        assert_eq!(stall.poll_wait(at(0), second), second);
        assert!(!stall.is_noticed(at(4), vec![0, 1], false), "progress");
        assert!(!stall.is_noticed(at(8), vec![0, 1], false));
        assert!(stall.poll_wait(at(8), POLL_WAIT) < 2 * second);
        assert!(
            !stall.is_noticed(at(10), vec![0, 1], true),
            "something runs"
        );
        assert!(stall.is_noticed(at(16), vec![0, 1], false));
        assert!(!stall.is_noticed(at(60), vec![0, 1], false));
        assert_eq!(stall.poll_wait(at(60), POLL_WAIT), POLL_WAIT);
    }
}
