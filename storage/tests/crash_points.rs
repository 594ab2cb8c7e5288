//! Crash points: a crash at every boundary of a workload on a data directory. Boundaries are writes, syncs,
//! truncations, creations, renames and removals. The process is killed before, in the middle of, or after the
//! operation, or the power is cut there.
//!
//! # Invariants
//!
//! - Every operation acknowledged to the process is there afterwards.
//! - Every operation that it requested is there in whole steps or not at all.
//! - The directory opens and serves again.
//!
//! This test visits a limited number of points. `scripts/crash-points.sh` visits every point.

mod child_process;
mod workload;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;

use triarch_crash::{BoundaryKind, Point, Watch, points};
use triarch_storage::testing::seeded_random::{SEED_VARIABLE, seeds};

use workload::{PROCESSES, Progress, Workload};

/// Number of points to visit, or `all`.
const POINTS_VARIABLE: &str = "TRIARCH_CRASH_POINTS";
const POINTS: u64 = 450;
/// Minimum number of points that really ended a process: fewer would prove too little.
const POINTS_MIN: u64 = 300;
/// Maximum number of failures that are printed in full.
const FAILURES_SHOWN: usize = 5;

fn report(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{line}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("the parent listens");
}

#[test]
#[ignore = "a child of other tests"]
fn child_lives() {
    let Some(input) = child_process::input() else {
        return;
    };
    let mut words = input.splitn(3, ' ');
    let mut word = || words.next().expect("a seed, a process and a directory");
    let (seed, process) = (word(), word());
    Workload::new(seed.parse().expect("a seed")).run(
        process.parse().expect("a process"),
        Path::new(word()),
        report,
    );
}

/// Runs one process of the workload in `directory`, watched. Returns its progress, and whether it was ended early.
fn run_workload(seed: u64, process: usize, directory: &Path, watch: &Watch) -> (Progress, bool) {
    let mut command = child_process::command(
        "child_lives",
        &format!("{seed} {process} {}", directory.display()),
    );
    watch.over(&mut command);
    let output = command
        .stderr(Stdio::piped())
        .output()
        .expect("a test can be run");
    let mut progress = Progress::default();
    progress.parse(&String::from_utf8_lossy(&output.stdout));
    let ended = watch.boundary_counts().ended;
    assert!(
        output.status.success() || ended.is_some(),
        "process {process} went wrong by itself: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (progress, ended.is_some())
}

struct Job {
    process: usize,
    point: Point,
}

#[test]
fn a_crash_at_any_boundary_loses_nothing_acknowledged() {
    let seed = seeds(1)[0];
    let wanted = match std::env::var(POINTS_VARIABLE).as_deref() {
        Ok("all") => u64::MAX,
        Ok(number) => number.parse().expect("a number of points"),
        Err(_) => POINTS,
    };
    eprintln!("replay with {SEED_VARIABLE}={seed} {POINTS_VARIABLE}={wanted}");
    let root = tempfile::tempdir().expect("a temporary directory");
    let root = root.path().canonicalize().expect("a path without links");

    // The directory that each process begins with, and its number of boundaries.
    let mut boundaries = Vec::new();
    let begin = |process: usize| root.join(format!("process-{process}"));
    for process in 0..PROCESSES {
        let next = begin(process + 1);
        if process > 0 {
            child_process::copy_directory(&begin(process), &next);
        }
        let watch = Watch::new(&next, None);
        let (progress, _) = run_workload(seed, process, &next, &watch);
        assert!(
            progress.done.max(progress.snapshotted) == progress.requested
                && progress.done.is_some()
        );
        boundaries.push(watch.boundary_counts().boundaries);
    }
    let total: u64 = boundaries.iter().sum();
    eprintln!("the workload has {total} boundaries: {boundaries:?} in its processes");

    let jobs: Vec<Job> = boundaries
        .iter()
        .enumerate()
        .flat_map(|(process, count)| {
            let share = (u128::from(wanted) * u128::from(*count)).div_ceil(u128::from(total));
            let share = u64::try_from(share).unwrap_or(u64::MAX);
            let jobs = points(*count, share, seed);
            jobs.into_iter().map(move |point| Job { process, point })
        })
        .collect();
    let next = Mutex::new(jobs.iter());
    let ended: Mutex<BTreeMap<BoundaryKind, u64>> = Mutex::default();
    let failures: Mutex<Vec<String>> = Mutex::default();
    let work = |worker: usize| {
        let directory = root.join(format!("worker-{worker}"));
        loop {
            let Some(job) = next.lock().expect("no worker panics here").next() else {
                return;
            };
            if directory.exists() {
                fs::remove_dir_all(&directory).expect("a writable directory");
            }
            if job.process > 0 {
                child_process::copy_directory(&begin(job.process), &directory);
            }
            let watch = Watch::new(&directory, Some(job.point));
            let (progress, _) = run_workload(seed, job.process, &directory, &watch);
            let Some((_, kind)) = watch.boundary_counts().ended else {
                // Timing decides which writes share a sync: this run had fewer boundaries.
                continue;
            };
            *ended
                .lock()
                .expect("no worker panics here")
                .entry(kind)
                .or_default() += 1;
            let checked = Workload::new(seed).check(&directory, job.process, &progress);
            if let Err(what) = checked {
                let kept: PathBuf = root.join(format!("failed-{}-{}", job.process, job.point.at));
                let _ = fs::rename(&directory, &kept);
                let failure = format!("process {}, {}, a {kind:?}: {what}", job.process, job.point);
                failures
                    .lock()
                    .expect("no worker panics here")
                    .push(failure);
            }
        }
    };
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for worker in 0..workers {
            let work = &work;
            scope.spawn(move || work(worker));
        }
    });

    let ended = ended.into_inner().expect("no worker panics here");
    let count: u64 = ended.values().sum();
    let failures = failures.into_inner().expect("no worker panics here");
    eprintln!(
        "{} points, {count} of them ended a process: {ended:?}; {} went wrong",
        jobs.len(),
        failures.len()
    );
    for failure in failures.iter().take(FAILURES_SHOWN) {
        eprintln!("{failure}");
    }
    assert!(failures.is_empty(), "a crash lost something, see above");
    assert!(
        count >= POINTS_MIN.min(jobs.len() as u64 * 3 / 4),
        "only {count} points ended a process"
    );
    for kind in [
        BoundaryKind::Write,
        BoundaryKind::Sync,
        BoundaryKind::Rename,
        BoundaryKind::Create,
    ] {
        assert!(ended.contains_key(&kind), "no {kind:?} was met");
    }
}
