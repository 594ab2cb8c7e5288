//! The data directory: private, and watched while a master runs on it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;
use triarch_harness::{Cluster, Options, Process, until};

use crate::job_helpers::WAIT_TIMEOUT;

/// Everything below a directory, itself included.
fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_path_buf()];
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("readable") {
            found.extend(below(&entry.expect("an entry").path()));
        }
    }
    found
}

/// Returns the paths below the directory that users other than the owner may access, with their permissions.
fn open_to_others(directory: &Path) -> Vec<(PathBuf, u32)> {
    let mode = |path: PathBuf| {
        let mode = path
            .symlink_metadata()
            .map_or(0, |found| found.mode() & 0o777);
        (path, mode)
    };
    below(directory)
        .into_iter()
        .map(mode)
        .filter(|(_, mode)| mode & 0o077 != 0)
        .collect()
}

/// Starts the only master with a umask that keeps nobody out.
async fn start(cluster: &Cluster, directory: &Path) -> Process {
    let server = cluster.server_command(1, directory);
    let mut command = cluster.marked("sh");
    command
        .args(["-c", r#"umask 000; exec "$0" "$@""#])
        .arg(server.get_program())
        .args(server.get_args());
    let mut master = cluster.spawn("master-1", command);
    let api = cluster.api(1);
    until(WAIT_TIMEOUT, "the master is ready", async || {
        assert!(master.ended().is_none(), "{}", master.last_words());
        let reply = api.call(reqwest::Method::GET, "/readyz").send().await;
        reply.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    master
}

#[tokio::test]
async fn data_directories_are_for_their_owner_alone_whatever_the_umask() {
    let cluster = Cluster::unstarted(Options {
        nodes: 1,
        ..Options::default()
    })
    .await;
    let directory = cluster.root().join("data");
    fs::create_dir(&directory).expect("writable");
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).expect("ours");
    let mut master = start(&cluster, &directory).await;
    let api = cluster.api(1);
    api.submit(&json!({"tasks": [{"kind": "none"}]})).await;
    api.post("/v1/cluster/snapshot", &json!({}))
        .await
        .expect(200);
    assert_eq!(open_to_others(&directory), []);
    master.kill9();

    // As an earlier version, or an unpacked archive, left it.
    for path in below(&directory) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
    }
    let master = start(&cluster, &directory).await;
    assert_eq!(open_to_others(&directory), []);
    assert!(
        master.log().contains("it is for its owner alone now"),
        "{}",
        master.log()
    );
}

#[tokio::test]
async fn a_master_whose_directory_is_deleted_acknowledges_nothing_and_ends_with_words() {
    let mut cluster = Cluster::start(1).await;
    let api = cluster.api(1);
    let job = json!({"tasks": [{"kind": "none"}]});
    api.submit(&job).await;
    fs::remove_dir_all(cluster.data_dir(1)).expect("it can be deleted");
    let answered = api
        .call(reqwest::Method::POST, "/v1/jobs")
        .json(&job)
        .send()
        .await;
    assert!(
        answered.as_ref().map_or(true, |reply| reply.status != 201),
        "{answered:?}"
    );
    let status = cluster.node(1).wait(WAIT_TIMEOUT).await;
    assert_eq!(status.code(), Some(1));
    let log = cluster.node(1).log();
    assert!(log.contains("is not there any more"), "{log}");
}

#[tokio::test]
async fn an_idle_master_whose_directory_is_moved_away_ends_with_words() {
    let mut cluster = Cluster::start(1).await;
    let moved = cluster.root().join("moved");
    fs::rename(cluster.data_dir(1), &moved).expect("it can be moved");
    let status = cluster.node(1).wait(WAIT_TIMEOUT).await;
    assert_eq!(status.code(), Some(1));
    let log = cluster.node(1).log();
    assert!(log.contains("If it was moved, move it back"), "{log}");
    fs::rename(&moved, cluster.data_dir(1)).expect("it can be moved");
    cluster.restart(1);
    cluster.wait_ready().await;
}
