//! `triarch-check HISTORY...`: checks recorded histories and prints the verdict.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use triarch_check::{Bounds, History, Judgement, check_within, rules, summarize};

/// Checks a history of requests and answers against the guarantees of a cluster
#[derive(Debug, Parser)]
#[command(
    name = "triarch-check",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 kept; 1 a promise was broken; 2 bad usage, or a history that cannot be read; 3 undecided; \
                  4 not exercised.\nThe format of histories is described in docs/internals/history-format.md."
)]
struct Cli {
    /// Files of JSON lines, recorded in one run by one clock
    #[arg(value_name = "HISTORY", required_unless_present = "rules")]
    histories: Vec<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Maximum steps of the search for an order of one task's operations; beyond it the verdict is undecided
    #[arg(long, value_name = "N", default_value_t = Bounds::default().steps_max)]
    steps_max: u64,
    /// Maximum steps of all these searches together
    #[arg(long, value_name = "N", default_value_t = Bounds::default().steps_total_max)]
    steps_total_max: u64,
    /// Maximum number of records in memory, each of about 500 bytes
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    records_max: usize,
    /// List the rules and the guarantees that they check
    #[arg(long)]
    rules: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Exit code for wrong arguments, or a history that cannot be read.
const EXIT_UNREADABLE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.rules {
        for rule in rules::RULES {
            println!("{:<13} {}", rule.name, rule.promise);
        }
        return ExitCode::SUCCESS;
    }
    let history = match History::read_bounded(&cli.histories, cli.records_max) {
        Ok(history) => history,
        Err(error) => {
            eprintln!("triarch-check: {error}");
            return ExitCode::from(EXIT_UNREADABLE);
        }
    };
    let bounds = Bounds {
        steps_max: cli.steps_max,
        steps_total_max: cli.steps_total_max,
    };
    let verdict = check_within(&history, bounds);
    match cli.output {
        Output::Text => println!("{}", summarize(&verdict, &history)),
        Output::Json => match serde_json::to_string_pretty(&verdict) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("triarch-check: the verdict cannot be written: {error}");
                return ExitCode::from(EXIT_UNREADABLE);
            }
        },
    }
    ExitCode::from(match verdict.judgement {
        Judgement::Kept => 0,
        Judgement::Broken => 1,
        Judgement::Undecided => 3,
        Judgement::NotExercised => 4,
    })
}
