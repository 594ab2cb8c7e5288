//! Entry point of the command line: parses the arguments and runs the command on a runtime that suits it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::CompleteEnv;
use triarch_cli::{
    ClientCommand, CommandError, DevArgs, EXIT_FAILED, EXIT_USAGE, GlobalArgs, completion, hint,
    manual, print_error, print_note,
};

use crate::server_args::ServerArgs;
use crate::worker_args::WorkerArgs;

/// Replicated task master: three masters, any number of workers, no message broker
#[derive(Debug, Parser)]
#[command(
    name = "triarch",
    version,
    max_term_width = 110,
    after_help = "First steps: `triarch dev` in one shell, `triarch submit --wait -- sh -c 'echo hello'` in another."
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(DevArgs),
    Server(ServerArgs),
    Worker(Box<WorkerArgs>),
    #[command(flatten)]
    Client(ClientCommand),
    /// Prints a script that adds completions of this program to a shell
    #[command(after_help = "\
Examples:
  source <(triarch completions bash)                                # in this shell, or in ~/.bashrc
  triarch completions zsh > ~/.zfunc/_triarch                       # with fpath+=~/.zfunc before compinit in ~/.zshrc
  triarch completions fish > ~/.config/fish/completions/triarch.fish

The script calls the `triarch` in PATH at each completion. Ids and names come from the cluster.")]
    Completions {
        /// Shell that the script is for
        shell: clap_complete::Shell,
    },
    /// Writes manual pages for this program and each of its commands
    #[command(after_help = "\
Examples:
  triarch man-pages /usr/local/share/man/man1
  man triarch-task-list")]
    ManPages {
        /// Directory for the pages, created if missing
        #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    // Ends this process here if a shell asks for completions.
    CompleteEnv::with_factory(|| completion::with_values(Cli::command()))
        .var(completion::VARIABLE)
        .complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let global = cli.global;
    match cli.command {
        Command::Dev(args) => long_running(args.run(global.output)),
        Command::Server(args) => long_running(args.run()),
        Command::Worker(args) => match args.administration.command {
            Some(command) => command.run(&global),
            None => long_running(args.run.run(global.masters)),
        },
        Command::Client(command) => command.run(&global),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let written = completion::write_script(shell, &mut script)
                .and_then(|()| std::io::stdout().write_all(&script));
            match written {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => CommandError::Io(error).report(),
            }
        }
        Command::ManPages { dir } => match manual::write(Cli::command(), &dir) {
            Ok(pages) => {
                print_note(&format!("{pages} manual pages are in {}", dir.display()));
                ExitCode::SUCCESS
            }
            Err(error) => {
                let why = format!("cannot write manual pages to {}: {error}", dir.display());
                CommandError::Failed(why).report()
            }
        },
    }
}

/// Prints why a command line is refused, or the help that it asks for.
fn refuse(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // If nobody reads it, that cannot be reported either.
    let _ = error.print();
    if let Some(hint) = hint(&Cli::command(), &arguments, error) {
        print_note(&format!("\n{hint}"));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE))
}

/// Returns the exit code of a process that is part of a cluster, and prints its error.
fn long_running(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        print_error(&format!("{error:#}"));
        ExitCode::from(EXIT_FAILED)
    })
}

#[cfg(test)]
mod tests;
