//! Crash points: a master that ends at any of its disk operations, by a kill or a power cut, restarts with everything
//! that it acknowledged.
//!
//! There is a single master, so that only its own disk can have the data. `storage/tests/crash_points.rs` visits every
//! boundary of the log and of the snapshots alone. This test runs the whole program, over its HTTP interface, at a
//! bounded number of points. `scripts/crash-points.sh` visits any number of points.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_crash::{BoundaryKind, Point, Watch, points};
use triarch_harness::wait::Polling;
use triarch_harness::{Cluster, Options, Process, fake_worker};

use crate::job_helpers::{WAIT_TIMEOUT, first_task};
use crate::membership::identity::copy;

/// Environment variable with the number of points to visit, or `all`.
const POINTS_VARIABLE: &str = "TRIARCH_CRASH_SERVER_POINTS";
const POINTS: u64 = 40;
const SEED_VARIABLE: &str = "TRIARCH_SEED";
/// Number of masters that are tested concurrently.
const WORKERS: usize = 2;
/// Number of jobs of one life: enough for some snapshots.
const JOBS: u64 = 16;
const SNAPSHOT_ENTRIES: u64 = 6;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Operations that a master acknowledged before it ended.
#[derive(Debug, Clone, Default)]
struct Acknowledged {
    /// Ids of the tasks, by the number of their job.
    acknowledged: BTreeMap<u64, String>,
    term: u64,
}

async fn prepare_cluster() -> Cluster {
    let entries = SNAPSHOT_ENTRIES.to_string();
    Cluster::unstarted(Options {
        nodes: 1,
        more: ["--snapshot-entries", &entries].map(str::to_owned).to_vec(),
        ..Options::default()
    })
    .await
}

fn start(cluster: &Cluster, dir: &Path, watch: Option<&Watch>) -> Process {
    let mut command = cluster.server_command(1, dir);
    if let Some(watch) = watch {
        watch.over(&mut command);
    }
    cluster.spawn("master-1", command)
}

/// Submits jobs one after the other, from the `first` on, until all are accepted or the master has ended. Returns
/// whether it has ended.
async fn submit_jobs(
    cluster: &Cluster,
    master: &mut Process,
    first: u64,
    acknowledged: &mut Acknowledged,
) -> bool {
    let api = cluster.api(1);
    for nth in first..first + JOBS {
        let mut body =
            fake_worker::job(json!({"nth": nth, "fill": "x".repeat(nth as usize * 37 % 9_000)}));
        body["idempotency_key"] = nth.to_string().into();
        body["tasks"][0]["key"] = nth.to_string().into();
        let mut polling = Polling::new(
            WAIT_TIMEOUT,
            format!("job {nth} is accepted, or the master ends"),
        );
        loop {
            let call = api.call(Method::POST, "/v1/jobs").timeout(REQUEST_TIMEOUT);
            if let Ok(reply) = call.json(&body).send().await
                && matches!(reply.status, 200 | 201)
            {
                acknowledged
                    .acknowledged
                    .insert(nth, first_task(&reply.json()));
                break;
            }
            if master.ended().is_some() {
                return true;
            }
            polling.pause().await;
        }
        let asked = api.call(Method::GET, "/v1/cluster?consistency=stale");
        if let Ok(reply) = asked.timeout(REQUEST_TIMEOUT).send().await
            && reply.status == 200
        {
            acknowledged.term = acknowledged
                .term
                .max(reply.json()["term"].as_u64().unwrap_or(0));
        }
    }
    master.ended().is_some()
}

/// Starts the master again and compares its state with what it acknowledged.
async fn check(cluster: &Cluster, dir: &Path, acknowledged: &Acknowledged, point: &str) {
    let mut master = start(cluster, dir, None);
    let mut after = acknowledged.clone();
    // Numbers of jobs that were not submitted yet.
    let ended = submit_jobs(cluster, &mut master, 2 * JOBS, &mut after).await;
    assert!(
        !ended,
        "{point}: it does not come back: {}",
        master.last_words()
    );
    assert!(
        after.term >= acknowledged.term,
        "{point}: it was in term {} and comes back in term {}",
        acknowledged.term,
        after.term
    );
    let listed = cluster.api(1).all("/v1/tasks", "tasks").await;
    let mut found: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for task in &listed {
        let nth = task["key"].as_str().and_then(|key| key.parse().ok());
        let nth: u64 = nth.expect("a job of these");
        found.entry(nth).or_default().push(task);
    }
    for (nth, tasks) in &found {
        assert_eq!(tasks.len(), 1, "{point}: job {nth} was accepted twice");
    }
    for (nth, id) in &after.acknowledged {
        let task = found.get(nth).and_then(|tasks| tasks.first());
        assert_eq!(
            task.and_then(|task| task["id"].as_str()),
            Some(id.as_str()),
            "{point}: job {nth} was acknowledged and is not there; the master said {acknowledged:?}"
        );
    }
    master.kill9();
}

/// Initial directory of one process of a life, and the number of boundaries in it.
struct CountedRun {
    /// `None`: an empty directory.
    dir: Option<PathBuf>,
    acknowledged: Acknowledged,
    boundaries: u64,
}

/// Runs both processes of a life once without a crash. The second process starts with the directory that a kill of the
/// first left.
async fn count_boundaries(cluster: &Cluster) -> Vec<CountedRun> {
    let mut stages: Vec<CountedRun> = Vec::new();
    let mut acknowledged = Acknowledged::default();
    for nth in 0..2 {
        let dir = cluster.root().join(format!("rehearsal-{nth}"));
        let before = (nth > 0).then(|| cluster.root().join("rehearsal-0-left"));
        if let Some(before) = &before {
            copy(before, &dir);
        }
        let begun = acknowledged.clone();
        let watch = Watch::new(&dir, None);
        let mut master = start(cluster, &dir, Some(&watch));
        let ended = submit_jobs(cluster, &mut master, nth * JOBS, &mut acknowledged).await;
        assert!(!ended, "{}", master.last_words());
        master.kill9();
        copy(&dir, &cluster.root().join(format!("rehearsal-{nth}-left")));
        stages.push(CountedRun {
            dir: before,
            acknowledged: begun,
            boundaries: watch.boundary_counts().boundaries,
        });
    }
    stages
}

/// Visits one point. Returns the disk operation at which the master ended, if it ended.
async fn crash_at(
    cluster: &Cluster,
    stages: &[CountedRun],
    nth: usize,
    point: Point,
) -> Option<BoundaryKind> {
    let stage = &stages[nth];
    let dir = cluster.root().join("visited");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).expect("a directory can be removed");
    }
    if let Some(before) = &stage.dir {
        copy(before, &dir);
    }
    let watch = Watch::new(&dir, Some(point));
    let mut acknowledged = stage.acknowledged.clone();
    let mut master = start(cluster, &dir, Some(&watch));
    submit_jobs(cluster, &mut master, nth as u64 * JOBS, &mut acknowledged).await;
    master.kill9();
    let (_, kind) = watch.boundary_counts().ended?;
    check(
        cluster,
        &dir,
        &acknowledged,
        &format!("process {nth}, {point}, a {kind:?}"),
    )
    .await;
    Some(kind)
}

#[tokio::test]
async fn a_master_that_crashes_at_any_disk_operation_keeps_what_it_acknowledged() {
    let read = |name| std::env::var(name).ok();
    let seed = read(SEED_VARIABLE).map_or_else(
        || u64::from(std::process::id()),
        |seed| seed.parse().expect("a number"),
    );
    let wanted = match read(POINTS_VARIABLE).as_deref() {
        Some("all") => u64::MAX,
        Some(number) => number.parse().expect("a number of points"),
        None => POINTS,
    };
    eprintln!("replay with {SEED_VARIABLE}={seed} {POINTS_VARIABLE}={wanted}");

    let (one, other) = (prepare_cluster().await, prepare_cluster().await);
    let stages = count_boundaries(&one).await;
    let snapshots = one.root().join("rehearsal-1-left/snapshots");
    let snapshots = std::fs::read_dir(snapshots).expect("a directory").count();
    assert!(snapshots > 0, "no snapshot was written in a whole life");
    let boundaries: Vec<u64> = stages.iter().map(|stage| stage.boundaries).collect();
    eprintln!("a life has {boundaries:?} boundaries in its processes");
    let share = wanted.div_ceil(2);
    let all: Vec<(usize, Point)> = (0..2)
        .flat_map(|nth| {
            points(boundaries[nth], share, seed)
                .into_iter()
                .map(move |p| (nth, p))
        })
        .collect();

    let work = async |cluster: &Cluster, first: usize| {
        let mut ended: BTreeMap<BoundaryKind, u64> = BTreeMap::new();
        for (nth, point) in all.iter().skip(first).step_by(WORKERS) {
            if let Some(kind) = crash_at(cluster, &stages, *nth, *point).await {
                *ended.entry(kind).or_default() += 1;
            }
        }
        ended
    };
    let (mut ended, others) = tokio::join!(work(&one, 0), work(&other, 1));
    for (kind, count) in others {
        *ended.entry(kind).or_default() += count;
    }
    let count: u64 = ended.values().sum();
    eprintln!(
        "{} points, {count} of them ended a master: {ended:?}; nothing was lost",
        all.len()
    );
    assert!(
        count * 4 >= all.len() as u64 * 3,
        "only {count} of {} points ended a master",
        all.len()
    );
}
