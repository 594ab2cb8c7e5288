//! Fault drills: a real cluster under load, something terrible, and a verdict.
//!
//! Each drill starts three masters and some workers as processes, submits real commands without pause, breaks something
//! again and again, and then asks of every acknowledged job: is it there, did it finish, was exactly one result
//! accepted, and do its side effects show tokens in order? All that is asked and answered is written down besides, with
//! a mixed workload, and judged by the checker of histories. The exit code is 0 only if both find nothing.

mod client_load;
mod drill;
mod fault_round;
mod faults;
mod net;
mod plan;
mod results;
mod scenarios;
mod testbed;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use plan::{CutShape, KillTarget, PauseTarget, Plan, Role};
use scenarios::repeat::RepeatArgs;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a run of which the checker cannot tell.
const EXIT_UNDECIDED: u8 = 3;
/// Exit code of a run that proved nothing: a fault never took effect.
const EXIT_NOT_EXERCISED: u8 = 4;
/// Exit code of a drill that this machine does not allow.
const EXIT_SKIPPED: u8 = 77;
/// What shells give for a command ended by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Fault drills against a real cluster of processes on this machine
#[derive(Debug, Parser)]
#[command(
    name = "triarch-chaos",
    max_term_width = 110,
    after_help = "Exit codes: 0 every promise was kept; 1 one was broken; 2 bad usage; \
                  3 the checker cannot tell; 4 a kind of fault never took effect, so nothing is proved; 77 not possible on this machine."
)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Kill the leader with SIGKILL, again and again, and measure how long nobody acknowledges anything
    KillLeader(scenarios::kill_leader::KillLeaderArgs),
    /// Kill all masters at once and start them again
    KillAll(scenarios::kill_all::KillAllArgs),
    /// Stop the leader with SIGSTOP while another takes over, and wake it
    PauseLeader(scenarios::pause_leader::PauseLeaderArgs),
    /// Cut the power of all disks at once: what was not synced is gone (needs root and loop devices)
    PowerCut(scenarios::power_cut::PowerCutArgs),
    /// Take a backup under load, lose the cluster, and restore into a new one
    BackupRestore(scenarios::backup_restore::BackupRestoreArgs),
    /// Bring two masters in and take two out again, the leader among them, while the cluster is used
    GrowShrink(scenarios::grow_shrink::GrowShrinkArgs),
    /// Kill a master with SIGKILL, delete its directory, and put a new one in its place by one command
    ReplaceNode(scenarios::replace_node::ReplaceNodeArgs),
    /// Stop each master in turn and start it again, while clients count what fails
    RollingRestart(scenarios::rolling_restart::RollingRestartArgs),
    /// Set one master's wall clock wrong after the other's, while it follows, leads and starts (needs libfaketime)
    ClockJumps(scenarios::clock_jumps::ClockJumpsArgs),
    /// Fill the masters' disks, one and all, and make room again (needs root)
    FullDisk(scenarios::full_disk::FullDiskArgs),
    /// Let a schedule tick every second while the leader is killed again and again, and count the jobs of each tick
    ScheduleTicks(scenarios::schedule_ticks::ScheduleTicksArgs),
    /// Kill a follower with SIGKILL, again and again
    KillFollower(RepeatArgs),
    /// Kill any two of the three masters at once: the third must neither lead nor acknowledge anything
    KillTwo(RepeatArgs),
    /// Kill all workers at once; their tasks are given to those that come
    KillWorkers(RepeatArgs),
    /// Kill all masters and all workers at once
    KillEverything(RepeatArgs),
    /// Stop the leader, a follower and a worker in turn with SIGSTOP, for up to half a minute each
    Pause(RepeatArgs),
    /// Cut the leader off from both followers
    CutLeaderAlone(RepeatArgs),
    /// Cut the leader and one follower off from the other follower
    CutLeaderWithOne(RepeatArgs),
    /// Let nothing arrive that the leader sends, but all that is sent to it
    CutOneWay(RepeatArgs),
    /// Let all arrive that the leader asks the others, but no answer
    CutResponses(RepeatArgs),
    /// Cut the leader off and on again, several times a second
    CutFlapping(RepeatArgs),
    /// Make everything late between one master and the others
    Delay(RepeatArgs),
    /// Lose 5 to 40 of 100 packets between one master and the others (needs root)
    Loss(RepeatArgs),
    /// Make every sync of one master's disk slow (needs strace)
    SlowDisk(RepeatArgs),
    /// Make a sync of one master's disk fail: it must end, and is started again (needs strace)
    FailingFsync(RepeatArgs),
    /// Cut the power of one master's disk after the other: what was not synced is gone (needs root and loop devices)
    PowerCutOne(RepeatArgs),
    /// Hand leadership over again and again, and measure how long nobody is acknowledged anything
    HandOver(scenarios::hand_over::HandOverArgs),
    /// Give the cluster as much work as it takes, without faults, and count elections: there must be none
    FullLoad(scenarios::full_load::FullLoadArgs),
    /// Inject faults of all kinds at random, some of them at once
    Random(scenarios::random::RandomArgs),
    /// Kill leaders, and inject every other kind of fault, in numbers: what the figures in docs/reliability.md are made by
    Long(scenarios::random::LongArgs),
    /// Inject faults of all kinds for as long as is told, some of them at once, some for half a minute
    Soak(scenarios::random::SoakArgs),
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
    /// Writes the history to this file, whatever the verdict; without, it is kept only when a promise was broken
    #[arg(long, value_name = "FILE")]
    keep_history: Option<std::path::PathBuf>,
}

impl LoadArgs {
    /// The same for the n-th cluster of a run on several: other moments.
    fn of_cluster(&self, nth: u32) -> Self {
        let mut load = self.clone();
        load.seed = load.seed.map(|seed| seed.wrapping_add(u64::from(nth)));
        load
    }
}

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Kept,
    Broken,
    Undecided,
    NotExercised,
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
            Scenario::KillFollower(args) => {
                let plans = [Plan::Kill(KillTarget::Follower)];
                args.run("followers killed", &plans, SHORT_MS).await
            }
            Scenario::KillTwo(args) => {
                let plans = [Plan::Kill(KillTarget::TwoMasters)];
                args.run("two masters killed at once", &plans, SHORT_MS)
                    .await
            }
            Scenario::KillWorkers(args) => {
                let plans = [Plan::Kill(KillTarget::Workers)];
                args.run("all workers killed at once", &plans, SHORT_MS)
                    .await
            }
            Scenario::KillEverything(args) => {
                let plans = [Plan::Kill(KillTarget::Everything)];
                args.run("everything killed at once", &plans, SHORT_MS)
                    .await
            }
            Scenario::Pause(args) => {
                let sleepers = [
                    PauseTarget::Leader,
                    PauseTarget::Follower,
                    PauseTarget::Worker,
                ];
                let title = "leaders, followers and workers stopped with SIGSTOP";
                args.run(title, &sleepers.map(Plan::Pause), (100, 30_000))
                    .await
            }
            Scenario::CutLeaderAlone(args) => {
                let plans = [Plan::Cut(CutShape::LeaderAlone)];
                args.run("leaders cut off from both followers", &plans, CUT_MS)
                    .await
            }
            Scenario::CutLeaderWithOne(args) => {
                let plans = [Plan::Cut(CutShape::LeaderWithOne)];
                args.run("followers cut off from the others", &plans, CUT_MS)
                    .await
            }
            Scenario::CutOneWay(args) => {
                let plans = [Plan::Cut(CutShape::OneWay)];
                args.run("leaders that are not heard", &plans, CUT_MS).await
            }
            Scenario::CutResponses(args) => {
                let plans = [Plan::Cut(CutShape::ResponsesOnly)];
                args.run("leaders that get no answers", &plans, CUT_MS)
                    .await
            }
            Scenario::CutFlapping(args) => {
                let plans = [Plan::Cut(CutShape::Flapping)];
                args.run("leaders cut off on and off", &plans, CUT_MS).await
            }
            Scenario::Delay(args) => args.run("late messages", &both(Plan::Delay), CUT_MS).await,
            Scenario::Loss(args) => args.run("lost packets", &both(Plan::Loss), CUT_MS).await,
            Scenario::SlowDisk(args) => args.run("slow disks", &both(Plan::SlowDisk), CUT_MS).await,
            Scenario::FailingFsync(args) => {
                args.run("failing syncs", &both(Plan::FailingSync), SHORT_MS)
                    .await
            }
            Scenario::PowerCutOne(args) => {
                args.run("power cuts of one master", &both(Plan::PowerCut), SHORT_MS)
                    .await
            }
            Scenario::HandOver(args) => args.run().await,
            Scenario::FullLoad(args) => args.run().await,
            Scenario::Random(args) => args.run().await,
            Scenario::Long(args) => args.run().await,
            Scenario::Soak(args) => args.run().await,
        }
    };
    let mut terminated = signal(SignalKind::terminate()).expect("signals can be waited for");
    let mut hung_up = signal(SignalKind::hangup()).expect("signals can be waited for");
    let interrupted = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
            _ = hung_up.recv() => {}
        }
    };
    // An interrupted drill is dropped, and with it every process and every mount.
    let outcome = tokio::select! {
        outcome = run => outcome,
        () = interrupted => {
            eprintln!("interrupted; everything is stopped");
            return ExitCode::from(EXIT_INTERRUPTED);
        }
    };
    match outcome {
        Ok(Outcome::Kept) => ExitCode::SUCCESS,
        Ok(Outcome::Broken) => ExitCode::FAILURE,
        Ok(Outcome::Undecided) => ExitCode::from(EXIT_UNDECIDED),
        Ok(Outcome::NotExercised) => ExitCode::from(EXIT_NOT_EXERCISED),
        Ok(Outcome::Skipped) => ExitCode::from(EXIT_SKIPPED),
        Err(error) => {
            eprintln!("triarch-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How long processes stay dead.
const SHORT_MS: (u64, u64) = (100, 3_000);
/// How long networks and disks stay bad.
const CUT_MS: (u64, u64) = (500, 10_000);

fn both(plan: fn(Role) -> Plan) -> [Plan; 2] {
    [Role::Leader, Role::Follower].map(plan)
}
