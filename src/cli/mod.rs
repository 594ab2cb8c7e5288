//! The command line: what people and scripts type, and what they get to see.
//!
//! Data goes to stdout and everything else to stderr, so that output can be piped. Exit codes: 0 done; 1 the thing
//! asked for failed; 2 bad usage; 3 no cluster reachable. There is one file per noun.

mod duration;
mod logging;
mod server;
mod worker;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Exit code for an operation that was carried out and failed.
const EXIT_FAILED: u8 = 1;
/// Exit code for a command line that makes no sense; the same one clap uses.
const EXIT_USAGE: u8 = 2;

/// A replicated task master: three masters, any number of workers, no broker.
#[derive(Debug, Parser)]
#[command(
    name = "triarch",
    version,
    max_term_width = 110,
    propagate_version = true
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Accepted anywhere on the command line.
#[derive(Debug, Args)]
struct GlobalArgs {
    /// Masters to talk to; one that answers is enough
    #[arg(
        long,
        global = true,
        value_name = "URL,URL",
        value_delimiter = ',',
        env = "TRIARCH_MASTERS",
        default_value = "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103",
        help_heading = "Cluster"
    )]
    masters: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one master
    Server(server::ServerArgs),
    /// Run a worker, or look after the workers of a cluster
    Worker(worker::WorkerArgs),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Server(args) => args.run(),
        Command::Worker(args) => args.run(cli.global.masters),
    };
    done.unwrap_or_else(|error| {
        eprintln!("triarch: {error:#}");
        ExitCode::from(EXIT_FAILED)
    })
}

/// Says what is wrong with the command line, where clap alone cannot know.
fn usage_error(message: &str) -> ExitCode {
    eprintln!("error: {message}\n\nFor more information, try '--help'.");
    ExitCode::from(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
