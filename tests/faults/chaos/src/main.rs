//! Fault drills: a real cluster under load, injected faults, and a verdict.
//!
//! Each drill starts three masters and some workers as processes, submits real commands without pause, and injects
//! faults repeatedly. Then it checks every acknowledged job: the job exists, it has finished, exactly one result was
//! accepted per task, and its side effects show tokens in ascending order. A history of all requests and answers, with
//! a mixed workload in addition, is recorded and checked by the history checker. The exit code is 0 only if neither
//! check finds a violation.

mod client_load;
mod drill;
mod fault_round;
mod faults;
mod hostile_clients;
mod net;
mod plan;
mod results;
mod scenarios;
mod testbed;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use plan::{CutShape, KillTarget, PartialShape, PauseTarget, Plan, Role};
use scenarios::repeat::RepeatArgs;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a run that the checker could not decide.
const EXIT_UNDECIDED: u8 = 3;
/// Exit code of a run that proved nothing, because a fault never took effect.
const EXIT_NOT_EXERCISED: u8 = 4;
/// Exit code of a drill that this machine does not support.
const EXIT_SKIPPED: u8 = 77;
/// Exit code that shells report for a command ended by Ctrl-C.
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
    /// Kill the leader with SIGKILL repeatedly, and measure how long no job is acknowledged
    KillLeader(scenarios::kill_leader::KillLeaderArgs),
    /// Kill all masters at once and start them again
    KillAll(scenarios::kill_all::KillAllArgs),
    /// Stop the leader with SIGSTOP while another takes over, and wake it
    PauseLeader(scenarios::pause_leader::PauseLeaderArgs),
    /// Cut the power of all disks at once, so that unsynced data is lost (needs root and loop devices)
    PowerCut(scenarios::power_cut::PowerCutArgs),
    /// Take a backup under load, destroy the cluster, and restore the backup into a new cluster
    BackupRestore(scenarios::backup_restore::BackupRestoreArgs),
    /// Add two masters and remove two again, the leader among them, while the cluster is in use
    GrowShrink(scenarios::grow_shrink::GrowShrinkArgs),
    /// Kill a master with SIGKILL, delete its directory, and replace it by one command
    ReplaceNode(scenarios::replace_node::ReplaceNodeArgs),
    /// Stop each master in turn and start it again, while clients count failed calls
    RollingRestart(scenarios::rolling_restart::RollingRestartArgs),
    /// Upgrade each master in turn, go back, upgrade again and raise the level, while clients count what fails
    Upgrade(scenarios::upgrade::UpgradeArgs),
    /// Set the wall clock of one master after the other wrong, while it follows, leads and starts (needs libfaketime)
    ClockJumps(scenarios::clock_jumps::ClockJumpsArgs),
    /// Fill the disks of one master and of all masters, and free the space again (needs root)
    FullDisk(scenarios::full_disk::FullDiskArgs),
    /// Let a schedule tick every second while the leader is killed repeatedly, and count the jobs of each tick
    ScheduleTicks(scenarios::schedule_ticks::ScheduleTicksArgs),
    /// Kill a follower with SIGKILL repeatedly
    KillFollower(RepeatArgs),
    /// Kill any two of the three masters at once: the third must neither lead nor acknowledge anything
    KillTwo(RepeatArgs),
    /// Kill all workers at once; new workers run their tasks
    KillWorkers(RepeatArgs),
    /// Kill all masters and all workers at once
    KillEverything(RepeatArgs),
    /// Stop the leader, a follower and a worker in turn with SIGSTOP, for up to half a minute each
    Pause(RepeatArgs),
    /// Cut the leader off from both followers
    CutLeaderAlone(RepeatArgs),
    /// Cut the leader and one follower off from the other follower
    CutLeaderWithOne(RepeatArgs),
    /// Drop all messages that the leader sends, but none that it receives
    CutOneWay(RepeatArgs),
    /// Deliver all requests of the leader to the others, but no answers
    CutResponses(RepeatArgs),
    /// Cut the leader off and reconnect it several times a second
    CutFlapping(RepeatArgs),
    /// Delay all messages between one master and the others
    Delay(RepeatArgs),
    /// Lose 5 to 40 of 100 packets between one master and the others (needs root)
    Loss(RepeatArgs),
    /// Let small messages between the masters pass, and no large ones: the leader's, and everybody's
    LargeMessages(RepeatArgs),
    /// Refuse new connections between the masters, or let them hang, while old ones live
    NewConnections(RepeatArgs),
    /// Let old connections between the masters pass nothing, while new ones work, as when a firewall forgets them
    OldConnections(RepeatArgs),
    /// Let one master open no more descriptors
    Descriptors(RepeatArgs),
    /// Make every sync of one master's disk slow (needs strace)
    SlowDisk(RepeatArgs),
    /// Make every sync of the disks of two masters very slow (needs strace)
    SlowMajority(RepeatArgs),
    /// Make a sync of one master's disk fail: the master must exit, and is started again (needs strace)
    FailingFsync(RepeatArgs),
    /// Cut the power of one master's disk after the other, so that unsynced data is lost (needs root and loop devices)
    PowerCutOne(RepeatArgs),
    /// Transfer leadership repeatedly, and measure how long no job is acknowledged
    HandOver(scenarios::hand_over::HandOverArgs),
    /// Give the cluster as much work as it accepts, without faults, and count elections: there must be none
    FullLoad(scenarios::full_load::FullLoadArgs),
    /// Attack all masters with hostile clients of all kinds at once, and compare the ordinary load with one on busy
    /// processors
    HostileClients(scenarios::hostile_clients::HostileClientsArgs),
    /// Inject faults of all kinds at random, some of them at once
    Random(scenarios::random::RandomArgs),
    /// Kill leaders, and inject every other kind of fault, in large numbers, for the figures in docs/reliability.md
    Long(scenarios::random::LongArgs),
    /// Inject faults of all kinds for the given time, some of them at once, some for half a minute
    Soak(scenarios::random::SoakArgs),
}

/// Options of every drill.
#[derive(Debug, Clone, Args)]
struct LoadArgs {
    /// Number of workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Concurrent attempts of each worker
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    /// Number of clients that submit at the same time; each submits its next job when the last one is acknowledged
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    submitters: u16,
    /// Pause of each client between two jobs
    #[arg(long, value_name = "MS", default_value_t = 20)]
    pause_ms: u64,
    /// Seed of the fault times [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// File to which the history is written in any case; without this option it is kept only if a guarantee was
    /// violated
    #[arg(long, value_name = "FILE")]
    keep_history: Option<std::path::PathBuf>,
}

impl LoadArgs {
    /// Returns the options for the n-th cluster of a run on several clusters, with another seed.
    fn of_cluster(&self, nth: u32) -> Self {
        let mut load = self.clone();
        load.seed = load.seed.map(|seed| seed.wrapping_add(u64::from(nth)));
        load
    }
}

/// Outcome of a drill.
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
            Scenario::Upgrade(args) => args.run().await,
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
            Scenario::LargeMessages(args) => {
                let shapes = [PartialShape::LargeFromLeader, PartialShape::LargeEverywhere];
                args.run(
                    "large messages held",
                    &shapes.map(Plan::PartialNetwork),
                    CUT_MS,
                )
                .await
            }
            Scenario::NewConnections(args) => {
                let shapes = [PartialShape::NewRefused, PartialShape::NewHang];
                let plans = shapes.map(Plan::PartialNetwork);
                args.run("new connections that fail", &plans, CUT_MS).await
            }
            Scenario::OldConnections(args) => {
                let plans = [Plan::PartialNetwork(PartialShape::OldHeld)];
                args.run("old connections that pass nothing", &plans, CUT_MS)
                    .await
            }
            Scenario::Descriptors(args) => {
                args.run("no descriptors left", &both(Plan::Descriptors), CUT_MS)
                    .await
            }
            Scenario::SlowMajority(args) => {
                let title = "slow disks on a majority";
                args.run(title, &[Plan::SlowMajority], CUT_MS).await
            }
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
            Scenario::HostileClients(args) => args.run().await,
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
    // When an interrupted drill is dropped, all of its processes and mounts are removed.
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

/// Range of the time for which a killed process stays dead.
const SHORT_MS: (u64, u64) = (100, 3_000);
/// Range of the time for which a network or disk fault lasts.
const CUT_MS: (u64, u64) = (500, 10_000);

fn both(plan: fn(Role) -> Plan) -> [Plan; 2] {
    [Role::Leader, Role::Follower].map(plan)
}
