//! Upgrades: masters of two versions in one cluster, the rise of the level, and what is refused before and after it.
//!
//! A master that understands level 1 only stands for the version before levels: it announces nothing. The script
//! `scripts/upgrade.sh` runs that version itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Cluster, Options, Program, equal_digests, eventually, until};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works, submit_task};
use crate::membership::member_changes::wait_members;
use crate::operations::metrics::scrape;

/// A cluster whose masters behave as the version before levels.
async fn old_cluster(nodes: u64, more: &[&str]) -> Cluster {
    let programs = (1..=nodes).map(|id| (id, Program::of_level(1)));
    Cluster::with(Options {
        nodes,
        programs: programs.collect(),
        more: more.iter().map(|one| (*one).to_owned()).collect(),
        ..Options::default()
    })
    .await
}

/// A job that no worker of these tests takes.
fn later(payload: impl serde::Serialize) -> Value {
    json!({"tasks": [{"kind": "later", "payload": payload}]})
}

/// Waits until these masters have applied this level.
async fn wait_level(cluster: &Cluster, nodes: &[u64], level: u64) {
    let what = format!("the masters {nodes:?} are at level {level}");
    until(WAIT_TIMEOUT, what, async || {
        for node in nodes {
            let scraped = scrape(cluster, *node).await;
            if scraped.value("triarch_cluster_level", &[]) != level as f64 {
                return false;
            }
        }
        true
    })
    .await;
}

/// Asks for the rise until the answer is not about a master that restarts or an election.
async fn upgrade(cluster: &mut Cluster, status: u16, code: &str) -> Value {
    eventually(WAIT_TIMEOUT, "the rise is answered", async || {
        let leader = cluster.wait_ready().await;
        let call = cluster
            .api(leader)
            .call(Method::POST, "/v1/cluster/upgrade");
        let reply = call.json(&json!({})).send().await.ok()?;
        let fits = reply.status == status && (status == 200 || reply.code() == code);
        fits.then(|| reply.json())
    })
    .await
}

async fn backup(cluster: &Cluster, file: &Path) -> Vec<u8> {
    let args = ["cluster", "backup", file.to_str().expect("plain")];
    cluster.cli().run(&args).await.expect(0);
    std::fs::read(file).expect("it was written")
}

#[tokio::test]
async fn a_cluster_rises_only_when_every_master_understands_the_level() {
    let mut cluster = old_cluster(3, &[]).await;
    let task = submit_task(&cluster.api(1), &later("old")).await;
    for node in [1, 2] {
        cluster.replace_program(node, Program::default()).await;
        cluster.wait_ready().await;
    }
    let leader = ["cluster", "transfer-leader", "1"];
    eventually(WAIT_TIMEOUT, "a new master leads", async || {
        (cluster.cli().run(&leader).await.code == Some(0)).then_some(())
    })
    .await;
    // The third one is older, and is named.
    let refused = upgrade(&mut cluster, 409, "node_too_old").await;
    assert_eq!(
        (&refused["node"], &refused["level"], &refused["needed"]),
        (&json!(3), &json!(1), &json!(2))
    );
    let refusal = cluster.cli().run(&["cluster", "upgrade"]).await.expect(1);
    refusal.says("node 3").says("upgrade the program of node 3");
    let shown = cluster.cli().cluster_status(&[]).await;
    shown.shows("VERSION").shows("older").shows("0.1.0");

    // One that does not answer has not said that it understands the level.
    cluster.kill9(3);
    let refused = upgrade(&mut cluster, 409, "conflict").await;
    assert_eq!(refused["node"], 3, "{refused}");
    assert!(refused["detail"].to_string().contains("start node 3"));

    // Nothing rises by itself, and there is a way back.
    cluster.set_program(3, Program::default());
    cluster.restart(3);
    cluster.wait_ready().await;
    until(WAIT_TIMEOUT, "the leader has asked node 3", async || {
        let shown = cluster.cli().cluster_status(&[]).await.stdout;
        shown.contains("all masters understand 2: triarch cluster upgrade")
    })
    .await;
    let leader = cluster.wait_ready().await;
    cluster.replace_program(leader, Program::of_level(1)).await;
    assert_works(&mut cluster).await;
    cluster.replace_program(leader, Program::default()).await;
    cluster.wait_ready().await;
    wait_level(&cluster, &[1, 2, 3], 1).await;
    let dir = tempfile::tempdir().expect("a directory");
    let before = backup(&cluster, &dir.path().join("before")).await;
    assert_eq!(before[..8], *b"TRIARCH\x01");

    let risen = upgrade(&mut cluster, 200, "").await;
    assert_eq!(risen["level"], 2, "{risen}");
    wait_level(&cluster, &[1, 2, 3], 2).await;
    let again = upgrade(&mut cluster, 200, "").await;
    assert_eq!(again["level"], 2, "{again}");
    let call = cluster.api(1).call(Method::POST, "/v1/cluster/upgrade");
    let unknown = call.json(&json!({"level": 3})).answer().await;
    let unknown = unknown.refused(400, "invalid_request");
    assert_eq!(
        (&unknown["field"], &unknown["understood"]),
        (&json!("level"), &json!(2))
    );

    let after = backup(&cluster, &dir.path().join("after")).await;
    assert_eq!(after[..8], *b"TRIARCH\x02");
    assert_works(&mut cluster).await;
    equal_digests(WAIT_TIMEOUT, &cluster.apis()).await;
    let digest = cluster.api(1).get("/v1/cluster?digest=true").await;
    assert_eq!(digest.expect(200)["digest"]["areas"][0]["area"], "table");
    // A log of both levels is replayed.
    for node in [1, 2, 3] {
        cluster.kill9(node);
        cluster.restart(node);
    }
    cluster.wait_ready().await;
    wait_level(&cluster, &[1, 2, 3], 2).await;
    let shown = cluster.api(1).get(&format!("/v1/tasks/{task}")).await;
    assert_eq!(shown.expect(200)["id"], json!(task));
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn after_the_rise_an_older_master_is_refused_and_takes_no_harm() {
    const SNAPSHOTS: [&str; 2] = ["--snapshot-entries", "8"];
    let mut cluster = Cluster::with(Options {
        nodes: 1,
        programs: BTreeMap::from([(2, Program::of_level(1))]),
        more: SNAPSHOTS.map(str::to_owned).to_vec(),
        ..Options::default()
    })
    .await;
    // A cluster of masters that all understand it begins there.
    wait_level(&cluster, &[1], 2).await;
    let api = cluster.api(1);
    for number in 0..20 {
        submit_task(&api, &later(number)).await;
    }
    api.post("/v1/cluster/snapshot", &json!({}))
        .await
        .expect(200);

    let older = cluster.start_waiting().await;
    let named = cluster.named(older);
    let body = json!({"id": older, "addr": cluster.advertised(older)});
    let refused = api.post("/v1/cluster/nodes", &body).await;
    let refused = refused.refused(409, "node_too_old");
    assert_eq!(
        (&refused["node"], &refused["needed"]),
        (&json!(older), &json!(2))
    );
    let add = ["cluster", "add", &named];
    let refusal = cluster.cli().run(&add).await.expect(1);
    refusal.says("understands level 1, and level 2 is needed");
    // Upgraded, the same directory gets the snapshot of the new level.
    cluster.replace_program(older, Program::default()).await;
    eventually(WAIT_TIMEOUT, "the new master is added", async || {
        (cluster.cli().run(&add).await.code == Some(0)).then_some(())
    })
    .await;
    wait_members(&api, &[1, older], &[]).await;
    wait_level(&cluster, &[1, older], 2).await;
    equal_digests(WAIT_TIMEOUT, &cluster.apis()).await;

    // With the older version again, neither what the log holds nor what the snapshot holds is taken for something else.
    cluster.terminate(older).await;
    cluster.set_program(older, Program::of_level(1));
    let files = listed(&cluster.data_dir(older));
    cluster.restart(older);
    let status = cluster.node(older).wait(WAIT_TIMEOUT).await;
    assert_eq!(status.code(), Some(1), "{}", cluster.last_words());
    let log = cluster.log_line_of(older);
    for words in [
        "of level 2",
        "understands at most level 1",
        "run the version",
    ] {
        assert!(log.contains(words), "{words}: {}", cluster.last_words());
    }
    assert_eq!(listed(&cluster.data_dir(older)), files);
    cluster.set_program(older, Program::default());
    cluster.restart(older);
    cluster.wait_ready().await;
    assert_works(&mut cluster).await;
}

/// The snapshots in a data directory, with their lengths.
fn listed(dir: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(dir.join("snapshots")).expect("a directory");
    let mut files: Vec<(PathBuf, u64)> = entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            (entry.path(), entry.metadata().expect("a file").len())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_backup_of_either_level_is_restored_into_a_cluster_of_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut files = Vec::new();
    for level in [1_u8, 2] {
        let cluster = match level {
            1 => old_cluster(1, &[]).await,
            _ => Cluster::start(1).await,
        };
        wait_level(&cluster, &[1], u64::from(level)).await;
        let task = submit_task(&cluster.api(1), &later(level)).await;
        let file = dir.path().join(format!("backup-{level}"));
        assert_eq!(backup(&cluster, &file).await[7], level);
        files.push((file, task));
    }
    let [(of_1, task_1), (of_2, task_2)] = &files[..] else {
        panic!("two backups were taken");
    };
    for (file, task, into) in [(of_2, task_2, 1), (of_1, task_1, 2)] {
        let cluster = match into {
            1 => old_cluster(1, &[]).await,
            _ => Cluster::start(1).await,
        };
        let restore = ["cluster", "restore", file.to_str().expect("plain")];
        cluster
            .cli()
            .run(&restore)
            .await
            .expect(0)
            .shows("restored 1 jobs");
        let shown = cluster.api(1).get(&format!("/v1/tasks/{task}")).await;
        assert_eq!(shown.expect(200)["id"], json!(task), "into level {into}");
        wait_level(&cluster, &[1], into).await;
    }

    // An area that a later version has added is refused by its number, before anything is sent.
    let mut later = std::fs::read(of_2).expect("a backup");
    let at = later
        .windows(9)
        .position(|bytes| bytes == b"TRITABLE\x02")
        .expect("the sections")
        + 9;
    let head = [200, 1];
    later[at..at + 2].copy_from_slice(&head);
    let checksum = crc32c::crc32c(&[0, 200, 1]);
    later[at + 2..at + 6].copy_from_slice(&checksum.to_le_bytes());
    seal_block(&mut later);
    let file = dir.path().join("later");
    std::fs::write(&file, later).expect("a file");
    let cluster = Cluster::start(1).await;
    let restore = ["cluster", "restore", file.to_str().expect("plain")];
    let refused = cluster.cli().run(&restore).await.expect(1);
    refused.says("area 200 is not known to this version: upgrade");
}

/// Makes the checksum of the one block of a small backup right again.
fn seal_block(backup: &mut [u8]) {
    let length = |at: usize| {
        let bytes = backup[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let block = 8 + 8 + length(8);
    let contents = block + 8..block + 8 + length(block);
    let number = 1_u64.to_le_bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&number), &backup[contents]);
    backup[block + 4..block + 8].copy_from_slice(&checksum.to_le_bytes());
}
