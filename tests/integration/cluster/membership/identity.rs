//! Masters that are started with wrong arguments or directories: each exits with an error that names the cause, and the
//! cluster is not affected.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use triarch_harness::{Api, Cluster, Options, equal_digests, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works, submit_task};
use crate::membership::member_changes::wait_members;

/// Runs a command to its end. It must fail, with each of these words in its output.
async fn fails(cluster: &Cluster, name: &str, command: Command, words: &[&str]) {
    let mut process = cluster.spawn(name, command);
    let status = process.wait(WAIT_TIMEOUT).await;
    assert!(
        status.code().is_some_and(|code| code != 0),
        "{status}: {}",
        process.last_words()
    );
    let log = process.log();
    for word in words {
        assert!(
            log.to_lowercase().contains(word),
            "{word:?} is missing: {}",
            process.last_words()
        );
    }
    // The log engine may panic on damaged files. The panic is caught and reported as an error.
    let panicked = log
        .lines()
        .find(|line| line.contains("panicked at") && !line.contains("/sled-"));
    assert!(panicked.is_none(), "{}", process.last_words());
}

/// Copies a directory with all its contents.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("a directory can be read") {
        let entry = entry.expect("an entry can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

#[tokio::test]
async fn a_second_process_of_a_running_master_is_refused() {
    let mut cluster = Cluster::start(3).await;
    // The same arguments: the port is in use.
    let same = cluster.server_command(2, &cluster.data_dir(2));
    fails(&cluster, "same", same, &[&cluster.addr(2), "use"]).await;
    // Another port and the same directory: the directory is in use.
    let mut same_dir = cluster.marked(triarch_harness::binary::triarch());
    let elsewhere = cluster.addr(5);
    same_dir.args([
        "server",
        "--id",
        "2",
        "--listen",
        &elsewhere,
        "--cluster",
        &cluster.members(),
    ]);
    same_dir.arg("--data-dir").arg(cluster.data_dir(2));
    fails(&cluster, "same-directory", same_dir, &["master-2", "use"]).await;
    // Another directory and the same port.
    let other_dir = cluster.server_command(2, &cluster.root().join("other"));
    fails(&cluster, "same-port", other_dir, &[&cluster.addr(2), "use"]).await;
    cluster.wait_ready().await;
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn the_directory_of_another_master_is_refused() {
    let mut cluster = Cluster::start(3).await;
    cluster.kill9(3);
    let mut swapped = cluster.marked(triarch_harness::binary::triarch());
    swapped.args([
        "server",
        "--id",
        "3",
        "--listen",
        &cluster.addr(3),
        "--cluster",
        &cluster.members(),
    ]);
    let copied = cluster.root().join("copied");
    cluster.kill9(2);
    copy(&cluster.data_dir(2), &copied);
    cluster.restart(2);
    swapped.arg("--data-dir").arg(&copied);
    fails(&cluster, "swapped", swapped, &["node 2", "copied"]).await;
    cluster.restart(3);
    cluster.wait_ready().await;
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn the_directory_of_another_cluster_is_refused() {
    let theirs = tempfile::tempdir().expect("a temporary directory can be made");
    {
        let mut other = Cluster::start(1).await;
        submit_task(&other.api(1), &fake_worker::job(json!("theirs"))).await;
        assert_eq!(other.terminate(1).await.code(), Some(0));
        copy(&other.data_dir(1), theirs.path());
    }

    let mut cluster = Cluster::start(3).await;
    let ours = submit_task(&cluster.api(1), &fake_worker::job(json!("ours"))).await;
    cluster.kill9(1);
    let foreign = cluster.root().join("foreign");
    copy(theirs.path(), &foreign);
    let command = cluster.server_command(1, &foreign);
    fails(
        &cluster,
        "foreign",
        command,
        &["this directory belongs to cluster"],
    )
    .await;
    cluster.restart(1);
    cluster.wait_ready().await;
    let listed = cluster.api(1).get("/v1/tasks").await.expect(200);
    let tasks = listed["tasks"].as_array().expect("tasks");
    assert_eq!(
        (tasks.len(), tasks[0]["id"].as_str()),
        (1, Some(ours.as_str())),
        "{listed}"
    );
}

#[tokio::test]
async fn a_master_with_a_wiped_directory_is_refused_under_its_old_id() {
    let mut cluster = Cluster::start(3).await;
    let task = submit_task(&cluster.api(1), &fake_worker::job(json!("kept"))).await;
    let leader = cluster.leader().await;
    let wiped = cluster.ids().find(|id| *id != leader).expect("a follower");
    cluster.kill9(wiped);
    std::fs::remove_dir_all(cluster.data_dir(wiped)).expect("a directory can be removed");
    let command = cluster.server_command(wiped, &cluster.data_dir(wiped));
    fails(&cluster, "wiped", command, &["empty", "--join"]).await;
    // It is refused at every start, and the other masters still have all data.
    let command = cluster.server_command(wiped, &cluster.data_dir(wiped));
    fails(&cluster, "wiped-again", command, &["--join"]).await;
    cluster.wait_ready().await;
    let api = cluster.api(leader);
    assert_eq!(
        api.get(&format!("/v1/tasks/{task}")).await.expect(200)["id"],
        task.as_str()
    );
}

#[tokio::test]
async fn an_unwritable_directory_is_refused() {
    let cluster = Cluster::start(1).await;
    let file = cluster.root().join("file");
    std::fs::write(&file, "not a directory").expect("a file can be written");
    for (name, dir) in [
        ("file", file.clone()),
        ("below-file", file.join("data")),
        ("proc", "/proc/triarch".into()),
    ] {
        let mut command = cluster.marked(triarch_harness::binary::triarch());
        let elsewhere = cluster.addr(5);
        command.args([
            "server",
            "--id",
            "1",
            "--listen",
            &elsewhere,
            "--cluster",
            &format!("1={elsewhere}"),
        ]);
        command.arg("--data-dir").arg(&dir);
        fails(
            &cluster,
            name,
            command,
            &[&dir.display().to_string().to_lowercase()],
        )
        .await;
    }
}

#[tokio::test]
async fn a_damaged_log_is_refused_and_left_unchanged() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for nth in 0..20 {
        submit_task(
            &cluster.api(leader),
            &json!({"tasks": [{"kind": "filler", "payload": {"nth": nth, "fill": "x".repeat(20_000)}}]}),
        )
        .await;
    }
    let victim = cluster.ids().find(|id| *id != leader).expect("a follower");
    cluster.wait_caught_up(victim).await;
    cluster.kill9(victim);
    let (database, size) = largest_file(&cluster.data_dir(victim));
    assert!(
        size > 100_000,
        "{} holds only {size} bytes",
        database.display()
    );
    let mut bytes = std::fs::read(&database).expect("a file can be read");
    // Damage in the middle of acknowledged data.
    let pattern = b"xxxxxxxxxxxxxxxx";
    let at = bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
        .expect("the payloads are in the log");
    bytes[at + 8] ^= 1;
    std::fs::write(&database, &bytes).expect("a file can be written");

    let command = cluster.server_command(victim, &cluster.data_dir(victim));
    fails(
        &cluster,
        "damaged",
        command,
        &["damaged", &format!("master-{victim}")],
    )
    .await;
    cluster.wait_ready().await;
    assert_works(&mut cluster).await;
}

/// Damages the newest file below `dir` with `part` in its name, in the middle of its content.
fn damage(dir: &Path, part: &str) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir).expect("a directory can be read");
    let files = entries.map(|entry| entry.expect("an entry can be read").path());
    let file = files.filter(|path| path.to_string_lossy().contains(part));
    let file = file.max().expect("such a file is there");
    let mut bytes = std::fs::read(&file).expect("a file can be read");
    // Most of the content is payloads of tasks.
    let pattern = b"xxxxxxxxxxxxxxxx";
    let at = bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
        .expect("the tasks are in it");
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).expect("a file can be written");
    file
}

#[tokio::test]
async fn the_commands_named_for_a_damaged_directory_repair_it() {
    // With snapshots, all entries of the log may be in a snapshot.
    for (folder, part, entries) in [("log/sled", "db", "20000"), ("snapshots", ".snapshot", "8")] {
        let mut cluster = Cluster::with(Options {
            more: ["--snapshot-entries", entries].map(str::to_owned).to_vec(),
            ..Options::default()
        })
        .await;
        let (leader, victim) = cluster.leader_and_follower().await;
        let mut tasks = Vec::new();
        for nth in 0..30 {
            let fill = "x".repeat(2_000);
            let job = fake_worker::job(json!({"nth": nth, "fill": fill}));
            tasks.push(submit_task(&cluster.api(leader), &job).await);
        }
        cluster.wait_caught_up(victim).await;
        cluster.terminate(victim).await;
        let file = damage(&cluster.data_dir(victim).join(folder), part);
        let command = cluster.server_command(victim, &cluster.data_dir(victim));
        let named = file.display().to_string().to_lowercase();
        let replace = format!("triarch cluster replace {victim} ");
        let words = [
            named.as_str(),
            "is damaged",
            "triarch server --id",
            "--join",
            &replace,
        ];
        fails(&cluster, "damaged", command, &words).await;

        // As the error advises: a new master on an empty directory replaces the old one.
        let fourth = cluster.start_waiting().await;
        let new = cluster.named(fourth);
        let old = victim.to_string();
        until(
            WAIT_TIMEOUT,
            "the fourth master takes its place",
            async || {
                let ran = cluster.cli().run(&["cluster", "replace", &old, &new]).await;
                ran.code == Some(0)
            },
        )
        .await;
        let left: Vec<u64> = [1, 2, 3, fourth]
            .into_iter()
            .filter(|id| *id != victim)
            .collect();
        let leader = cluster.leader().await;
        let api = cluster.api(leader);
        wait_members(&api, &left, &[]).await;
        let replicas: Vec<Api> = left.iter().map(|node| cluster.api(*node)).collect();
        equal_digests(WAIT_TIMEOUT, &replicas).await;
        let fourth = api.at(cluster.url(fourth));
        for task in &tasks {
            let path = format!("/v1/tasks/{task}?consistency=stale");
            assert_eq!(fourth.get(&path).await.expect(200)["id"], task.as_str());
        }
    }
}

fn largest_file(dir: &Path) -> (std::path::PathBuf, u64) {
    let mut largest = (dir.to_owned(), 0);
    for entry in std::fs::read_dir(dir)
        .expect("a directory can be read")
        .flatten()
    {
        let path = entry.path();
        let found = match entry.file_type().expect("a type").is_dir() {
            true => largest_file(&path),
            // A file that only reserves space has no content that is worth damaging.
            false if path.to_string_lossy().contains("reserve") => continue,
            false => (path, entry.metadata().expect("metadata").len()),
        };
        if found.1 > largest.1 {
            largest = found;
        }
    }
    largest
}
