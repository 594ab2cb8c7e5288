//! Versions: the data directories of this version stay readable for ever. A master refuses data and messages that it
//! does not understand by name, before it does harm.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeClocks, FakeWorker, Options, Process, fake_worker, until};
use triarch_storage::{DataDir, LogPosition, LogRecord, LogStore, SledLogOptions};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works, submit_task};

/// Environment variable that regenerates the golden directory of this version: once per version, before its first
/// release.
const UPDATE_VARIABLE: &str = "UPDATE";
/// Versions of the program whose directories must stay readable.
const GOLDEN: [&str; 1] = ["v0.1"];
/// Number of entries after which a snapshot is written, so that the log begins after one and continues after it.
const SNAPSHOT_ENTRIES: [&str; 2] = ["--snapshot-entries", "8"];

fn golden(version: &str, name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/golden").join(format!("{version}.{name}"))
}

fn tar(arguments: &[&str], archive: &Path, directory: &Path) {
    let status = Command::new("tar")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .arg("-f")
        .arg(archive)
        .arg("-z")
        .args(if arguments.contains(&"-c") {
            &["."][..]
        } else {
            &[]
        })
        .status();
    assert!(status.expect("tar can be run").success());
}

async fn alone() -> Cluster {
    alone_by(None).await
}

async fn alone_by(fake_clocks: Option<FakeClocks>) -> Cluster {
    Cluster::unstarted(Options {
        nodes: 1,
        fake_clocks,
        more: SNAPSHOT_ENTRIES.map(str::to_owned).to_vec(),
        ..Options::default()
    })
    .await
}

/// Age at which a directory is opened again, by the master's clock.
const LATER_S: i64 = 60;

/// Returns the age of a file.
fn age_s(path: &Path) -> i64 {
    let written = path.metadata().and_then(|about| about.modified());
    let age = written.expect("a file").elapsed().unwrap_or_default();
    i64::try_from(age.as_secs()).expect("an age")
}

/// Starts the only master on this directory and waits until it leads.
async fn start(cluster: &Cluster, dir: &Path) -> Process {
    let mut master = cluster.spawn("master-1", cluster.server_command(1, dir));
    let api = cluster.api(1);
    until(WAIT_TIMEOUT, "the master leads", async || {
        assert!(master.ended().is_none(), "{}", master.last_words());
        let reply = api.call(reqwest::Method::GET, "/readyz").send().await;
        reply.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    master
}

/// Returns the contents of a cluster as a user sees them, without fields that a later version may add.
async fn contents(api: &Api) -> Value {
    let pick = |rows: Vec<Value>, names: &[&str]| -> Vec<Value> {
        let pick = |row: &Value| {
            let picked = names
                .iter()
                .map(|name| ((*name).to_owned(), row[*name].clone()));
            Value::Object(picked.collect())
        };
        rows.iter().map(pick).collect()
    };
    let rows = async |noun: &str| {
        let listed = api.get(&format!("/v1/{noun}")).await.expect(200);
        listed[noun].as_array().cloned().unwrap_or_default()
    };
    let task = [
        "id", "job", "key", "kind", "queue", "state", "priority", "attempt", "result",
    ];
    json!({
        "cluster_id": api.get("/v1/cluster").await.expect(200)["cluster_id"],
        "tasks": pick(api.all("/v1/tasks?fields=result", "tasks").await, &task),
        "queues": pick(rows("queues").await, &["name", "depth", "paused", "weight"]),
        "schedules": pick(
            rows("schedules").await,
            &["name", "cron", "timezone", "paused"],
        ),
    })
}

/// Creates a directory with an item of each kind in it, and stops the master.
async fn write_golden(cluster: &Cluster, dir: &Path) -> Value {
    let mut master = start(cluster, dir).await;
    let api = cluster.api(1);
    api.put("/v1/queues/slow", &json!({"paused": true, "weight": 3}))
        .await;
    api.put(
        "/v1/schedules/yearly",
        &json!({"cron": "0 0 1 1 *", "timezone": "Europe/Paris", "paused": true, "job": fake_worker::job(json!(0))}),
    )
    .await;
    let worker = FakeWorker::register(cluster, "w", 2).await;
    let mut lease = None;
    for nth in 0..12 {
        submit_task(&api, &fake_worker::job(json!({"nth": nth}))).await;
        if nth % 3 == 0 {
            let taken = worker.take(&[]).await;
            worker.report(taken.succeeded(json!({"of": nth}))).await;
            lease = Some(taken);
        }
    }
    assert!(lease.is_some());
    let held = fake_worker::job(json!("held"));
    submit_task(
        &api,
        &json!({"tasks": [{"kind": "later", "queue": "slow", "payload": held}]}),
    )
    .await;
    worker.leave().await;
    let found = contents(&api).await;
    master.terminate();
    assert_eq!(master.wait(WAIT_TIMEOUT).await.code(), Some(0));
    found
}

#[tokio::test]
async fn a_directory_of_any_released_version_opens_with_all_its_contents() {
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        let cluster = alone().await;
        let dir = cluster.root().join("data");
        let found = write_golden(&cluster, &dir).await;
        for name in ["LOCK", "log/reserve"] {
            std::fs::remove_file(dir.join(name)).expect("a file can be removed");
        }
        let version = GOLDEN[GOLDEN.len() - 1];
        std::fs::create_dir_all(golden(version, "").parent().expect("a directory"))
            .expect("a directory can be made");
        tar(
            &["-c", "--sort=name", "--owner=0", "--group=0"],
            &golden(version, "tar.gz"),
            &dir,
        );
        let text = serde_json::to_string_pretty(&found).expect("JSON");
        std::fs::write(golden(version, "json"), text + "\n").expect("a file can be written");
    }
    for version in GOLDEN {
        let clocks = tempfile::tempdir().expect("a directory can be made");
        let fake_clocks = FakeClocks::within(clocks.path()).expect("the Debian package faketime");
        let cluster = alone_by(Some(fake_clocks.clone())).await;
        let dir = cluster.root().join("data");
        std::fs::create_dir(&dir).expect("a directory can be made");
        tar(&["-x"], &golden(version, "tar.gz"), &dir);
        // Finished jobs are deleted after a day, so the master's clock shows the time at which the directory was
        // created.
        fake_clocks.set(1, LATER_S - age_s(&dir.join("identity.json")));
        let expected = std::fs::read_to_string(golden(version, "json")).expect("a golden file");
        let expected: Value = serde_json::from_str(&expected).expect("JSON");
        let mut master = start(&cluster, &dir).await;
        assert_eq!(contents(&cluster.api(1)).await, expected, "{version}");
        let snapshots = std::fs::read_dir(dir.join("snapshots")).expect("a directory");
        assert!(snapshots.count() > 0, "{version} has no snapshot");
        // The cluster works like any other.
        let worker = FakeWorker::register(&cluster, "w", 1).await;
        let lease = worker.take(&[]).await;
        worker.report(lease.succeeded(json!("later"))).await;
        worker.leave().await;
        master.kill9();
        let again = start(&cluster, &dir).await;
        let shown = cluster
            .api(1)
            .get(&format!("/v1/tasks/{}", lease.task))
            .await;
        assert_eq!(shown.expect(200)["result"], "later");
        drop(again);
    }
}

/// Appends a copy of an entry of commands to the log of a stopped master, with one byte of it changed.
fn append_changed(dir: &Path, at: usize, byte: u8) -> u64 {
    let data_dir = DataDir::open(dir, 1).expect("a good directory");
    let log = data_dir
        .open_log(SledLogOptions::default())
        .expect("a good log");
    let last = log.state().last.expect("an entry");
    let held = log.read(0..u64::MAX, usize::MAX).expect("readable");
    // Longer than an entry of any other kind.
    let template = held
        .iter()
        .rev()
        .find(|record| record.payload.len() > 2_000);
    let mut payload = template.expect("a task that large").payload.to_vec();
    payload[at] = byte;
    let index = last.index + 1;
    let record = LogRecord {
        position: LogPosition { index, ..last },
        payload: Bytes::from(payload),
    };
    let (done, receiver) = std::sync::mpsc::channel();
    log.append(
        vec![record],
        Box::new(move |result| drop(done.send(result))),
    )
    .expect("a good log");
    receiver.recv().expect("an answer").expect("a good disk");
    log.close().expect("a good log");
    index
}

#[tokio::test]
async fn a_master_stops_before_a_log_entry_of_an_unknown_version() {
    // The version of an entry, and that of the first command in it.
    for (at, words) in [(0, "cannot decode"), (17, "does not understand")] {
        let cluster = alone().await;
        let dir = cluster.root().join("data");
        let mut master = start(&cluster, &dir).await;
        let big = fake_worker::job(json!({"fill": "x".repeat(3_000)}));
        submit_task(&cluster.api(1), &big).await;
        master.kill9();
        let index = append_changed(&dir, at, 99);
        // The master exits at every start, and never gets past the entry.
        for _ in 0..2 {
            let mut master = cluster.spawn("master-1", cluster.server_command(1, &dir));
            let status = master.wait(WAIT_TIMEOUT).await;
            assert_eq!(status.code(), Some(1), "{}", master.last_words());
            let log = master.log();
            for words in [words, &format!("entry {index}")] {
                assert!(log.contains(words), "{words:?}: {}", master.last_words());
            }
            assert!(!log.contains("panicked at"), "{}", master.last_words());
        }
    }
}

#[tokio::test]
async fn a_peer_message_of_another_version_is_refused_with_its_version() {
    let mut cluster = Cluster::start(1).await;
    let api = cluster.api(1);
    let mut frame = vec![9];
    frame.extend_from_slice(&[0; 64]);
    for path in ["/raft/hello", "/raft/append", "/raft/vote"] {
        let reply = api
            .call(reqwest::Method::POST, path)
            .header("triarch-version", "9.0.0; level=9")
            .raw(frame.clone())
            .answer()
            .await;
        assert_eq!(reply.status, 409, "{path}: {reply:?}");
        assert!(
            reply.text.contains("version 9") && reply.text.contains("speaks version"),
            "{path}: {reply:?}"
        );
    }
    assert_works(&mut cluster).await;
}
