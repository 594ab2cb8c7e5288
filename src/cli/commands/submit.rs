//! `triarch submit`: submits a job, from the command line or from a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sha2::{Digest, Sha256};
use triarch_sdk::Error;
use triarch_sdk::wire::exec::KIND as EXEC;
use triarch_sdk::wire::{AfterJob, EndCondition, ExecPayload, Requires, SubmitJob, TaskSpec};

use self::array::Array;
use self::input::Forward;
use crate::args::{label, resource};
use crate::context::CommandContext;
use crate::duration;
use crate::error::CommandError;
use crate::output;
use crate::shell;
use crate::submitted::{self, ExitCodes};

mod array;
mod input;
mod job_file;

/// Environment variable with the index of a task within its array.
const ARRAY_INDEX: &str = "TRIARCH_ARRAY_INDEX";
/// Environment variable with the default of `--retries`.
const RETRIES_ENV: &str = "TRIARCH_RETRIES";
/// Default number of retries of the cluster.
const DEFAULT_RETRIES: u32 = 2;
/// Maximum length of a concurrency key, in bytes.
const KEY_BYTES_MAX: usize = 200;

#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("work").args(["argv", "file", "stdin_job"]).required(true)),
    override_usage = "triarch submit [OPTIONS] -- ARGV...\n       triarch submit [OPTIONS] --file JOB.json\n       \
                      triarch submit [OPTIONS] -",
    after_help = "\
Examples:
  triarch submit --wait -- sh -c 'echo hello'
  triarch submit --queue builds --retries 5 --timeout 10m -- make -C /src all
  triarch submit --array 1-100%8 --wait -- sh -c 'echo item $TRIARCH_ARRAY_INDEX'
  ls *.png | triarch submit --each-line -- convert {} {}.webp
  echo data | triarch submit --wait -- cat
  triarch submit --file job.json
  generate-job | triarch submit -

The id of the job goes to stdout; with --wait, the output of its tasks goes there instead, as it comes.
A failed attempt is retried up to 2 times, unless --retries or TRIARCH_RETRIES says otherwise: use --retries 0 for work that
must not be repeated. The command runs on a worker, in the worker's directory unless --cwd names another.
Submitting the same work again under the same --idempotency-key returns the existing job."
)]
pub struct SubmitArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Waits until the job has finished and prints the output of its tasks; exits with 1 if it did not succeed
    #[arg(long, short)]
    wait: bool,
    /// Exits with the exit code of the task; of several, with the highest. A signal counts as 128 plus its number
    #[arg(long, requires = "wait")]
    propagate_exit_code: bool,
    /// Display name of the job
    #[arg(long)]
    name: Option<String>,
    /// Job that must succeed first; JOB:failed and JOB:ended wait for other ends; may be repeated
    #[arg(long = "after", value_name = "JOB[:WHEN]", value_parser = after_job)]
    after: Vec<AfterJob>,
    /// Key that identifies the job: submitting it again never creates a second job [default: a random key]
    #[arg(long, alias = "key", value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// The work itself: a command line, or a file with a job. One of the three has to be given, which the command says by a
/// group of its own.
#[derive(Debug, Args)]
pub struct WorkArgs {
    /// Reads the job from stdin, as JSON
    #[arg(value_name = "-", value_parser = stdin_marker)]
    stdin_job: Option<String>,
    /// Program and its arguments, run as given, without a shell
    #[arg(last = true, value_name = "ARGV")]
    argv: Vec<String>,
    /// File with the job, as JSON; `-` is stdin
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    task: TaskArgs,
}

impl WorkArgs {
    /// Builds the job of the schedule with this name from the arguments.
    pub fn job_of_schedule(&self, name: &str) -> Result<SubmitJob, CommandError> {
        if self.task.each_line || self.task.stdin {
            return Err(CommandError::Usage(
                "a schedule has no standard input: --each-line and --stdin are for `submit`"
                    .to_owned(),
            ));
        }
        self.job_with(Some(&format!("schedule:{name}")), |_| Ok(Input::None))
    }

    /// Builds the job from the arguments. `input` reads what standard input holds for the tasks.
    fn job_with(
        &self,
        key: Option<&str>,
        input: impl FnOnce(&TaskArgs) -> Result<Input, CommandError>,
    ) -> Result<SubmitJob, CommandError> {
        match (&self.file, &self.stdin_job) {
            (Some(path), _) => job_file::read(path),
            (None, Some(_)) => job_file::read(Path::new("-")),
            (None, None) => {
                let input = input(&self.task)?;
                Ok(SubmitJob::new(self.task.specs(&self.argv, &input, key)?))
            }
        }
    }
}

/// What standard input holds for the tasks.
#[derive(Debug, Default, PartialEq, Eq)]
enum Input {
    /// Nothing.
    #[default]
    None,
    /// The input of each task.
    Forwarded(String),
    /// One task for each line.
    Lines(Vec<String>),
}

/// Options of every task of the submission. A file states them for each task instead.
#[derive(Debug, Args)]
#[group(id = "task", conflicts_with_all = ["file", "stdin_job"], multiple = true)]
struct TaskArgs {
    /// Queue of the task [default: default]
    #[arg(long, short, help_heading = "Each task")]
    queue: Option<String>,
    /// Priority from 0 to 9; higher runs first [default: 0]
    #[arg(long, short, value_name = "P", value_parser = clap::value_parser!(u8).range(0..=9), help_heading = "Each task")]
    priority: Option<u8>,
    /// Minimum delay from now until the task may start
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, help_heading = "Each task")]
    delay: Option<Duration>,
    /// Time limit of each attempt; an attempt that exceeds it is stopped and counts as failed
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, help_heading = "Each task")]
    timeout: Option<Duration>,
    /// Maximum retries after a failed attempt; 0 for work that must not be repeated [env: TRIARCH_RETRIES] [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000_000), help_heading = "Each task")]
    retries: Option<u32>,
    /// Maximum failed attempts, including the first; --max-attempts N+1 equals --retries N [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_001), conflicts_with = "retries", help_heading = "Each task")]
    max_attempts: Option<u32>,
    /// Numbers with one task for each, such as 1-100, 1,3,5 or 0-10:2; with %N behind it, at most N run at once. A task
    /// finds its number in $TRIARCH_ARRAY_INDEX
    #[arg(long, value_name = "LIST[%N]", value_parser = array::parse, help_heading = "Each task")]
    array: Option<Array>,
    /// Makes one task of each line of standard input: the line replaces {} in ARGV, or is the last argument
    #[arg(
        long,
        alias = "lines",
        conflicts_with = "array",
        help_heading = "Each task"
    )]
    each_line: bool,
    /// Maximum tasks of this job that run at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "Each task")]
    concurrency: Option<u32>,
    /// Passes all of standard input to the task, waiting for its end; by default what is redirected is passed
    #[arg(long, conflicts_with_all = ["no_stdin", "each_line"], help_heading = "Each task")]
    stdin: bool,
    /// Passes nothing of standard input to the task, and does not read it
    #[arg(long, conflicts_with = "each_line", help_heading = "Each task")]
    no_stdin: bool,
    /// Environment variable of the task; without a value, that of this shell; may be repeated
    #[arg(long = "env", short, value_name = "KEY[=VALUE]", value_parser = variable, help_heading = "Each task")]
    env: Vec<(String, Option<String>)>,
    /// Working directory on the worker [default: that of the worker]
    #[arg(long, value_name = "DIR", help_heading = "Each task")]
    cwd: Option<String>,
    /// Label that the worker must have; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, help_heading = "Each task")]
    labels: Vec<(String, String)>,
    /// Amount of a resource that the task takes of its worker; may be repeated
    #[arg(long = "resource", value_name = "KEY=N", value_parser = resource, help_heading = "Each task")]
    resources: Vec<(String, u64)>,
    /// Tag to find the task by; may be repeated
    #[arg(long = "tag", value_name = "TAG", help_heading = "Each task")]
    tags: Vec<String>,
}

impl SubmitArgs {
    /// Submits the job, and waits for it with `--wait`.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        // Without a key, a submission that is sent again because its answer got lost would be a second job.
        let new_key = uuid::Uuid::new_v4().to_string();
        let key = self.idempotency_key.as_deref().unwrap_or(&new_key);
        let mut job = self.work.job_with(Some(key), TaskArgs::read_input)?;
        if self.name.is_some() {
            job.name = self.name;
        }
        if !self.after.is_empty() {
            job.after_jobs.get_or_insert_default().extend(self.after);
        }
        job.idempotency_key = self
            .idempotency_key
            .or(job.idempotency_key)
            .or(Some(new_key));
        let key = job.idempotency_key.clone();
        let submitted = match context.client.submit_large(job).await {
            Err(Error::Timeout { .. }) => {
                return Err(unknown_outcome(key.as_deref()));
            }
            answer => answer?,
        };
        if submitted.duplicate {
            output::print_note("The same job was submitted before; no new job was created.");
        }
        if let Some(note) = self.work.retries_note() {
            output::print_note(&note);
        }
        if self.wait {
            let codes = match self.propagate_exit_code {
                true => ExitCodes::OfTasks,
                false => ExitCodes::OfJob,
            };
            submitted::wait_and_print(context, &submitted, codes).await
        } else {
            output::print(context.format, &submitted, |submitted| submitted.id.clone())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl WorkArgs {
    /// Returns a note about retries that nobody asked for.
    fn retries_note(&self) -> Option<String> {
        let task = &self.task;
        let is_chosen = task.retries.is_some() || task.max_attempts.is_some();
        if self.argv.is_empty() || is_chosen {
            return None;
        }
        let retries = match default_retries() {
            Ok(Some(retries)) => retries,
            Ok(None) | Err(_) => DEFAULT_RETRIES,
        };
        (retries > 0).then(|| {
            format!(
                "A failed attempt is retried up to {retries} times; --retries 0 turns that off."
            )
        })
    }
}

/// Returns the default of `--retries`, if it is set.
fn default_retries() -> Result<Option<u32>, CommandError> {
    let text = match std::env::var(RETRIES_ENV) {
        Ok(text) if !text.trim().is_empty() => text,
        Ok(_) | Err(_) => return Ok(None),
    };
    match text.trim().parse() {
        Ok(retries) if retries <= 1_000_000 => Ok(Some(retries)),
        Ok(_) | Err(_) => Err(CommandError::Usage(format!(
            "{RETRIES_ENV} is '{text}', and must be a number of retries from 0 to 1000000"
        ))),
    }
}

impl TaskArgs {
    /// Reads what standard input holds for the tasks.
    fn read_input(&self) -> Result<Input, CommandError> {
        if self.each_line {
            return Ok(Input::Lines(input::read_lines()?));
        }
        let forward = match (self.stdin, self.no_stdin) {
            (true, _) => Forward::Always,
            (false, true) => Forward::Never,
            (false, false) => Forward::IfRedirected,
        };
        Ok(input::read(forward)?.map_or(Input::None, Input::Forwarded))
    }

    /// Builds one task, or one per number of the array, or one per line.
    fn specs(
        &self,
        argv: &[String],
        input: &Input,
        key: Option<&str>,
    ) -> Result<Vec<TaskSpec>, CommandError> {
        let common = self.common(key)?;
        let numbered = |index: u64| self.spec(&common, argv.to_vec(), input, Some(index));
        Ok(match (&self.array, input) {
            (Some(array), _) => array.numbers.iter().copied().map(numbered).collect(),
            (None, Input::Lines(lines)) => {
                let of_line =
                    |line: &String| self.spec(&common, input::with_line(argv, line), input, None);
                lines.iter().map(of_line).collect()
            }
            (None, Input::None | Input::Forwarded(_)) => {
                vec![self.spec(&common, argv.to_vec(), input, None)]
            }
        })
    }

    /// Builds what all tasks have in common.
    fn common(&self, key: Option<&str>) -> Result<TaskSpec, CommandError> {
        let retries = match self.retries {
            Some(retries) => Some(retries),
            None => default_retries()?,
        };
        let requires = Requires {
            labels: self.labels.iter().cloned().collect(),
            resources: self.resources.iter().cloned().collect(),
        };
        let concurrency = self
            .concurrency
            .or(self.array.as_ref().and_then(|array| array.concurrency));
        Ok(TaskSpec {
            queue: self.queue.clone(),
            priority: self.priority,
            delay_ms: self.delay.map(duration::as_ms),
            timeout_ms: self.timeout.map(duration::as_ms),
            max_attempts: self.max_attempts.or(retries.map(|retries| retries + 1)),
            requires: Some(requires).filter(|requires| !requires.is_empty()),
            concurrency_key: concurrency.map(|_| concurrency_key(key.unwrap_or_default())),
            concurrency_limit: concurrency,
            tags: Some(self.tags.clone()).filter(|tags| !tags.is_empty()),
            ..TaskSpec::new(EXEC)
        })
    }

    fn spec(
        &self,
        common: &TaskSpec,
        argv: Vec<String>,
        input: &Input,
        index: Option<u64>,
    ) -> TaskSpec {
        let mut env = BTreeMap::new();
        for (name, value) in &self.env {
            if let Some(value) = value.clone().or_else(|| std::env::var(name).ok()) {
                env.insert(name.clone(), value);
            }
        }
        if let Some(index) = index {
            env.insert(ARRAY_INDEX.to_owned(), index.to_string());
        }
        let payload = ExecPayload {
            argv,
            env,
            stdin: match input {
                Input::Forwarded(text) => Some(text.clone()),
                Input::None | Input::Lines(_) => None,
            },
            cwd: self.cwd.clone(),
        };
        TaskSpec {
            payload: Some(payload.to_raw()),
            key: index.map(|index| index.to_string()),
            ..common.clone()
        }
    }
}

/// Returns the concurrency key of the tasks of one job, which its idempotency key identifies.
fn concurrency_key(key: &str) -> String {
    let plain = format!("submit:{key}");
    match plain.len() <= KEY_BYTES_MAX {
        true => plain,
        false => format!(
            "submit:{}",
            Sha256::digest(key)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        ),
    }
}

/// Builds the error for an answer that got lost, or never came.
fn unknown_outcome(key: Option<&str>) -> CommandError {
    CommandError::Unreachable(format!(
        "the cluster did not answer in time, so it is unknown whether the job was accepted. Submit it again with \
         --idempotency-key {}, which never creates a second job.",
        shell::quote(key.unwrap_or_default())
    ))
}

/// Parses the argument that stands for stdin.
fn stdin_marker(text: &str) -> Result<String, String> {
    match text {
        "-" => Ok(text.to_owned()),
        _ => {
            Err("the command to run must follow `--`, as in: triarch submit -- echo hi".to_owned())
        }
    }
}

/// Parses the id of a job, and how it must end.
fn after_job(text: &str) -> Result<AfterJob, String> {
    let (job, when) = text.split_once(':').unwrap_or((text, "succeeded"));
    let mut known = EndCondition::ALL.into_iter();
    let when = known.find(|known| known.as_str() == when);
    match (job.is_empty(), when) {
        (false, Some(when)) => Ok(AfterJob {
            job: job.to_owned(),
            when,
        }),
        _ => Err(format!(
            "'{text}' is not the id of a job, alone or with :succeeded, :failed or :ended behind it"
        )),
    }
}

/// Parses `KEY=VALUE`, where the value may be empty, or `KEY` for a variable of this process.
fn variable(text: &str) -> Result<(String, Option<String>), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    match key.is_empty() {
        false => Ok((key.to_owned(), value)),
        true => Err(format!("'{text}' is neither KEY=VALUE nor KEY")),
    }
}

#[cfg(test)]
mod tests;
