//! Fault drills: a real cluster under load, something terrible, and a verdict.
//!
//! Each drill starts three masters and some workers as processes, submits real commands without pause, breaks something
//! again and again, and then asks of every acknowledged job: is it there, did it finish, was exactly one result
//! accepted, and do its side effects show tokens in order? The exit code is 0 only if so.

mod backup_restore;
mod callers;
mod clock_jumps;
mod drill;
mod full_disk;
mod grow_shrink;
mod image;
mod kill_all;
mod kill_leader;
mod measure;
mod pause_leader;
mod power_cut;
mod replace_node;
mod rolling_restart;
mod schedule_ticks;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Exit code of a drill that this machine does not allow.
const EXIT_SKIPPED: u8 = 77;
/// What shells give for a command ended by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Fault drills against a real cluster of processes on this machine
#[derive(Debug, Parser)]
#[command(
    name = "triarch-chaos",
    max_term_width = 110,
    after_help = "Exit codes: 0 every promise was kept; 1 one was broken; 2 bad usage; 77 not possible on this machine."
)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Kill the leader with SIGKILL, again and again, and measure how long nobody acknowledges anything
    KillLeader(kill_leader::KillLeaderArgs),
    /// Kill all masters at once and start them again
    KillAll(kill_all::KillAllArgs),
    /// Stop the leader with SIGSTOP while another takes over, and wake it
    PauseLeader(pause_leader::PauseLeaderArgs),
    /// Cut the power of all disks at once: what was not synced is gone (needs root and loop devices)
    PowerCut(power_cut::PowerCutArgs),
    /// Take a backup under load, lose the cluster, and restore into a new one
    BackupRestore(backup_restore::BackupRestoreArgs),
    /// Bring two masters in and take two out again, the leader among them, while the cluster is used
    GrowShrink(grow_shrink::GrowShrinkArgs),
    /// Kill a master with SIGKILL, delete its directory, and put a new one in its place by one command
    ReplaceNode(replace_node::ReplaceNodeArgs),
    /// Stop each master in turn and start it again, while clients count what fails
    RollingRestart(rolling_restart::RollingRestartArgs),
    /// Set one master's wall clock wrong after the other's, while it follows, leads and starts (needs libfaketime)
    ClockJumps(clock_jumps::ClockJumpsArgs),
    /// Fill the masters' disks, one and all, and make room again (needs root)
    FullDisk(full_disk::FullDiskArgs),
    /// Let a schedule tick every second while the leader is killed again and again, and count the jobs of each tick
    ScheduleTicks(schedule_ticks::ScheduleTicksArgs),
}

/// What every drill takes.
#[derive(Debug, Clone, Args)]
struct LoadArgs {
    /// Workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Attempts that each worker runs at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    /// Clients that submit at once, each the next job as soon as the last is acknowledged
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    submitters: u16,
    /// Each one's pause between two jobs
    #[arg(long, value_name = "MS", default_value_t = 20)]
    pause_ms: u64,
    /// Chooses the moments; a random one unless told
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Kept,
    Broken,
    Skipped,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let run = async {
        match cli.scenario {
            Scenario::KillLeader(args) => args.run().await,
            Scenario::KillAll(args) => args.run().await,
            Scenario::PauseLeader(args) => args.run().await,
            Scenario::PowerCut(args) => args.run().await,
            Scenario::BackupRestore(args) => args.run().await,
            Scenario::GrowShrink(args) => args.run().await,
            Scenario::ReplaceNode(args) => args.run().await,
            Scenario::RollingRestart(args) => args.run().await,
            Scenario::ClockJumps(args) => args.run().await,
            Scenario::FullDisk(args) => args.run().await,
            Scenario::ScheduleTicks(args) => args.run().await,
        }
    };
    // An interrupted drill is dropped, and with it every process and every mount.
    let outcome = tokio::select! {
        outcome = run => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted; everything is stopped");
            return ExitCode::from(EXIT_INTERRUPTED);
        }
    };
    match outcome {
        Ok(Outcome::Kept) => ExitCode::SUCCESS,
        Ok(Outcome::Broken) => ExitCode::FAILURE,
        Ok(Outcome::Skipped) => ExitCode::from(EXIT_SKIPPED),
        Err(error) => {
            eprintln!("triarch-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}
