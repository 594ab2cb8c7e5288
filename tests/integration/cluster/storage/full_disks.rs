//! Full disks: the cluster works on without a master whose disk is full, and refuses writes when too many disks are
//! full. Reads and heartbeats go on all the time, and writes resume once there is space. No master exits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{
    Api, Cluster, FakeWorker, Load, LoadOptions, Options, SmallDisk, acknowledged_jobs,
    fake_worker, until,
};

use crate::job_helpers::{WAIT_TIMEOUT, shell};

const DISK_MIB: u64 = 96;
/// A short time, so that the test can wait for its end.
const LEASE_MS: u64 = 2_000;

/// Returns the disks, or `None` with a message if this machine does not support them.
fn disks() -> Option<Vec<SmallDisk>> {
    match SmallDisk::mount_all(3, DISK_MIB) {
        Ok(disks) => Some(disks),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

async fn cluster_on(disks: &[SmallDisk]) -> Cluster {
    Cluster::with(Options {
        lease_ms: LEASE_MS,
        data_dirs: disks.iter().map(SmallDisk::data_dir).collect(),
        ..Options::default()
    })
    .await
}

fn load(cluster: &Cluster) -> (Load, std::path::PathBuf) {
    let sink = cluster.root().join("sink");
    let script = acknowledged_jobs::sink_script(&sink);
    let options = LoadOptions {
        submitters: 3,
        pause: Duration::from_millis(10),
        request_timeout: Duration::from_secs(2),
        name: "full".to_owned(),
        make: Arc::new(move |_| shell(&script)),
    };
    (Load::start(&cluster.apis(), options), sink)
}

async fn goes_on(load: &Load) {
    let wanted = load.count() + 30;
    let what = format!("{wanted} submissions are acknowledged");
    until(WAIT_TIMEOUT, what, async || load.count() >= wanted).await;
}

/// Returns whether the leader reports that this master's disk is low.
async fn low(api: &Api, node: u64) -> Option<bool> {
    let reply = api.call(Method::GET, "/v1/cluster").send().await.ok()?;
    let status = (reply.status == 200).then(|| reply.json())?;
    let nodes = status["nodes"].as_array()?;
    let one = nodes.iter().find(|one| one["id"] == node)?;
    one["disk"]["low"].as_bool()
}

async fn wait_low(api: &Api, node: u64, wanted: bool) {
    let what = format!("the disk of master {node} is told to be low: {wanted}");
    until(WAIT_TIMEOUT, what, async || {
        low(api, node).await == Some(wanted)
    })
    .await;
}

#[track_caller]
fn nobody_died(cluster: &mut Cluster, pids: &[u32]) {
    for (node, pid) in (1..).zip(pids) {
        let process = cluster.node(node);
        assert_eq!((process.pid(), process.ended()), (*pid, None));
    }
}

#[tokio::test]
async fn one_full_disk_costs_one_master_and_full_disks_everywhere_cost_only_writes() {
    let Some(disks) = disks() else {
        return;
    };
    let disk = |node: u64| &disks[node as usize - 1];
    let mut cluster = cluster_on(&disks).await;
    let pids: Vec<u32> = cluster.ids().map(|node| cluster.pid(node)).collect();
    cluster.worker(&["--slots", "4"]);
    let (load, sink) = load(&cluster);
    goes_on(&load).await;

    // A follower's disk: the follower stays alive, lags, and catches up.
    let (leader, follower) = cluster.leader_and_follower().await;
    disk(follower).fill();
    wait_low(&cluster.api(leader), follower, true).await;
    goes_on(&load).await;
    disk(follower).free();
    wait_low(&cluster.api(leader), follower, false).await;
    cluster.wait_caught_up(follower).await;

    // The leader's disk: another master leads.
    let leader = cluster.leader().await;
    disk(leader).fill();
    let next = cluster.leader_other_than(leader).await;
    goes_on(&load).await;
    wait_low(&cluster.api(next), leader, true).await;
    let refused = cluster
        .api(next)
        .post("/v1/cluster/transfer-leader", &json!({ "to": leader }))
        .await;
    let said = refused.refused(409, "conflict");
    assert!(said["detail"].to_string().contains("nearly full"), "{said}");
    disk(leader).free();
    wait_low(&cluster.api(next), leader, false).await;
    cluster.wait_caught_up(leader).await;
    nobody_died(&mut cluster, &pids);

    // The disks of all masters.
    let fake_worker = FakeWorker::register(&cluster, "hand", 1).await;
    let job = cluster.api(1).submit(&fake_worker::job(json!({}))).await;
    let job = job["id"].as_str().expect("an id").to_owned();
    let lease = fake_worker.take(&[]).await;
    // That of the leader last, so that an entry can wait there to be committed.
    let leader = cluster.leader().await;
    let others = cluster.ids().filter(|node| *node != leader);
    others.for_each(|node| disk(node).fill());
    disk(leader).fill();
    for node in cluster.ids() {
        writes_are_refused(&cluster.api(node)).await;
    }
    let begun = Instant::now();
    let mut looks = 0;
    while looks < 4 || begun.elapsed() < Duration::from_millis(LEASE_MS * 3) {
        let orders = fake_worker.heartbeat(std::slice::from_ref(&lease)).await;
        assert_eq!(orders["lost"], json!([]), "after {:?}", begun.elapsed());
        for node in cluster.ids() {
            let shown = cluster.api(node).get(&format!("/v1/jobs/{job}")).await;
            assert_eq!(shown.expect(200)["counts"]["running"], 1);
        }
        looks += 1;
        tokio::time::sleep(Duration::from_millis(fake_worker.heartbeat_ms)).await;
    }
    writes_are_refused(&cluster.api(1)).await;
    let acknowledged = load.count();
    for node in cluster.ids() {
        // Perhaps with 503: the leader's disk may have taken one more entry, which waits to be committed.
        let ready = cluster.api(node).get("/readyz").await.json();
        assert_eq!(ready["disk"]["low"], true, "{ready}");
    }
    nobody_died(&mut cluster, &pids);

    let _alive = fake_worker.keep_alive(std::slice::from_ref(&lease));
    disks.iter().for_each(SmallDisk::free);
    let begun = Instant::now();
    let wanted = acknowledged + 30;
    until(WAIT_TIMEOUT, "writes are taken again", async || {
        load.count() >= wanted
    })
    .await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "only after {took:?}");
    let result =
        json!({"task": lease.task, "token": lease.token, "status": "succeeded", "result": 1});
    assert_eq!(fake_worker.report(result).await["accepted"], true);

    let acked = load.finish().await;
    let mut check_result =
        acknowledged_jobs::check(&cluster.apis(), &acked, Duration::from_secs(60)).await;
    acknowledged_jobs::check_sink(&mut check_result, &sink, &acked);
    check_result.assert_good();
    nobody_died(&mut cluster, &pids);
    for node in cluster.ids() {
        let log = cluster.node(node).log();
        let times = log.matches("the disk is nearly full").count();
        assert!(
            (1..=3).contains(&times),
            "master {node} says it {times} times"
        );
    }
}

/// Waits until a write is refused because of the disks, with advice in the message.
async fn writes_are_refused(api: &Api) {
    let what = format!("a write is refused at {}", api.base());
    let mut last = Value::Null;
    until(WAIT_TIMEOUT, what, async || {
        let call = api.call(Method::POST, "/v1/jobs");
        let Ok(reply) = call.json(&shell("true")).send().await else {
            return false;
        };
        if reply.status != 507 {
            return false;
        }
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        last = reply.refused(507, "storage_failed");
        true
    })
    .await;
    let said = last["detail"].as_str().unwrap_or_default();
    assert!(
        said.contains("free some space") && said.contains("MiB"),
        "{said}"
    );
}
