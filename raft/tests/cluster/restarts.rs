//! Nodes that die at bad moments, and one that is stopped without dying.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use triarch_raft::{ProposeError, TransferReason};

use crate::harness::{Cluster, clock, eventually};

/// Returns a generator with a new seed each time, or with the one given to replay.
fn seeded(test: &str) -> StdRng {
    let seed = std::env::var("RAFT_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| clock()());
    println!("replay with: RAFT_TEST_SEED={seed} cargo test -p triarch-raft --test cluster {test}");
    StdRng::seed_from_u64(seed)
}

#[test]
fn a_cluster_is_founded_once_whichever_node_dies_in_between() {
    let mut rng = seeded("a_cluster_is_founded_once_whichever_node_dies_in_between");
    for _ in 0..4 {
        let mut cluster = Cluster::prepare(3, |_| {});
        for id in 1..=3 {
            cluster.start(id);
        }
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(rng.random_range(0..60)));
            let victim = rng.random_range(1..=3);
            cluster.kill(victim);
            cluster.start(victim);
        }
        cluster.leader();
        let ids: BTreeSet<_> = cluster
            .running
            .values()
            .map(|r| r.node.status().cluster_id.unwrap())
            .collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
        let last = cluster.propose("founded");
        cluster.settle(last.index);
        assert!(
            cluster
                .running
                .values()
                .all(|r| r.commands() == ["founded"])
        );
    }
}

#[test]
fn acknowledged_commands_survive_random_kills() {
    let mut rng = seeded("acknowledged_commands_survive_random_kills");
    let mut cluster = Cluster::with(3, |config| {
        config.snapshot.entries = 30;
        config.snapshot.keep_entries = 5;
        config.limits.propose_timeout_ms = 2_000;
    });
    let mut acknowledged = Vec::new();
    let mut refused = Vec::new();
    let mut number = 0;
    for _ in 0..12 {
        for _ in 0..rng.random_range(5..25) {
            number += 1;
            let asked = *[1, 2, 3].choose(&mut rng).unwrap();
            let asked = cluster.node(asked).status().leader.unwrap_or(asked);
            match cluster.try_propose(asked, number.to_string()) {
                Ok(_) => acknowledged.push(number),
                Err(ProposeError::Unknown(_)) => {}
                Err(ProposeError::NotLeader { .. } | ProposeError::Overloaded) => {
                    refused.push(number);
                }
                Err(e) => panic!("{e}"),
            }
        }
        // The victims are none, one, a quorum, or all.
        let mut victims: Vec<u64> = vec![1, 2, 3];
        victims.retain(|_| rng.random_bool(0.5));
        for id in &victims {
            cluster.kill(*id);
        }
        for id in victims {
            cluster.start(id);
        }
    }
    cluster.leader();
    let last = cluster.propose("end");
    cluster.settle(last.index);
    let states: Vec<Vec<String>> = cluster
        .running
        .values()
        .map(|r| {
            r.commands()
                .iter()
                .map(|c| String::from_utf8(c.to_vec()).unwrap())
                .collect()
        })
        .collect();
    assert!(
        states.iter().all(|state| *state == states[0]),
        "replicas differ"
    );
    let found: Vec<u64> = states[0]
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let distinct: BTreeSet<u64> = found.iter().copied().collect();
    assert_eq!(found.len(), distinct.len(), "something was applied twice");
    for number in acknowledged {
        assert!(
            distinct.contains(&number),
            "{number} was acknowledged and is lost"
        );
    }
    for number in refused {
        assert!(
            !distinct.contains(&number),
            "{number} was told as not done and is done"
        );
    }
}

/// Child process of the next test, which stops it; not a test of its own. Runs node 1 of a cluster whose other nodes
/// run in the test.
#[test]
fn stopped_child() {
    let Ok(root) = std::env::var("RAFT_STOPPED_CHILD") else {
        return;
    };
    let cluster: Vec<(u64, String)> =
        serde_json::from_str(&std::env::var("RAFT_FOUNDING").unwrap()).unwrap();
    let founding: std::collections::BTreeMap<u64, String> = cluster.into_iter().collect();
    let peers = triarch_raft::BootstrapMode::Static(founding.clone());
    let config = triarch_raft::NodeConfig::new(1, founding[&1].clone(), root, peers);
    let running = crate::harness::start(config).unwrap();
    let mut last = Instant::now();
    let mut reported = None;
    loop {
        let gap = last.elapsed();
        let leads = running.node.leads_now();
        last = Instant::now();
        if gap > Duration::from_millis(1_000) {
            println!("resumed leads={leads}");
        }
        if reported != Some(leads) {
            println!("leads={leads}");
            reported = Some(leads);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_leader_that_was_suspended_knows_at_once_that_its_lease_is_over() {
    let mut cluster = Cluster::prepare(3, |_| {});
    cluster.start(2);
    cluster.start(3);
    let founding: Vec<(u64, String)> = cluster.founding.clone().into_iter().collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "restarts::stopped_child", "--nocapture"])
        .env("RAFT_STOPPED_CHILD", cluster.dir(1))
        .env("RAFT_FOUNDING", serde_json::to_string(&founding).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    let signal = |name: &str| {
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    };
    let said = Arc::new(Mutex::new(Vec::new()));
    let reader = BufReader::new(child.stdout.take().unwrap());
    let heard = Arc::clone(&said);
    let reading = std::thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            heard.lock().push(line);
        }
    });
    let leads = || {
        said.lock()
            .iter()
            .rfind(|line| line.starts_with("leads="))
            .cloned()
    };

    eventually("the stopped one leads", || {
        if leads().as_deref() == Some("leads=true") {
            return Some(());
        }
        // The other leader transfers leadership to the child. A transfer may fail, and is tried again.
        let leader = [2, 3]
            .into_iter()
            .find(|id| cluster.node(*id).leads_now())?;
        let _ = cluster.block_on(
            leader,
            cluster
                .node(leader)
                .transfer_leader(Some(1), TransferReason::Operator),
        );
        None
    });
    signal("-STOP");
    eventually("another leads", || {
        [2, 3].into_iter().find(|id| cluster.node(*id).leads_now())
    });
    // The child considers a gap of a second a stop.
    std::thread::sleep(Duration::from_millis(1_500));
    let before = said.lock().len();
    signal("-CONT");
    let log = eventually("it resumes", || {
        said.lock()
            .iter()
            // On a busy machine it may have had such gaps before.
            .skip(before)
            .find(|line| line.contains("resumed"))
            .cloned()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    reading.join().unwrap();
    assert!(log.contains("resumed leads=false"), "{log}");
}
