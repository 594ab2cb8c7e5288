//! `triarch-sim`: runs a whole cluster of the real program under simulated faults, each run determined by one seed.
//!
//! The masters are the released program, unchanged. Each is a process on a simulated kernel (`kernel/*.c`): its
//! threads, clock, randomness, network and syncs are those of the simulator, so that a run depends only on the seed.
//! Clients and workers run in the simulator itself and record the answers that they get. After the faults everything
//! must work again, and the invariants are checked.

mod actors;
mod client_load;
mod context;
mod disks;
mod faults;
mod heal;
mod history;
mod http;
mod invariants;
mod kernel;
mod machine;
mod network;
mod process;
mod random;
mod record;
mod run;
mod run_stats;
mod trace;
mod worker;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use world::Weakened;

const USAGE: &str = "\
usage: triarch-sim --seed N [--program FILE] [--trace FILE] [--keep] [--weaken syncs|reads]

Runs the seed once and checks the run. The same seed with the same programs gives the same run.
  --program FILE  the masters' program [default: the triarch next to this program]
  --trace FILE    writes every event to this file, one per line
  --weaken WHAT   removes a guarantee, so that the run should fail: with syncs, disks report syncs that they have not
                  done; with reads, stale reads are recorded as linearizable
  --keep          keeps the masters' disks, their logs and the history, and prints their directory
Exits with 0 if all invariants held, 1 if one was violated, 2 if the run was not possible.";

/// Settings of a run.
pub struct Args {
    /// Seed of the run.
    pub seed: u64,
    /// Path of the masters' program.
    pub program: PathBuf,
    /// File for the trace of events.
    pub trace: Option<PathBuf>,
    /// Whether disks and logs are kept.
    pub keep: bool,
    /// Guarantee that is removed, so that the run should fail.
    pub weakened: Option<Weakened>,
}

fn args() -> anyhow::Result<Args> {
    let beside = std::env::current_exe()?.with_file_name("triarch");
    let mut args = Args {
        seed: 0,
        program: beside,
        trace: None,
        keep: false,
        weakened: None,
    };
    let mut seed = None;
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        let mut value = || {
            given
                .next()
                .with_context(|| format!("{word} needs a value\n{USAGE}"))
        };
        match word.as_str() {
            "--seed" => seed = Some(value()?.parse().context("--seed takes a number")?),
            "--program" => args.program = value()?.into(),
            "--trace" => args.trace = Some(value()?.into()),
            "--keep" => args.keep = true,
            "--weaken" => {
                args.weakened = Some(match value()?.as_str() {
                    "syncs" => Weakened::Syncs,
                    "reads" => Weakened::Reads,
                    other => bail!("--weaken takes syncs or reads, not {other}"),
                });
            }
            _ => bail!("{word} is not known\n{USAGE}"),
        }
    }
    args.seed = seed.context(USAGE)?;
    Ok(args)
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    let seed = args.seed;
    match run::run(&args) {
        Ok(result) => {
            println!("{result}");
            ExitCode::from(u8::from(!result.kept()))
        }
        Err(error) => {
            println!("seed {seed} could not run: {error:#}");
            println!("  replay: {} --seed {seed}", run::replay());
            ExitCode::from(2)
        }
    }
}
