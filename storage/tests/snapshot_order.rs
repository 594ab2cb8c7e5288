//! A snapshot is on disk before it replaces another one and the log before it.

mod child_process;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use triarch_storage::{SnapshotFile, SnapshotStore};

use child_process::trace::{Call, calls, find_marker, print_marker};

/// More than one block.
const PAYLOAD_BYTES: usize = 100_000;

fn write(store: &SnapshotStore) -> SnapshotFile {
    let mut writer = store.create().expect("a good disk");
    writer
        .write_all(&vec![7; PAYLOAD_BYTES])
        .expect("a good disk");
    writer.commit("written".into()).expect("a good disk")
}

/// Writes a snapshot, and receives another one.
#[test]
#[ignore = "a child of other tests"]
fn child_takes_snapshots() {
    let Some(directory) = child_process::input() else {
        return;
    };
    let store = SnapshotStore::open(Path::new(&directory), 1).expect("an empty store opens");
    print_marker("write");
    let written = write(&store);
    print_marker("written");
    let bytes = written
        .read_at(0, written.len() as usize)
        .expect("readable");
    print_marker("receive");
    let mut incoming = store.receive().expect("a good disk");
    for (number, part) in bytes.chunks(30_000).enumerate() {
        incoming
            .write_at(number as u64 * 30_000, part)
            .expect("a good disk");
    }
    incoming.commit().expect("a good disk");
    print_marker("received");
}

/// Checks the system calls on the snapshot between two markers: each begins after the one before it has ended.
fn is_durable(calls: &[Call], from: &str, to: &str) {
    let (from, to) = (find_marker(calls, from), find_marker(calls, to));
    let during = || {
        calls
            .iter()
            .filter(|call| call.begun > from && call.ended < to && call.result == "0")
    };
    let is_sync = |call: &Call| ["fsync", "fdatasync"].contains(&call.name.as_str());
    let renamed = during()
        .find(|call| call.name.starts_with("rename"))
        .expect("it gets its name");
    let written = calls
        .iter()
        .filter(|call| call.name == "write" && call.arguments.contains(".unfinished>"))
        .filter(|call| call.begun > from && call.ended < to)
        .map(|call| call.ended)
        .max()
        .expect("it is written");
    assert!(
        during().any(|call| is_sync(call)
            && call.arguments.contains(".unfinished>")
            && call.begun > written
            && call.ended < renamed.begun),
        "it was given its name before its bytes were on disk"
    );
    let named = during()
        .find(|call| is_sync(call) && call.begun > renamed.ended)
        .expect("the directory is synced after that");
    let removed = calls
        .iter()
        .filter(|call| call.name.starts_with("unlink") && call.begun > from && call.ended < to);
    for removal in removed {
        assert!(
            named.ended < removal.begun,
            "the one before was removed while the new one could still lose its name"
        );
    }
}

#[test]
fn a_snapshot_is_on_disk_before_it_takes_the_place_of_another() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = root.path().join("snapshots");
    let trace = root.path().join("trace");
    let status = child_process::spawn(
        child_process::traced(
            "child_takes_snapshots",
            &directory.display().to_string(),
            &trace,
            &[
                "-e",
                "trace=write,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat",
            ],
        )
        .stdout(Stdio::null()),
    )
    .wait()
    .expect("the child ends");
    assert!(status.success(), "{status}");

    let calls = calls(&trace);
    is_durable(&calls, "write", "written");
    is_durable(&calls, "receive", "received");
    let removed = calls.iter().find(|call| call.name.starts_with("unlink"));
    assert!(removed.is_some(), "the second took the place of the first");
}
