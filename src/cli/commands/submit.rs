//! `triarch submit`: submits a job, from the command line or from a file.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use triarch_sdk::Error;
use triarch_sdk::wire::exec::KIND as EXEC;
use triarch_sdk::wire::{ExecPayload, SubmitJob, Submitted, TaskSpec};

use crate::cli::context::CommandContext;
use crate::cli::duration;
use crate::cli::error::CommandError;
use crate::cli::output;
use crate::cli::shell;
use crate::cli::task_output;
use crate::cli::wait::{self, WaitOutcome};

/// Environment variable with the index of a task within its array.
const ARRAY_INDEX: &str = "TRIARCH_ARRAY_INDEX";
/// Maximum tasks of an array, as in one request. An array that cannot be accepted is thereby refused before it is
/// built.
const ARRAY_TASKS_MAX: u64 = 100_000;

/// Submits a job
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("work").args(["argv", "file", "stdin"]).required(true)),
    override_usage = "triarch submit [OPTIONS] -- ARGV...\n       triarch submit [OPTIONS] --file JOB.json\n       \
                      triarch submit [OPTIONS] -",
    after_help = "\
Examples:
  triarch submit --wait -- sh -c 'echo hello'
  triarch submit --queue builds --retries 5 --timeout 10m -- make -C /src all
  triarch submit --array 1-100 --wait -- sh -c 'echo item $TRIARCH_ARRAY_INDEX'
  triarch submit --file job.json
  generate-job | triarch submit -

The id of the job goes to stdout; with --wait, the output of its tasks goes there instead.
Submitting the same work again under the same --idempotency-key returns the existing job."
)]
pub struct SubmitArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Waits until the job has finished and prints the output of its tasks; exits with 1 if it did not succeed
    #[arg(long, short)]
    wait: bool,
    /// Display name of the job
    #[arg(long)]
    name: Option<String>,
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
    stdin: Option<String>,
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
    /// Builds the job from the arguments.
    pub fn job(&self) -> Result<SubmitJob, CommandError> {
        match (&self.file, &self.stdin) {
            (Some(path), _) => read_job(path),
            (None, Some(_)) => read_job(Path::new("-")),
            (None, None) => Ok(SubmitJob::new(self.task.specs(&self.argv))),
        }
    }
}

/// Options of every task of the submission. A file states them for each task instead.
#[derive(Debug, Args)]
#[group(id = "task", conflicts_with_all = ["file", "stdin"], multiple = true)]
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
    /// Maximum retries after a failed attempt [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000_000), help_heading = "Each task")]
    retries: Option<u32>,
    /// Maximum failed attempts, including the first; --max-attempts N+1 equals --retries N [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_001), conflicts_with = "retries", help_heading = "Each task")]
    max_attempts: Option<u32>,
    /// Range of numbers with one task for each; the task finds its number in $TRIARCH_ARRAY_INDEX
    #[arg(long, value_name = "FROM-TO", value_parser = array, help_heading = "Each task")]
    array: Option<(u64, u64)>,
    /// Environment variable of the task; may be repeated
    #[arg(long = "env", short, value_name = "KEY=VALUE", value_parser = variable, help_heading = "Each task")]
    env: Vec<(String, String)>,
    /// Working directory on the worker
    #[arg(long, value_name = "DIR", help_heading = "Each task")]
    cwd: Option<String>,
}

impl SubmitArgs {
    /// Submits the job, and waits for it with `--wait`.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        let wait = self.wait;
        let mut job = self.work.job()?;
        if self.name.is_some() {
            job.name = self.name;
        }
        // Without a key, a submission that is sent again because its answer got lost would be a second job.
        job.idempotency_key = self
            .idempotency_key
            .or(job.idempotency_key)
            .or_else(|| Some(uuid::Uuid::new_v4().to_string()));
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
        if wait {
            wait_and_print(context, &submitted).await
        } else {
            output::print(context.format, &submitted, |submitted| submitted.id.clone())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn wait_and_print(
    context: &CommandContext,
    submitted: &Submitted,
) -> Result<ExitCode, CommandError> {
    output::print_note(&format!("job {}", submitted.id));
    let job = match wait::wait_for_job(context, &submitted.id).await? {
        WaitOutcome::Finished(job) => job,
        WaitOutcome::Interrupted => return Ok(wait::interrupted_exit_code()),
    };
    task_output::print_job(context, &job).await?;
    Ok(task_output::exit_code(&job))
}

impl TaskArgs {
    /// Builds one task, or one per number of the array.
    fn specs(&self, argv: &[String]) -> Vec<TaskSpec> {
        match self.array {
            None => vec![self.spec(argv, None)],
            Some((from, to)) => (from..=to)
                .map(|index| self.spec(argv, Some(index)))
                .collect(),
        }
    }

    fn spec(&self, argv: &[String], index: Option<u64>) -> TaskSpec {
        let mut env = BTreeMap::from_iter(self.env.iter().cloned());
        if let Some(index) = index {
            env.insert(ARRAY_INDEX.to_owned(), index.to_string());
        }
        let payload = ExecPayload {
            argv: argv.to_vec(),
            env,
            stdin: None,
            cwd: self.cwd.clone(),
        };
        TaskSpec {
            payload: Some(payload.to_raw()),
            queue: self.queue.clone(),
            priority: self.priority,
            delay_ms: self.delay.map(duration::as_ms),
            timeout_ms: self.timeout.map(duration::as_ms),
            max_attempts: self
                .max_attempts
                .or(self.retries.map(|retries| retries + 1)),
            key: index.map(|index| index.to_string()),
            ..TaskSpec::new(EXEC)
        }
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

/// Reads the body of a submission, in the format of the HTTP interface.
fn read_job(path: &Path) -> Result<SubmitJob, CommandError> {
    let (name, text) = if path == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin()
            .lock()
            .read_to_string(&mut text)
            .map(|_| text);
        ("stdin".to_owned(), read)
    } else {
        (path.display().to_string(), std::fs::read_to_string(path))
    };
    let text = text.map_err(|error| {
        CommandError::Usage(format!("cannot read the job from {name}: {error}"))
    })?;
    serde_json::from_str(&text).map_err(|error| {
        CommandError::Usage(format!(
            "{name} does not contain a valid job: {error}. A job looks like \
             {{\"tasks\": [{{\"kind\": \"exec\", \"payload\": {{\"argv\": [\"echo\", \"hi\"]}}}}]}}"
        ))
    })
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

/// Parses `1-100`.
fn array(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("'{text}' is not FROM-TO, such as 1-100");
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    let (from, to): (u64, u64) = (
        from.parse().map_err(|_| wrong())?,
        to.parse().map_err(|_| wrong())?,
    );
    if from > to {
        return Err(format!("'{text}' is empty: {from} is greater than {to}"));
    }
    if to - from >= ARRAY_TASKS_MAX {
        return Err(format!(
            "'{text}' is more than {ARRAY_TASKS_MAX} tasks; submit several jobs"
        ));
    }
    Ok((from, to))
}

/// Parses `KEY=VALUE`, where the value may be empty.
fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("'{text}' is not KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: SubmitArgs,
    }

    fn specs(words: &[&str]) -> Vec<TaskSpec> {
        let args = Command::try_parse_from([&["submit"], words].concat())
            .expect("valid")
            .args;
        args.work.task.specs(&args.work.argv)
    }

    fn payload(spec: &TaskSpec) -> ExecPayload {
        serde_json::from_str(spec.payload.as_ref().expect("exec has one").get())
            .expect("our own words")
    }

    #[test]
    fn unset_options_are_left_to_the_cluster() {
        let specs = specs(&["--", "echo", "--wait"]);
        assert_eq!(specs.len(), 1);
        let text = serde_json::to_string(&specs[0]).expect("plain");
        assert_eq!(
            text,
            r#"{"kind":"exec","payload":{"argv":["echo","--wait"]}}"#
        );
    }

    #[test]
    fn retries_count_without_the_first_attempt_and_max_attempts_with_it() {
        let attempts = |option, count| specs(&[option, count, "--", "x"])[0].max_attempts;
        assert_eq!(attempts("--retries", "0"), Some(1));
        assert_eq!(attempts("--retries", "4"), Some(5));
        assert_eq!(attempts("--max-attempts", "1"), Some(1));
        assert_eq!(attempts("--max-attempts", "5"), Some(5));
        let refused = |words: &[&str]| Command::try_parse_from([&["submit"], words].concat());
        let both = refused(&["--retries", "1", "--max-attempts", "2", "--", "x"]);
        let error = both.expect_err("they contradict each other");
        assert_eq!(error.exit_code(), 2, "a usage error");
        assert!(refused(&["--max-attempts", "0", "--", "x"]).is_err());
    }

    #[test]
    fn both_spellings_of_the_idempotency_key_are_accepted() {
        for option in ["--idempotency-key", "--key"] {
            let parsed = Command::try_parse_from(["submit", option, "k", "--", "x"]);
            let args = parsed.expect("valid").args;
            assert_eq!(args.idempotency_key.as_deref(), Some("k"), "{option}");
        }
    }

    #[test]
    fn options_become_fields_in_the_units_of_the_wire() {
        let line =
            "--queue q --priority 9 --delay 1.5s --timeout 2m --env A=b=c --env E= --cwd /tmp -- x";
        let specs = specs(&line.split(' ').collect::<Vec<_>>());
        let spec = &specs[0];
        assert_eq!(spec.queue.as_deref(), Some("q"));
        assert_eq!(
            (spec.priority, spec.delay_ms, spec.timeout_ms),
            (Some(9), Some(1_500), Some(120_000))
        );
        let payload = payload(spec);
        assert_eq!(payload.cwd.as_deref(), Some("/tmp"));
        assert_eq!(payload.env.get("A").map(String::as_str), Some("b=c"));
        assert_eq!(payload.env.get("E").map(String::as_str), Some(""));
    }

    #[test]
    fn an_array_has_one_task_for_each_number() {
        let specs = specs(&["--array", "9-11", "--", "x"]);
        let indexes: Vec<String> = specs
            .iter()
            .map(|spec| payload(spec).env[ARRAY_INDEX].clone())
            .collect();
        assert_eq!(indexes, ["9", "10", "11"]);
        assert_eq!(specs[2].key.as_deref(), Some("11"));
    }

    #[test]
    fn an_invalid_array_is_refused() {
        assert_eq!(array("1-10000"), Ok((1, 10_000)));
        assert_eq!(array("7-7"), Ok((7, 7)));
        for text in [
            "",
            "5",
            "5-",
            "-5",
            "a-b",
            "2-1",
            "1-100001",
            "0-18446744073709551615",
            "1-2-3",
        ] {
            assert!(array(text).is_err(), "{text}");
        }
    }
}
