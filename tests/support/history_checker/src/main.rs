//! `triarch-check HISTORY...`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use triarch_check::{Bounds, History, Judgement, check_within, rules, summarize};

/// Says whether a cluster kept its promises in a history of its use
#[derive(Debug, Parser)]
#[command(
    name = "triarch-check",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 kept; 1 a promise was broken; 2 bad usage, or a history that cannot be read; 3 undecided; \
                  4 not exercised.\nThe format of histories is described in docs/internals/history-format.md."
)]
struct Cli {
    /// Files of JSON lines; those of one run, recorded by one clock
    #[arg(value_name = "HISTORY", required_unless_present = "rules")]
    histories: Vec<PathBuf>,
    /// How to tell
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Bound of the search for an order of one task's operations; beyond it is undecided
    #[arg(long, value_name = "N", default_value_t = Bounds::default().steps_max)]
    steps_max: u64,
    /// Bound of all these searches together
    #[arg(long, value_name = "N", default_value_t = Bounds::default().steps_total_max)]
    steps_total_max: u64,
    /// Records that are held in memory, each takes some 500 bytes
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    records_max: usize,
    /// List the rules and the promises that they hold
    #[arg(long)]
    rules: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Bad usage, or a history that cannot be read.
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
