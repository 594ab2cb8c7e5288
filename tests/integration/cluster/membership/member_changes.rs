//! Membership changes under load: masters are added, removed and replaced by the command line and the HTTP interface,
//! and harmful changes are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use triarch_harness::binary::triarch;
use triarch_harness::{Api, Cluster, FakeWorker, eventually, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, submit_task};

async fn status(api: &Api) -> Option<Value> {
    let reply = api.call(Method::GET, "/v1/cluster").send().await.ok()?;
    (reply.status == 200).then(|| reply.json())
}

/// Returns the ids of the nodes with this role, in order.
fn with_role(status: &Value, role: &str) -> Vec<u64> {
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let of_role = nodes.iter().filter(|node| node["role"] == role);
    let mut ids: Vec<u64> = of_role.filter_map(|node| node["id"].as_u64()).collect();
    ids.sort_unstable();
    ids
}

/// Waits until exactly these nodes are voters and learners.
pub async fn wait_members(api: &Api, voters: &[u64], learners: &[u64]) {
    let what = format!("the voters are {voters:?}, the learners {learners:?}");
    until(WAIT_TIMEOUT, what, async || {
        let Some(status) = status(api).await else {
            return false;
        };
        with_role(&status, "voter") == voters && with_role(&status, "learner") == learners
    })
    .await;
}

#[tokio::test]
async fn one_command_replaces_a_dead_master_while_work_goes_on() {
    let mut cluster = Cluster::start(3).await;
    let (leader, dead) = cluster.leader_and_follower().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let before = submit_task(&api, &fake_worker::job(json!("before"))).await;
    let lease = worker.take(&[]).await;

    let new = cluster.start_waiting().await;
    let named = cluster.named(new);
    let cli = cluster.cli();
    let replace = ["cluster", "replace", &dead.to_string(), &named];
    let alive = cli.run(&replace).await.expect(1);
    alive.says("still answers the leader").says("--force");
    cluster.kill9(dead);
    // A master does not count as dead before it has been silent for a while.
    let replaced = eventually(WAIT_TIMEOUT, "the dead master is replaced", async || {
        let ran = cli.run(&replace).await;
        (ran.code == Some(0)).then_some(ran)
    })
    .await;
    replaced
        .says("is a voter")
        .says(&format!("node {dead} is removed"));
    let left: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != dead).collect();
    wait_members(&api, &left, &[]).await;
    // A repeated request finds the change done.
    cli.run(&replace)
        .await
        .expect(0)
        .says("nothing is left to do");
    let named = cluster.named(new);
    cli.run(&["cluster", "add", &named]).await.expect(0);
    let id = dead.to_string();
    cli.run(&["cluster", "remove", &id]).await.expect(0);
    cli.run(&["cluster", "remove", "77"]).await.expect(1);

    // The new master counts as a voter: with one of the old masters it forms a majority of three.
    worker.report_all(&[lease.succeeded(json!("kept"))]).await;
    cluster.kill9(leader);
    let fourth = cluster.api(new);
    let task = submit_task(&fourth, &fake_worker::job(json!("after"))).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, task);
    worker.report_all(&[lease.succeeded(json!(1))]).await;
    let shown = fourth.get(&format!("/v1/tasks/{before}")).await.expect(200);
    assert_eq!(shown["result"], "kept");
}

#[tokio::test]
async fn a_removed_leader_transfers_leadership_first() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let (cli, old) = (cluster.cli(), leader.to_string());
    // The request is repeated if it is refused because the nodes of a busy machine answered too late.
    let removed = eventually(WAIT_TIMEOUT, "the leader is taken out", async || {
        let ran = cli.run(&["cluster", "remove", &old]).await;
        (ran.code == Some(0)).then_some(ran)
    })
    .await;
    removed.says("fewer than three voters");
    let next = cluster.leader_other_than(leader).await;
    let api = cluster.api(next);
    let left: Vec<u64> = cluster.ids().filter(|id| *id != leader).collect();
    wait_members(&api, &left, &[]).await;
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, task);
    worker.report_all(&[lease.succeeded(json!(1))]).await;
}

/// A proxy to a master that passes everything except the log, until it is opened.
struct Turnstile {
    open: Arc<AtomicBool>,
    address: String,
}

impl Turnstile {
    async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let open = Arc::new(AtomicBool::new(false));
        let turnstile = Self {
            open: Arc::clone(&open),
            address,
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, target.clone(), Arc::clone(&open)));
            }
        });
        turnstile
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

async fn pass(stream: TcpStream, target: String, open: Arc<AtomicBool>) -> Option<()> {
    let (mut from, mut back) = stream.into_split();
    let (mut answers, mut to) = TcpStream::connect(target).await.ok()?.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
    let mut part = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut part).await.ok().filter(|count| *count > 0)?;
        let carries_log = [&b"/raft/append"[..], b"/raft/snapshot"]
            .iter()
            .any(|path| part[..count].windows(path.len()).any(|seen| seen == *path));
        if carries_log && !open.load(Ordering::SeqCst) {
            // Dropping both ends breaks the connection.
            return None;
        }
        to.write_all(&part[..count]).await.ok()?;
    }
}

#[tokio::test]
async fn a_started_addition_completes_though_the_leader_and_the_client_die() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    let turnstile = Turnstile::before(cluster.addr(4)).await;
    let mut fourth = cluster.marked(triarch());
    fourth
        .args(["server", "--id", "4", "--listen", &cluster.addr(4)])
        .args(["--advertise", &turnstile.address])
        .arg("--data-dir")
        .arg(cluster.root().join("master-4"))
        .args(["--join", &cluster.masters()]);
    let _fourth = cluster.spawn("master-4", fourth);
    let body = json!({"id": 4, "addr": turnstile.address});
    let path = "/v1/cluster/nodes?wait_ms=0";
    // The client does not wait. The answer says that the change is in progress.
    let added = eventually(
        WAIT_TIMEOUT,
        "the fourth master is on its way in",
        async || {
            let reply = api.post(path, &body).await;
            (reply.status != 409).then_some(reply)
        },
    )
    .await;
    added.expect(202);
    wait_members(&api, &[1, 2, 3], &[4]).await;

    // Members change one at a time.
    let other = Turnstile::before(cluster.addr(5)).await;
    let mut fifth = cluster.marked(triarch());
    fifth
        .args(["server", "--id", "5", "--listen", &cluster.addr(5)])
        .args(["--advertise", &other.address])
        .arg("--data-dir")
        .arg(cluster.root().join("master-5"))
        .args(["--join", &cluster.masters()]);
    let _fifth = cluster.spawn("master-5", fifth);
    eventually(
        WAIT_TIMEOUT,
        "a second change is refused for the first's sake",
        async || {
            let reply = api
                .post(path, &json!({"id": 5, "addr": other.address}))
                .await;
            let said = reply.refused(409, "conflict")["detail"].to_string();
            said.contains("node 4").then_some(())
        },
    )
    .await;
    let follower = cluster.follower().await;
    let remove = format!("/v1/cluster/nodes/{follower}");
    let said = api.delete(&remove).await.refused(409, "conflict");
    assert!(said["detail"].to_string().contains("node 4"), "{said}");

    // A client waits for the change by the command line while the leader is killed.
    let cli = cluster.cli();
    let named = format!("4={}", turnstile.address);
    let waiting = tokio::spawn(async move { cli.run(&["cluster", "add", &named]).await });
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    wait_members(&cluster.api(next), &[1, 2, 3], &[4]).await;
    turnstile.open();
    wait_members(&cluster.api(next), &[1, 2, 3, 4], &[]).await;
    waiting
        .await
        .expect("no panic")
        .expect(0)
        .says("is a voter");
}

#[tokio::test]
async fn harmful_membership_changes_are_refused_with_advice() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(leader);
    let refused = async |api: &Api, id: u64, addr: &str, words: &[&str]| {
        let body = json!({"id": id, "addr": addr});
        let said = api.post("/v1/cluster/nodes", &body).await;
        let said = said.refused(409, "conflict")["detail"].to_string();
        for word in words {
            assert!(said.contains(word), "{word:?} is missing: {said}");
        }
    };
    // No master at the address; an id in use; another node at the address; a member of another cluster.
    refused(&api, 4, &cluster.addr(9), &["answers as node 4", "--id 4"]).await;
    refused(&api, follower, &cluster.addr(leader), &["node"]).await;
    refused(&api, 4, &cluster.addr(leader), &["node"]).await;
    let other = Cluster::start(1).await;
    refused(&api, 1, &other.addr(1), &["data directory", "never used"]).await;
    drop(other);

    // A used id is never used again: not for another machine, nor after a snapshot and a restart of all masters.
    let fourth = cluster.start_waiting().await;
    let named = cluster.named(fourth);
    let cli = cluster.cli();
    // On a busy machine a change is refused because another master answers too late, and requested again.
    until(WAIT_TIMEOUT, "the fourth master is in", async || {
        cli.run(&["cluster", "add", &named]).await.code == Some(0)
    })
    .await;
    until(WAIT_TIMEOUT, "the fourth master is out again", async || {
        cli.run(&["cluster", "remove", "4"]).await.code == Some(0)
    })
    .await;
    wait_members(&api, &[1, 2, 3], &[]).await;
    cluster.kill9(fourth);
    std::fs::remove_dir_all(cluster.data_dir(fourth)).expect("it was there");
    for node in [1, 2, 3] {
        // On a busy machine another master may answer too late to become leader.
        until(WAIT_TIMEOUT, format!("node {node} leads"), async || {
            let to = node.to_string();
            let moved = cli.run(&["cluster", "transfer-leader", &to]).await;
            moved.code == Some(0)
        })
        .await;
        cli.run(&["cluster", "snapshot"]).await.expect(0);
    }
    for node in [1, 2, 3] {
        cluster.kill9(node);
        cluster.restart(node);
    }
    cluster.restart(fourth);
    let leader = eventually(WAIT_TIMEOUT, "the three are back", async || {
        let status = status(&cluster.api(1)).await?;
        status["leader"].as_u64()
    })
    .await;
    let api = cluster.api(leader);
    refused(
        &api,
        4,
        &cluster.addr(4),
        &["was in this cluster before", "--id 5"],
    )
    .await;
    cluster.kill9(fourth);

    // A majority of the remaining masters must answer.
    let left: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    cluster.kill9(left[0]);
    for id in [left[1], leader] {
        let path = format!("/v1/cluster/nodes/{id}");
        until(
            WAIT_TIMEOUT,
            "the dead one is known to be silent",
            async || {
                let reply = api.call(Method::DELETE, &path).send().await;
                let Ok(reply) = reply else { return false };
                let said = reply.refused(409, "conflict")["detail"].to_string();
                said.contains("no majority") && said.contains(&format!("node {}", left[0]))
            },
        )
        .await;
    }
    // On a busy machine live masters may answer late too. Then the change is refused, and requested again.
    for out in left {
        let path = format!("/v1/cluster/nodes/{out}");
        until(WAIT_TIMEOUT, format!("node {out} is out"), async || {
            let reply = api.call(Method::DELETE, &path).send().await;
            reply.is_ok_and(|reply| reply.status == 200)
        })
        .await;
    }
    wait_members(&api, &[leader], &[]).await;
    let own = format!("/v1/cluster/nodes/{leader}");
    let said = api.delete(&own).await.refused(409, "conflict");
    assert!(said["detail"].to_string().contains("last voter"), "{said}");
    submit_task(&api, &fake_worker::job(json!("still of use"))).await;
}

#[tokio::test]
async fn replacing_a_live_master_takes_the_force_option() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let new = cluster.start_waiting().await;
    let (old, named) = (leader.to_string(), cluster.named(new));
    let cli = cluster.cli();
    let replace = ["cluster", "replace", &old, &named, "--force"];
    until(WAIT_TIMEOUT, "the leader is replaced", async || {
        cli.run(&replace).await.code == Some(0)
    })
    .await;
    let next = cluster.leader_other_than(leader).await;
    let left: Vec<u64> = [1, 2, 3, 4]
        .into_iter()
        .filter(|id| *id != leader)
        .collect();
    wait_members(&cluster.api(next), &left, &[]).await;
    let gone = cli.run(&["cluster", "replace", "88", "9=127.0.0.1:1"]);
    gone.await.expect(1).says("node 88 is not in the cluster");
    let itself = ["cluster", "replace", "4", &named];
    cli.run(&itself).await.expect(2);
}

#[tokio::test]
async fn a_requested_snapshot_is_written_to_the_disk_of_the_leader() {
    let mut cluster = Cluster::start(1).await;
    cluster.wait_ready().await;
    let api = cluster.api(1);
    submit_task(&api, &fake_worker::job(json!("x".repeat(100_000)))).await;
    let committed = api.get("/v1/cluster").await.expect(200)["commit_index"].as_u64();
    let cli = cluster.cli();
    let ran = cli.run(&["cluster", "snapshot", "-o", "json"]).await;
    let written = ran.expect(0).json();
    assert_eq!(written["node"], 1);
    assert!(written["index"].as_u64() >= committed, "{written}");
    let files = std::fs::read_dir(cluster.data_dir(1).join("snapshots"));
    let sizes: Vec<u64> = files
        .expect("a directory")
        .filter_map(|file| file.ok()?.metadata().ok())
        .map(|file| file.len())
        .collect();
    assert_eq!(sizes, [written["bytes"].as_u64().expect("a number")]);
    // Another snapshot would contain nothing new.
    let held = Duration::from_secs(20).as_millis();
    let path = format!("/v1/cluster/snapshot?wait_ms={held}");
    let again = api.post(&path, &Value::Null).await.expect(200);
    assert!(again["index"].as_u64() >= written["index"].as_u64());
    let shown = cli.run(&["cluster", "snapshot"]).await.expect(0);
    shown.shows("node 1 wrote a snapshot up to log entry");
}
