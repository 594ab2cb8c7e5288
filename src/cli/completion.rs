//! Completions for shells: the script that registers them, and values that the cluster knows.
//!
//! The script calls this program with the words of the command line and the environment variable [`VARIABLE`]. So the
//! completions always fit the program, and ids and names of the cluster are among them.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::time::Duration;

use clap::{Arg, Command};
use clap_complete::env::Shells;
use clap_complete::{ArgValueCompleter, CompletionCandidate};
use triarch_sdk::wire::{JobsQuery, ListOrder, PageQuery, ReadQuery, TasksQuery, WorkersQuery};
use triarch_sdk::{Client, ClientOptions, Error, parse_masters};

use super::args::DEFAULT_MASTERS;
use super::output;
use super::time_format;

/// Environment variable in which a shell asks for completions.
pub const VARIABLE: &str = "TRIARCH_COMPLETE";
/// Name of the program.
const PROGRAM: &str = "triarch";
/// End of the script for zsh, which may autoload it as a function at the first completion.
const ZSH_AUTOLOAD: &str = "\
if [[ ${funcstack[1]} == _triarch ]]; then
    _clap_dynamic_completer_triarch \"$@\"
fi
";
/// Maximum time for an answer of the cluster, because a user waits for it at the prompt.
const TIMEOUT: Duration = Duration::from_millis(1_500);
/// Maximum number of ids, the newest first.
const IDS_MAX: u32 = 100;

/// Values with a description of each.
type Described = Vec<(String, String)>;

/// Writes the script that registers the completions of a shell.
pub fn write_script(shell: clap_complete::Shell, to: &mut impl Write) -> io::Result<()> {
    let shells = Shells::builtins();
    let script = shells.completer(&shell.to_string());
    let script = script.ok_or_else(|| io::Error::other(format!("no completions for {shell}")))?;
    script.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, to)?;
    if shell == clap_complete::Shell::Zsh {
        to.write_all(ZSH_AUTOLOAD.as_bytes())?;
    }
    Ok(())
}

/// Adds completers to all arguments of a command that take an id or a name of the cluster.
pub fn with_values(command: Command) -> Command {
    let of_schedules = command.get_name() == "schedule";
    let below = move |command: Command| match of_schedules {
        true => command.mut_args(|arg| match arg.is_positional() && takes(&arg, "NAME") {
            true => arg.add(ArgValueCompleter::new(schedules)),
            false => arg,
        }),
        false => command,
    };
    command
        .mut_args(with_completer)
        .mut_subcommands(|command| below(with_values(command)))
}

fn with_completer(arg: Arg) -> Arg {
    let completer = match arg.get_id().as_str() {
        "queues" => Some(ArgValueCompleter::new(queues)),
        "schedule" => Some(ArgValueCompleter::new(schedules)),
        _ if takes(&arg, "JOB") => Some(ArgValueCompleter::new(jobs)),
        _ if takes(&arg, "TASK") => Some(ArgValueCompleter::new(tasks)),
        _ if takes(&arg, "QUEUE") => Some(ArgValueCompleter::new(queues)),
        _ if takes(&arg, "WORKER") => Some(ArgValueCompleter::new(workers)),
        _ => None,
    };
    match completer {
        Some(completer) => arg.add(completer),
        None => arg,
    }
}

/// Returns whether this is the name of an argument's values in the help.
fn takes(arg: &Arg, name: &str) -> bool {
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().any(|known| known.as_str() == name)
}

/// Completes the id of a job.
fn jobs(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, async |client| {
        let query = JobsQuery {
            limit: Some(IDS_MAX),
            ..JobsQuery::default()
        };
        let jobs = client.jobs(&query).await?.jobs.into_iter();
        let described = jobs.map(|job| (job.id, format!("{} {}", job.state, job.name)));
        Ok(described.collect())
    })
}

/// Completes the id of a task.
fn tasks(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, async |client| {
        let query = TasksQuery {
            order: Some(ListOrder::Desc),
            limit: Some(IDS_MAX),
            ..TasksQuery::default()
        };
        let tasks = client.tasks(&query).await?.tasks.into_iter();
        let described = tasks.map(|task| (task.id, format!("{} {}", task.state, task.kind)));
        Ok(described.collect())
    })
}

/// Completes the name of a queue.
fn queues(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, async |client| {
        let queues = client.queues(&ReadQuery::default()).await?.queues;
        let described = queues.into_iter().map(|queue| {
            let counts = format!("{} queued, {} running", queue.depth, queue.running);
            (queue.name, counts)
        });
        Ok(described.collect())
    })
}

/// Completes the name of a worker.
fn workers(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, async |client| {
        let workers = client.workers(&WorkersQuery::default()).await?.workers;
        let described = workers
            .into_iter()
            .map(|worker| (worker.name, format!("{} {}", worker.id, worker.state)));
        Ok(described.collect())
    })
}

/// Completes the name of a schedule.
fn schedules(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, async |client| {
        let schedules = client.schedules(&PageQuery::default()).await?.schedules;
        let described = schedules.into_iter().map(|schedule| {
            let times = time_format::schedule_times(schedule.cron.as_deref(), schedule.every_ms);
            (schedule.name, times)
        });
        Ok(described.collect())
    })
}

/// Asks the cluster for values, and returns those that begin as the current word does. A cluster that cannot be reached
/// has none, because a message would only disturb the prompt.
fn candidates(
    current: &OsStr,
    ask: impl AsyncFnOnce(&Client) -> Result<Described, Error>,
) -> Vec<CompletionCandidate> {
    let Some(prefix) = current.to_str() else {
        return Vec::new();
    };
    let found = answer(ask).unwrap_or_default().into_iter();
    let fitting = found.filter(|(value, _)| value.starts_with(prefix) && is_plain(value));
    let candidate = |(order, (value, about)): (usize, (String, String))| {
        let about = output::one_line(about.trim()).into_owned();
        CompletionCandidate::new(value)
            .help(Some(about.into()))
            .display_order(Some(order))
    };
    fitting.enumerate().map(candidate).collect()
}

fn answer(ask: impl AsyncFnOnce(&Client) -> Result<Described, Error>) -> Option<Described> {
    let options = ClientOptions {
        unreachable_deadline: TIMEOUT,
        ..ClientOptions::default()
    };
    let masters = parse_masters(&masters(std::env::args())).ok()?;
    let client = Client::with_options(&masters, options).ok()?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(TIMEOUT, ask(&client)).await });
    answer.ok()?.ok()
}

/// Returns the masters that the words of the command line name, or those of the environment, or the default ones.
fn masters(mut words: impl Iterator<Item = String>) -> String {
    let mut named = None;
    while let Some(word) = words.next() {
        match word.strip_prefix("--masters") {
            Some("") => named = words.next(),
            Some(value) => named = value.strip_prefix('=').map(str::to_owned).or(named),
            None => {}
        }
    }
    let of_environment = || std::env::var("TRIARCH_MASTERS").ok();
    named
        .or_else(of_environment)
        .filter(|masters| !masters.is_empty())
        .unwrap_or_else(|| DEFAULT_MASTERS.to_owned())
}

/// Returns whether a value means nothing else to a shell. Others are not offered, because shells insert them as they are.
fn is_plain(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@%+,".contains(&byte);
    !value.is_empty() && value.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_those_of_the_command_line() {
        let of = |line: &str| masters(line.split_whitespace().map(str::to_owned));
        assert_eq!(of("triarch --masters a:1,b:1 job show"), "a:1,b:1");
        assert_eq!(of("triarch job show --masters=c:1 j"), "c:1");
        assert_eq!(of("triarch --masters a:1 job --masters b:1"), "b:1");
    }

    #[test]
    fn values_that_a_shell_would_interpret_are_not_offered() {
        for plain in ["default", "j5-0", "eu.mail_high", "host:7", "50%"] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in [
            "",
            "a b",
            "$(reboot)",
            "a;b",
            "`x`",
            "~",
            "a'b",
            "é",
            "a&b",
            "*",
        ] {
            assert!(!is_plain(other), "{other}");
        }
    }

    #[test]
    fn every_shell_has_a_script_that_calls_this_program() {
        use clap::ValueEnum;
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            write_script(*shell, &mut script).expect("written");
            let script = String::from_utf8(script).expect("text");
            assert!(
                script.contains(VARIABLE) && script.contains(PROGRAM),
                "{shell}"
            );
        }
    }
}
