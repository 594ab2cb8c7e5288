//! Executor of `exec` tasks: runs a command line and reports its result.
//!
//! A command must stop at its time limit, on a cancel, after a lost lease, or when the worker shuts down. It gets
//! SIGTERM together with its whole process group, and SIGKILL if it has not ended after a grace period. Once it has
//! ended, by itself or not, the rest of its group is killed: an attempt leaves no process behind.
//!
//! A command that cannot be started for a want of this machine is no failure of its task: the lease goes back.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::time::Instant;
use triarch_sdk::wire::{ExecError, ExecPayload, ExecResult, LeasedTask, OutputStream, exec};
use triarch_sdk::worker::OutputWriter;
use triarch_sdk::{Executor, Outcome, StopReason, TaskContext};

use super::captured_output::{CapturedOutput, OutputBounds, OutputText};
use super::cgroup::{TaskGroup, TaskGroups};
use super::child_reaper::{Children, TASK_ENV, TOKEN_ENV};
use super::environment::PassedEnvironment;
use super::file_limit::{FileLimit, is_want};
use super::process::{Group, Start, Starter};
use super::run_as::RunAs;
use super::signal_names::signal_name;

/// Maximum wait for the pipes of a command to end after its group is gone. A process that left the group may still hold
/// them.
const PIPE_DRAIN_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum characters of the last line of stderr in the message of a failure.
const MESSAGE_CHARS_MAX: usize = 200;

/// Limits of every command of a worker.
#[derive(Debug, Clone)]
pub struct ExecLimits {
    /// Bounds of what is kept of each of stdout and stderr.
    pub output: OutputBounds,
    /// Time from SIGTERM to SIGKILL.
    pub kill_grace: Duration,
}

impl Default for ExecLimits {
    fn default() -> Self {
        Self {
            output: OutputBounds::default(),
            kill_grace: Duration::from_secs(5),
        }
    }
}

/// Surroundings of every command of a worker.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Variables of the worker that commands get.
    pub environment: PassedEnvironment,
    /// User that commands run as, if not the worker's.
    pub run_as: Option<Arc<RunAs>>,
    /// Groups that limit the memory and the processes of each task.
    pub groups: Option<Arc<TaskGroups>>,
    /// Limit on open files of the worker.
    pub files: Option<FileLimit>,
}

/// Executor that runs `exec` tasks.
#[derive(Debug)]
pub struct ExecExecutor {
    starter: Starter,
    children: Arc<Children>,
    limits: ExecLimits,
    surroundings: Surroundings,
    withheld: Vec<OsString>,
}

impl ExecExecutor {
    /// Creates an executor with the thread that starts its commands.
    pub fn new(limits: ExecLimits, surroundings: Surroundings) -> io::Result<Self> {
        let children: Arc<Children> = Arc::default();
        let starter = Starter::new(children.clone(), surroundings.files)?;
        Ok(Self {
            starter,
            children,
            limits,
            withheld: surroundings.environment.withheld(),
            surroundings,
        })
    }

    /// Returns the children of this process, for the reaper.
    pub fn children(&self) -> &Arc<Children> {
        &self.children
    }

    /// Starts the command of a task.
    async fn start(
        &self,
        task: &LeasedTask,
        payload: &ExecPayload,
    ) -> io::Result<(Group, Option<TaskGroup>)> {
        let group = match &self.surroundings.groups {
            Some(groups) => Some(groups.create()?),
            None => None,
        };
        let cwd = payload.cwd.as_deref().map(CString::new).transpose();
        let start = Start {
            command: self.command(task, payload),
            lease: self
                .children
                .lease((task.id.clone(), task.token.to_string())),
            join: group
                .as_ref()
                .map(TaskGroup::join_files)
                .unwrap_or_default(),
            run_as: self.surroundings.run_as.clone(),
            cwd: cwd.map_err(io::Error::other)?,
        };
        Ok((self.starter.start(start).await?, group))
    }

    fn command(&self, task: &LeasedTask, payload: &ExecPayload) -> Command {
        let mut command = Command::new(&payload.argv[0]);
        for name in &self.withheld {
            command.env_remove(name);
        }
        if let Some(run_as) = &self.surroundings.run_as {
            command
                .env("HOME", &run_as.home)
                .env("USER", &run_as.name)
                .env("LOGNAME", &run_as.name)
                .env("SHELL", &run_as.shell);
        }
        command
            .args(&payload.argv[1..])
            .envs(&payload.env)
            .env(TASK_ENV, &task.id)
            .env("TRIARCH_JOB", &task.job)
            .env("TRIARCH_ATTEMPT", task.attempt.to_string())
            .env(TOKEN_ENV, task.token.to_string())
            .stdin(match &payload.stdin {
                Some(text) if !text.is_empty() => Stdio::piped(),
                Some(_) | None => Stdio::null(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Another user enters it with its own rights, see `RunAs::apply`.
        if let (Some(cwd), None) = (&payload.cwd, &self.surroundings.run_as) {
            command.current_dir(cwd);
        }
        command
    }
}

impl Executor for ExecExecutor {
    async fn run(&self, task: LeasedTask, context: TaskContext) -> Outcome {
        let payload = match payload_of(&task) {
            Ok(payload) => payload,
            Err(message) => return Outcome::failed_for_good("invalid_payload", &message),
        };
        let begun = Instant::now();
        let (group, limits) = match self.start(&task, &payload).await {
            Ok(started) => started,
            Err(error) => return spawn_failure(&payload, &error),
        };
        let followed = self.follow(group, payload.stdin, &context, begun).await;
        let memory_kills = limits.as_ref().map_or(0, TaskGroup::memory_kills);
        drop(limits);
        match followed {
            Ok(ran) => outcome(ran, task.timeout_ms, memory_kills),
            Err(error) if is_want(&error) => Outcome::Returned {
                reason: format!("a command could not be monitored: {error}"),
            },
            Err(error) => Outcome::failed(
                "exec",
                &format!("the command could not be monitored: {error}"),
            ),
        }
    }
}

/// Command that has ended.
#[derive(Debug)]
struct CompletedCommand {
    status: ExitStatus,
    stopped: Option<StopReason>,
    stdout: OutputText,
    stderr: OutputText,
    duration_ms: u64,
}

impl ExecExecutor {
    async fn follow(
        &self,
        mut group: Group,
        stdin: Option<String>,
        context: &TaskContext,
        begun: Instant,
    ) -> io::Result<CompletedCommand> {
        let mut stdout = CapturedOutput::new(self.limits.output);
        let mut stderr = CapturedOutput::new(self.limits.output);
        let mut streams = (group.stdout()?, group.stderr()?);
        let (stopped, duration, pipes_ended) = {
            let feed = feed(group.stdin()?, stdin);
            let live = |stream| context.writer(stream);
            let drained = async {
                tokio::join!(
                    drain(&mut stdout, streams.0.as_mut(), live(OutputStream::Stdout)),
                    drain(&mut stderr, streams.1.as_mut(), live(OutputStream::Stderr)),
                );
            };
            let mut drained = pin!(drained);
            let mut pipes_ended = false;
            let stopped = {
                let mut ended = pin!(self.ended(&group, context));
                let mut feed = pin!(feed);
                let mut fed = false;
                loop {
                    tokio::select! {
                        biased;
                        ended = &mut ended => break ended?,
                        () = &mut drained, if !pipes_ended => pipes_ended = true,
                        () = &mut feed, if !fed => fed = true,
                    }
                }
            };
            let duration = begun.elapsed();
            group.signal(Signal::SIGKILL);
            let pipes_ended = pipes_ended
                || tokio::time::timeout(PIPE_DRAIN_TIMEOUT, drained)
                    .await
                    .is_ok();
            (stopped, duration, pipes_ended)
        };
        let status = group.finish()?;
        if !pipes_ended {
            // A process that the command left behind holds its output open. The output is whole if nothing is left in it.
            for (stream, captured) in [(&streams.0, &mut stdout), (&streams.1, &mut stderr)] {
                if stream.as_ref().is_some_and(has_unread) {
                    captured.mark_incomplete();
                }
            }
        }
        let (stdout, stderr) = (stdout.into_text(), stderr.into_text());
        if !stdout.truncated && !stderr.truncated {
            context.output_is_in_outcome();
        }
        Ok(CompletedCommand {
            status,
            stopped,
            stdout,
            stderr,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Waits until the command has ended, and stops it when it must end. Returns the reason in that case.
    async fn ended(&self, group: &Group, context: &TaskContext) -> io::Result<Option<StopReason>> {
        let mut ended = pin!(group.ended());
        let reason = tokio::select! {
            biased;
            ended = &mut ended => return ended.map(|()| None),
            reason = context.stopped() => reason,
        };
        group.signal(Signal::SIGTERM);
        if let Ok(ended) = tokio::time::timeout(self.limits.kill_grace, &mut ended).await {
            return ended.map(|()| Some(reason));
        }
        group.signal(Signal::SIGKILL);
        ended.await.map(|()| Some(reason))
    }
}

/// Reads a stream until its end or an error. After an error, the output counts as truncated.
async fn drain(
    into: &mut CapturedOutput,
    from: Option<&mut pipe::Receiver>,
    mut live: OutputWriter,
) {
    if let Some(from) = from
        && let Err(error) = into.drain(from, &mut live).await
    {
        tracing::warn!(%error, "the output of a command could not be read to its end");
        into.mark_incomplete();
    }
}

/// Returns whether a stream has bytes that were not read. Counts one that cannot be asked as such.
fn has_unread(stream: &pipe::Receiver) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, PollTimeout::ZERO) {
        Ok(_) => polled[0]
            .revents()
            .is_none_or(|events| events.contains(PollFlags::POLLIN)),
        Err(_) => true,
    }
}

/// Writes standard input and closes it. A command need not read it.
async fn feed(to: Option<pipe::Sender>, text: Option<String>) {
    if let (Some(mut to), Some(text)) = (to, text)
        && let Err(error) = to.write_all(text.as_bytes()).await
    {
        tracing::debug!(%error, "a command did not read all of its input");
    }
}

fn payload_of(task: &LeasedTask) -> Result<ExecPayload, String> {
    if task.kind != exec::KIND {
        return Err(format!(
            "this worker runs {} tasks, not {}",
            exec::KIND,
            task.kind
        ));
    }
    let payload = task.payload.as_deref().map_or("null", RawValue::get);
    let payload: ExecPayload = serde_json::from_str(payload).map_err(|error| {
        format!("the payload of an exec task is {{argv, env, stdin, cwd}}: {error}")
    })?;
    payload
        .check()
        .map_err(|invalid| format!("{} {}", invalid.field, invalid.detail))?;
    Ok(payload)
}

/// Outcome of a command that cannot be started. For a want of this machine the lease goes back. Otherwise it is a failure
/// for good, because the next start would fail too, unless the program is just being written.
fn spawn_failure(payload: &ExecPayload, error: &io::Error) -> Outcome {
    let program = &payload.argv[0];
    if is_want(error) {
        return Outcome::Returned {
            reason: format!("{program} was not started: {error}"),
        };
    }
    let message = format!("{program} was not started: {}", start_error(payload, error));
    match error.raw_os_error() {
        Some(libc::ETXTBSY) => Outcome::failed("spawn", &message),
        _ => Outcome::failed_for_good("spawn", &message),
    }
}

/// Returns why a command could not be started, in words: the system has one error for a missing directory, program and
/// interpreter.
fn start_error(payload: &ExecPayload, error: &io::Error) -> String {
    let Some(cwd) = &payload.cwd else {
        return format!("{error}{}", missing_interpreter(&payload.argv[0], error));
    };
    let shown: String = cwd.chars().take(MESSAGE_CHARS_MAX).collect();
    match std::fs::metadata(cwd) {
        Ok(found) if found.is_dir() => format!("{error} (in the working directory {shown})"),
        Ok(_) => format!("the working directory {shown} is not a directory"),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            format!("the working directory {shown} does not exist")
        }
        Err(other) => format!("the working directory {shown} cannot be used: {other}"),
    }
}

/// Returns a note if a program is there, but the interpreter that its first line names is not.
fn missing_interpreter(program: &str, error: &io::Error) -> &'static str {
    let is_there = program.contains('/') && Path::new(program).exists();
    match error.kind() {
        io::ErrorKind::NotFound if is_there => {
            " (the file is there: the interpreter in its first line, or the loader that it needs, is missing)"
        }
        _ => "",
    }
}

fn outcome(ran: CompletedCommand, timeout_ms: Option<u64>, memory_kills: u64) -> Outcome {
    let exit_code = ran.status.code();
    let signal = ran.status.signal();
    let truncated = ran.stdout.truncated || ran.stderr.truncated;
    // The last line of stderr is mostly the reason of the failure.
    let reason = || {
        let limit = match memory_kills {
            0 => "",
            _ => " (the task exceeded the limit of its worker on memory, --memory-max)",
        };
        let line = ran.stderr.last_line.as_deref().unwrap_or_default();
        let line: String = line.chars().take(MESSAGE_CHARS_MAX).collect();
        match line.is_empty() {
            true => limit.to_owned(),
            false => format!("{limit}: {line}"),
        }
    };
    let (kind, message) = match (ran.stopped, exit_code, signal) {
        (Some(StopReason::TimedOut), _, _) => {
            let limit = timeout_ms.unwrap_or_default();
            (
                "timeout",
                format!("stopped at its time limit of {limit} ms"),
            )
        }
        (Some(StopReason::Cancelled | StopReason::Lost | StopReason::ShuttingDown), Some(0), _)
        | (None, Some(0), _) => {
            return Outcome::succeeded(&ExecResult {
                exit_code: 0,
                stdout: ran.stdout.text,
                stderr: ran.stderr.text,
                truncated,
                stdout_omitted: ran.stdout.omitted,
                stderr_omitted: ran.stderr.omitted,
                stdout_raw: ran.stdout.raw,
                stderr_raw: ran.stderr.raw,
                duration_ms: ran.duration_ms,
            });
        }
        (Some(StopReason::Cancelled | StopReason::Lost | StopReason::ShuttingDown), _, _) => {
            return Outcome::Stopped;
        }
        (None, Some(code), _) => ("exit", format!("exited with code {code}{}", reason())),
        (None, None, Some(signal)) => (
            "signal",
            format!("killed by {}{}", signal_name(signal), reason()),
        ),
        (None, None, None) => ("exec", format!("ended in an unknown way: {}", ran.status)),
    };
    let error = ExecError {
        kind: kind.to_owned(),
        message,
        exit_code,
        signal: signal.map(signal_name),
        stdout: ran.stdout.text,
        stderr: ran.stderr.text,
        truncated,
        stdout_omitted: ran.stdout.omitted,
        stderr_omitted: ran.stderr.omitted,
        stdout_raw: ran.stdout.raw,
        stderr_raw: ran.stderr.raw,
        duration_ms: ran.duration_ms,
    };
    match serde_json::value::to_raw_value(&error) {
        Ok(error) => Outcome::Failed {
            error,
            retryable: true,
        },
        Err(error) => Outcome::failed("exec", &error.to_string()),
    }
}

#[cfg(test)]
mod tests;
