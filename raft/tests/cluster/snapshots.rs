//! Snapshots: the log is cut, and no node loses anything by it.

use triarch_raft::NodeConfig;

use crate::harness::{Cluster, eventually};

fn often(config: &mut NodeConfig) {
    config.snapshot.entries = 20;
    config.snapshot.keep_entries = 5;
}

#[test]
fn a_follower_behind_the_log_catches_up_by_snapshot() {
    let mut cluster = Cluster::with(3, often);
    let away = cluster.followers()[0];
    cluster.propose("first");
    cluster.kill(away);
    for number in 0..200 {
        cluster.propose(&number.to_string());
    }
    let leader = cluster.leader();
    let away_last = 20;
    eventually("the log is cut past what the other has", || {
        (cluster.node(leader).status().purged_index > away_last).then_some(())
    });
    cluster.start(away);
    let last = cluster.propose("last");
    cluster.settle(last.index);
    assert_eq!(
        cluster.running[&away].commands(),
        cluster.running[&leader].commands()
    );
    assert_eq!(cluster.running[&away].commands().len(), 202);

    // The received snapshot is on its disk, so it restarts with that state, alone.
    cluster.kill(away);
    cluster.start(away);
    assert!(cluster.running[&away].commands().len() >= 180);
    let last = cluster.propose("after");
    cluster.settle(last.index);
    assert_eq!(
        cluster.running[&away].commands(),
        cluster.running[&leader].commands()
    );
}

#[test]
fn a_restart_restores_the_snapshot_and_applies_the_rest_of_the_log() {
    let mut cluster = Cluster::with(1, often);
    for number in 0..57 {
        cluster.propose(&number.to_string());
    }
    eventually("there is a snapshot", || {
        (cluster.node(1).status().snapshot_index >= 30).then_some(())
    });
    cluster.kill(1);
    cluster.start(1);
    cluster.leader();
    let expected: Vec<String> = (0..57).map(|n| n.to_string()).collect();
    eventually("everything is back", || {
        (cluster.running[&1].commands() == expected).then_some(())
    });
    assert!(cluster.node(1).status().purged_index > 0);
}

#[test]
fn large_commands_trigger_a_snapshot_by_their_bytes() {
    let cluster = Cluster::with(3, |config| config.snapshot.bytes = 1 << 20);
    let leader = cluster.leader();
    for _ in 0..6 {
        cluster.try_propose(leader, vec![b'x'; 300 << 10]).unwrap();
    }
    eventually("there is a snapshot", || {
        cluster
            .running
            .values()
            .all(|r| r.node.status().snapshot_index > 0)
            .then_some(())
    });
}
