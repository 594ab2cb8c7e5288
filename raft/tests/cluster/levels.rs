//! Levels of formats: where a new cluster begins, and when an older one rises.

use triarch_raft::{ChangeError, Level, NodeConfig};

use crate::harness::{Cluster, eventually};

fn old(config: &mut NodeConfig) {
    config.level_max = Level::ONE;
}

/// Waits until all nodes, and their state machines, are at this level.
fn wait_level(cluster: &Cluster, level: Level) {
    eventually("all nodes are at this level", || {
        let at = |running: &crate::harness::Running| {
            running.node.status().level == level && *running.toy.level.lock() == level
        };
        cluster.running.values().all(at).then_some(())
    });
}

#[test]
fn a_new_cluster_begins_at_the_highest_level_and_keeps_it() {
    let mut cluster = Cluster::of(3);
    wait_level(&cluster, Level::HIGHEST);
    cluster.propose("one");
    // From the log, and from a snapshot.
    for id in 1..=3 {
        cluster.stop(id);
        cluster.start(id);
    }
    let leader = cluster.leader();
    wait_level(&cluster, Level::HIGHEST);
    let node = cluster.node(leader).clone();
    let deadline = std::time::Duration::from_secs(30);
    cluster.block_on(leader, node.snapshot(deadline)).unwrap();
    cluster.stop(leader);
    cluster.start(leader);
    cluster.leader();
    wait_level(&cluster, Level::HIGHEST);
}

#[test]
fn a_cluster_with_an_older_node_stays_below_until_that_node_is_upgraded_and_someone_asks() {
    let mut cluster = Cluster::with(3, |config| {
        if config.node_id == 3 {
            old(config);
        }
    });
    let raise = |cluster: &Cluster| {
        let leader = cluster.leader();
        let node = cluster.node(leader).clone();
        cluster.block_on(leader, node.raise_level(Some(Level::TWO)))
    };
    // Whether node 3 leads or follows, it is the obstacle.
    eventually("the raise is refused", || match raise(&cluster) {
        Err(ChangeError::TooOld {
            id: 3,
            level: 1,
            needed: 2,
            ..
        })
        | Err(ChangeError::LevelUnknown {
            wanted: 2,
            understood: 1,
        }) => Some(()),
        Err(_) => None,
        Ok(level) => panic!("raised to {level}"),
    });
    // A process that has taken part in the founding raises the level by itself for a while, and no other does.
    for id in [1, 2] {
        cluster.stop(id);
        cluster.start(id);
    }
    cluster.stop(3);
    cluster.adjust = |_| {};
    cluster.start(3);
    cluster.propose("one");
    wait_level(&cluster, Level::ONE);
    eventually("the raise is done", || raise(&cluster).ok());
    wait_level(&cluster, Level::TWO);
    let two = cluster.propose("two");
    cluster.settle(two.index);
    assert_eq!(
        cluster.running[&3].commands(),
        cluster.running[&1].commands()
    );
}
