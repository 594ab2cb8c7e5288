//! A master that ends at any thing it does to its disk, killed or with the power cut, comes back with all it acknowledged.
//!
//! A single master, so that nobody but its own disk can remember. `storage/tests/crash_points.rs` visits every boundary of
//! the log and the snapshots by themselves; here is the whole program, over its HTTP interface. Bounded here;
//! `scripts/crash-points.sh` visits as many points as one likes.

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

/// CrashMode many points are visited: a number, or `all`.
const POINTS_VARIABLE: &str = "TRIARCH_CRASH_SERVER_POINTS";
const POINTS: u64 = 40;
const SEED_VARIABLE: &str = "TRIARCH_SEED";
/// Lives at the same time.
const WORKERS: usize = 2;
/// Jobs of one life: enough for some snapshots.
const JOBS: u64 = 16;
const SNAPSHOT_ENTRIES: u64 = 6;
const PATIENCE: Duration = Duration::from_secs(5);

/// What a master has said before it ended.
#[derive(Debug, Clone, Default)]
struct Told {
    /// Tasks by the number of their job.
    acknowledged: BTreeMap<u64, String>,
    term: u64,
}

async fn place() -> Cluster {
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

/// Has jobs accepted one after the other, from the `first` on, until all are or the master has ended. Gives whether it has.
async fn live(cluster: &Cluster, master: &mut Process, first: u64, told: &mut Told) -> bool {
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
            let call = api.call(Method::POST, "/v1/jobs").timeout(PATIENCE);
            if let Ok(reply) = call.json(&body).send().await
                && matches!(reply.status, 200 | 201)
            {
                told.acknowledged.insert(nth, first_task(&reply.json()));
                break;
            }
            if master.ended().is_some() {
                return true;
            }
            polling.pause().await;
        }
        let asked = api.call(Method::GET, "/v1/cluster?consistency=stale");
        if let Ok(reply) = asked.timeout(PATIENCE).send().await
            && reply.status == 200
        {
            told.term = told.term.max(reply.json()["term"].as_u64().unwrap_or(0));
        }
    }
    master.ended().is_some()
}

/// Starts the master again and holds what it has against what it had said.
async fn check(cluster: &Cluster, dir: &Path, told: &Told, point: &str) {
    let mut master = start(cluster, dir, None);
    let mut after = told.clone();
    // Numbers that nobody has asked for yet.
    let ended = live(cluster, &mut master, 2 * JOBS, &mut after).await;
    assert!(
        !ended,
        "{point}: it does not come back: {}",
        master.last_words()
    );
    assert!(
        after.term >= told.term,
        "{point}: it was in term {} and comes back in term {}",
        told.term,
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
            "{point}: job {nth} was acknowledged and is not there; the master said {told:?}"
        );
    }
    master.kill9();
}

/// What one process of a life begins with, and how many boundaries it has.
struct Stage {
    /// `None`: nothing.
    dir: Option<PathBuf>,
    told: Told,
    boundaries: u64,
}

/// Lives both processes of a life once without harm, the second with what a kill left of the first.
async fn rehearse(cluster: &Cluster) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    let mut told = Told::default();
    for nth in 0..2 {
        let dir = cluster.root().join(format!("rehearsal-{nth}"));
        let before = (nth > 0).then(|| cluster.root().join("rehearsal-0-left"));
        if let Some(before) = &before {
            copy(before, &dir);
        }
        let begun = told.clone();
        let watch = Watch::new(&dir, None);
        let mut master = start(cluster, &dir, Some(&watch));
        let ended = live(cluster, &mut master, nth * JOBS, &mut told).await;
        assert!(!ended, "{}", master.last_words());
        master.kill9();
        copy(&dir, &cluster.root().join(format!("rehearsal-{nth}-left")));
        stages.push(Stage {
            dir: before,
            told: begun,
            boundaries: watch.tally().boundaries,
        });
    }
    stages
}

/// Visits one point. Gives what the master was doing when it ended, if it did.
async fn visit(
    cluster: &Cluster,
    stages: &[Stage],
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
    let mut told = stage.told.clone();
    let mut master = start(cluster, &dir, Some(&watch));
    live(cluster, &mut master, nth as u64 * JOBS, &mut told).await;
    master.kill9();
    let (_, kind) = watch.tally().ended?;
    check(
        cluster,
        &dir,
        &told,
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

    let (one, other) = (place().await, place().await);
    let stages = rehearse(&one).await;
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
            if let Some(kind) = visit(cluster, &stages, *nth, *point).await {
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
