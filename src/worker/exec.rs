//! Executor of `exec` tasks: runs a command line and reports its result.
//!
//! A command must stop at its time limit, on a cancel, after a lost lease, or when the worker shuts down. It gets
//! SIGTERM together with its whole process group, and SIGKILL if it has not ended after a grace period. Once it has
//! ended, by itself or not, the rest of its group is killed: an attempt leaves no process behind.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::time::Instant;
use triarch_sdk::wire::{ExecError, ExecPayload, ExecResult, LeasedTask, OutputStream, exec};
use triarch_sdk::worker::OutputWriter;
use triarch_sdk::{Executor, Outcome, StopReason, TaskContext};

use super::process::{Group, Starter};
use crate::worker::captured_output::CapturedOutput;

/// Maximum wait for the pipes of a command to end after its group is gone. A process that left the group may still hold
/// them.
const PIPE_DRAIN_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum characters of the last line of stderr in the message of a failure.
const MESSAGE_CHARS_MAX: usize = 200;

/// Limits of every command of a worker.
#[derive(Debug, Clone)]
pub struct ExecLimits {
    /// Maximum bytes kept of each of stdout and stderr.
    pub output_bytes_max: usize,
    /// Time from SIGTERM to SIGKILL.
    pub kill_grace: Duration,
}

impl Default for ExecLimits {
    fn default() -> Self {
        Self {
            output_bytes_max: 256 << 10,
            kill_grace: Duration::from_secs(5),
        }
    }
}

/// Executor that runs `exec` tasks.
#[derive(Debug)]
pub struct ExecExecutor {
    starter: Starter,
    limits: ExecLimits,
}

impl ExecExecutor {
    /// Creates an executor with the thread that starts its commands.
    pub fn new(limits: ExecLimits) -> io::Result<Self> {
        let starter = Starter::new()?;
        Ok(Self { starter, limits })
    }
}

impl Executor for ExecExecutor {
    async fn run(&self, task: LeasedTask, context: TaskContext) -> Outcome {
        let payload = match payload_of(&task) {
            Ok(payload) => payload,
            Err(message) => return Outcome::failed_for_good("invalid_payload", &message),
        };
        let begun = Instant::now();
        let group = match self.starter.start(command(&task, &payload)).await {
            Ok(group) => group,
            Err(error) => return spawn_failure(&payload, &error),
        };
        match self.follow(group, payload.stdin, &context, begun).await {
            Ok(ran) => outcome(ran, task.timeout_ms),
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
    stdout: String,
    stderr: String,
    truncated: bool,
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
        let (mut stdout, mut stderr) = (CapturedOutput::default(), CapturedOutput::default());
        let (stopped, duration, whole) = {
            let feed = feed(group.stdin()?, stdin);
            let streams = (group.stdout()?, group.stderr()?);
            let limit = self.limits.output_bytes_max;
            let live = |stream| context.writer(stream);
            let drained = async {
                tokio::join!(
                    drain(&mut stdout, streams.0, limit, live(OutputStream::Stdout)),
                    drain(&mut stderr, streams.1, limit, live(OutputStream::Stderr)),
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
            let whole = pipes_ended
                || tokio::time::timeout(PIPE_DRAIN_TIMEOUT, drained)
                    .await
                    .is_ok();
            (stopped, duration, whole)
        };
        let status = group.finish()?;
        if !whole {
            stdout.mark_truncated();
        }
        let (stdout, stdout_cut) = stdout.into_text();
        let (stderr, stderr_cut) = stderr.into_text();
        if !stdout_cut && !stderr_cut {
            context.output_is_in_outcome();
        }
        Ok(CompletedCommand {
            status,
            stopped,
            stdout,
            stderr,
            truncated: stdout_cut || stderr_cut,
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
    from: Option<pipe::Receiver>,
    bytes_max: usize,
    mut live: OutputWriter,
) {
    if let Some(from) = from
        && let Err(error) = into.drain(from, bytes_max, &mut live).await
    {
        tracing::warn!(%error, "the output of a command could not be read to its end");
        into.mark_truncated();
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
    match payload.argv.first() {
        None => return Err("argv is empty".to_owned()),
        Some(program) if program.is_empty() => return Err("argv[0] is empty".to_owned()),
        Some(_) => {}
    }
    if payload.argv.iter().any(|argument| argument.contains('\0')) {
        return Err("argv contains a NUL character".to_owned());
    }
    for (name, value) in &payload.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("env has an invalid name: {name:?}"));
        }
        if value.contains('\0') {
            return Err(format!("env.{name} contains a NUL character"));
        }
    }
    if payload
        .cwd
        .as_ref()
        .is_some_and(|cwd| cwd.is_empty() || cwd.contains('\0'))
    {
        return Err("cwd is not a path".to_owned());
    }
    Ok(payload)
}

fn command(task: &LeasedTask, payload: &ExecPayload) -> Command {
    let mut command = Command::new(&payload.argv[0]);
    command
        .args(&payload.argv[1..])
        .envs(&payload.env)
        .env("TRIARCH_TASK", &task.id)
        .env("TRIARCH_JOB", &task.job)
        .env("TRIARCH_ATTEMPT", task.attempt.to_string())
        .env("TRIARCH_TOKEN", task.token.to_string())
        .stdin(match &payload.stdin {
            Some(text) if !text.is_empty() => Stdio::piped(),
            Some(_) | None => Stdio::null(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &payload.cwd {
        command.current_dir(cwd);
    }
    command
}

/// Failure of a command that cannot be started. It is retryable only if the obstacle may pass, such as a lack of memory
/// or file descriptors, because otherwise the next start would fail too.
fn spawn_failure(payload: &ExecPayload, error: &io::Error) -> Outcome {
    let retryable = matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ETXTBSY)
    );
    let program = &payload.argv[0];
    let message = match &payload.cwd {
        Some(cwd) if !Path::new(cwd).is_dir() => {
            format!("{program} was not started: the working directory {cwd} does not exist")
        }
        Some(_) | None => format!("{program} was not started: {error}"),
    };
    if retryable {
        Outcome::failed("spawn", &message)
    } else {
        Outcome::failed_for_good("spawn", &message)
    }
}

fn outcome(ran: CompletedCommand, timeout_ms: Option<u64>) -> Outcome {
    let exit_code = ran.status.code();
    let signal = ran.status.signal();
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
                stdout: ran.stdout,
                stderr: ran.stderr,
                truncated: ran.truncated,
                duration_ms: ran.duration_ms,
            });
        }
        (Some(StopReason::Cancelled | StopReason::Lost | StopReason::ShuttingDown), _, _) => {
            return Outcome::Stopped;
        }
        (None, Some(code), _) => (
            "exit",
            format!("exited with code {code}{}", last_line(&ran.stderr)),
        ),
        (None, None, Some(signal)) => (
            "signal",
            format!(
                "killed by {}{}",
                signal_name(signal),
                last_line(&ran.stderr)
            ),
        ),
        (None, None, None) => ("exec", format!("ended in an unknown way: {}", ran.status)),
    };
    let error = ExecError {
        kind: kind.to_owned(),
        message,
        exit_code,
        signal: signal.map(signal_name),
        stdout: ran.stdout,
        stderr: ran.stderr,
        truncated: ran.truncated,
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

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(
        |_| format!("signal {number}"),
        |signal| signal.as_str().to_owned(),
    )
}

/// Returns the last line of stderr, which is mostly the reason of the failure.
fn last_line(stderr: &str) -> String {
    match stderr
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
    {
        Some(line) => format!(
            ": {}",
            line.chars().take(MESSAGE_CHARS_MAX).collect::<String>()
        ),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
