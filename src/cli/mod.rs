//! The command line: what people and scripts type, and what they get to see.
//!
//! Data goes to stdout and everything else to stderr, so that output can be piped. Exit codes: 0 done; 1 the thing
//! asked for failed; 2 bad usage; 3 no cluster reachable. There is one file per noun.

mod bench;
mod commands;
mod context;
mod dev;
mod duration;
mod error;
mod logging;
pub mod output;
mod task_output;
mod time_format;
mod wait;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::de::DeserializeOwned;
use triarch_sdk::wire::PageQuery;

use self::output::Format;
use crate::cli::context::Session;
pub use crate::cli::error::Failure;

/// Where a cluster is looked for when nobody says where: the ports of `triarch dev`.
pub const DEFAULT_MASTERS: &str =
    "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103";

/// Exit code for an operation that was carried out and failed.
const EXIT_FAILED: u8 = 1;
/// Exit code for a command line that makes no sense; the same one clap uses.
const EXIT_USAGE: u8 = 2;
/// Exit code for a cluster that cannot be talked to.
const EXIT_UNREACHABLE: u8 = 3;

/// A replicated task master: three masters, any number of workers, no broker
#[derive(Debug, Parser)]
#[command(
    name = "triarch",
    version,
    max_term_width = 110,
    after_help = "Try it: `triarch dev` in one shell, `triarch submit --wait -- sh -c 'echo hello'` in another."
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Accepted anywhere on the command line.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Masters to talk to; one that answers is enough
    #[arg(
        long,
        global = true,
        value_name = "URL,URL",
        value_delimiter = ',',
        env = "TRIARCH_MASTERS",
        default_value = DEFAULT_MASTERS,
        hide_default_value = true,
        help_heading = "Cluster"
    )]
    masters: Vec<String>,
    /// Tables for people, JSON for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t = Format::Table,
        hide_default_value = true,
        help_heading = "Cluster"
    )]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(crate::cli::commands::dev::DevArgs),
    Server(crate::cli::commands::server::ServerArgs),
    Worker(Box<crate::cli::commands::worker::WorkerArgs>),
    Submit(Box<crate::cli::commands::submit::SubmitArgs>),
    Job(crate::cli::commands::job::JobArgs),
    Task(crate::cli::commands::task::TaskArgs),
    Queue(crate::cli::commands::queue::QueueArgs),
    Schedule(crate::cli::commands::schedule::ScheduleArgs),
    Events(crate::cli::commands::events::EventsArgs),
    Cluster(crate::cli::commands::cluster::ClusterArgs),
    Bench(bench::BenchArgs),
    /// Print a script that completes these commands in a shell
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Which part of a long list.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// How many to show
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Go on where an earlier page ended
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// Show it again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

impl PageArgs {
    fn query(self) -> PageQuery {
        PageQuery {
            limit: Some(self.limit),
            after: self.after,
            consistency: None,
        }
    }
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let global = cli.global;
    match cli.command {
        Command::Dev(args) => long_running(args.run(global.output)),
        Command::Server(args) => long_running(args.run()),
        Command::Worker(args) => match args.command {
            Some(command) => client(&global, async |session| command.run(session).await),
            None => long_running(args.run.run(global.masters)),
        },
        Command::Submit(args) => client(&global, async |session| args.run(session).await),
        Command::Job(args) => client(&global, async |session| args.run(session).await),
        Command::Task(args) => client(&global, async |session| args.run(session).await),
        Command::Queue(args) => client(&global, async |session| args.run(session).await),
        Command::Schedule(args) => client(&global, async |session| args.run(session).await),
        Command::Events(args) => client(&global, async |session| args.run(session).await),
        Command::Cluster(args) => client(&global, async |session| args.run(session).await),
        Command::Bench(args) => on(
            tokio::runtime::Builder::new_multi_thread(),
            &global,
            async |session| args.run(session).await,
        ),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "triarch", &mut script);
            match std::io::stdout().write_all(&script) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => Failure::Io(error).report(),
            }
        }
    }
}

/// Runs a command that talks to a cluster.
fn client(
    global: &GlobalArgs,
    command: impl AsyncFnOnce(&Session) -> Result<ExitCode, Failure>,
) -> ExitCode {
    on(
        tokio::runtime::Builder::new_current_thread(),
        global,
        command,
    )
}

/// Runs a command that talks to a cluster, on a runtime of this kind.
fn on(
    mut runtime: tokio::runtime::Builder,
    global: &GlobalArgs,
    command: impl AsyncFnOnce(&Session) -> Result<ExitCode, Failure>,
) -> ExitCode {
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::Io(error).report(),
    };
    let done = runtime.block_on(async {
        let session = Session::new(global)?;
        command(&session).await
    });
    done.unwrap_or_else(Failure::report)
}

/// Ends a process that is a part of a cluster.
fn long_running(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::from(EXIT_FAILED)
    })
}

/// Says what is wrong with the command line, where clap alone cannot know.
fn usage_error(message: &str) -> ExitCode {
    output::note(&format!(
        "error: {message}\n\nFor more information, try '--help'."
    ));
    ExitCode::from(EXIT_USAGE)
}

/// Says what went wrong.
pub fn complain(message: &str) {
    output::note(&format!("triarch: {message}"));
}

/// A word of the wire interface, such as a state.
fn parse_word<T: DeserializeOwned>(word: &str) -> Result<T, String> {
    let deserializer = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(word);
    T::deserialize(deserializer).map_err(|error| error.to_string())
}

/// This program as its user called it, so that what is printed can be pasted into the same shell.
pub fn called_as() -> String {
    std::env::args()
        .next()
        .map_or_else(|| "triarch".to_owned(), |name| quoted(&name))
}

/// A word as a POSIX shell reads it back.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
