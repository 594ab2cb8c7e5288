//! `triarch`: the masters, the workers and the command line in one binary.

mod backup;
mod cli;
mod cron;
mod dev;
mod feed;
mod leader;
mod server;
mod state;
mod tally;
mod waiters;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
