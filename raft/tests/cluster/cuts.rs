//! Cut wires: nobody who can still reach a quorum may be hindered, and nobody who cannot may answer.

use std::time::{Duration, Instant};

use triarch_raft::{Leadership, PeerRole, PeerState, ReadError};

use crate::harness::{Cluster, eventually};
use crate::wires::Cut;

/// Longer than any election would take, were there one.
const CALM: Duration = Duration::from_secs(2);

fn terms(cluster: &Cluster) -> Vec<u64> {
    cluster
        .running
        .values()
        .map(|r| r.node.status().term)
        .collect()
}

fn stays_calm_and_writes(cluster: &Cluster, leader: u64) {
    let before = terms(cluster);
    let end = Instant::now() + CALM;
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        cluster.try_propose(leader, format!("{number}")).unwrap();
        assert!(
            cluster
                .block_on(leader, cluster.node(leader).read_barrier())
                .is_ok()
        );
    }
    assert_eq!(terms(cluster), before);
    assert!(cluster.node(leader).leads_now());
}

#[test]
fn a_follower_that_hears_nobody_disturbs_nobody() {
    let cluster = Cluster::wired(3);
    let leader = cluster.leader();
    let deaf = cluster.followers()[0];
    for id in 1..=3 {
        cluster.wires[&deaf].cut(id, Cut::Requests);
    }
    stays_calm_and_writes(&cluster, leader);
    assert_eq!(
        cluster.node(deaf).status().leader,
        None,
        "it notices that it hears nobody"
    );
    cluster.wires[&deaf].mend();
    let last = cluster.propose("mended");
    cluster.settle(last.index);
    assert_eq!(cluster.leader(), leader);
}

#[test]
fn a_follower_whose_answers_are_lost_disturbs_nobody() {
    let cluster = Cluster::wired(3);
    let leader = cluster.leader();
    let mute = cluster.followers()[0];
    cluster.wires[&mute].cut(leader, Cut::Answers);
    stays_calm_and_writes(&cluster, leader);
    cluster.wires[&mute].mend();
    let last = cluster.propose("mended");
    cluster.settle(last.index);
}

#[test]
fn two_nodes_that_cannot_speak_to_each_other_do_not_fight_over_the_third() {
    let cluster = Cluster::wired(3);
    let leader = cluster.leader();
    let apart = cluster.followers()[0];
    cluster.wires[&apart].cut(leader, Cut::Requests);
    cluster.wires[&leader].cut(apart, Cut::Requests);
    stays_calm_and_writes(&cluster, leader);
}

#[test]
fn a_leader_cut_off_answers_nothing_and_gives_way() {
    let cluster = Cluster::wired(3);
    for number in 0..5 {
        cluster.propose(&number.to_string());
    }
    let old = cluster.leader();
    for id in cluster.followers() {
        cluster.wires[&id].cut(old, Cut::Requests);
        cluster.wires[&old].cut(id, Cut::Requests);
    }
    let node = cluster.node(old).clone();
    eventually("its lease runs out", || (!node.leads_now()).then_some(()));
    let read = cluster.block_on(old, node.read_barrier());
    assert!(matches!(read, Err(ReadError::NoQuorum)), "{read:?}");
    let new = eventually("another leads", || {
        cluster
            .running
            .iter()
            .find(|(id, r)| **id != old && r.node.leads_now())
            .map(|(id, _)| *id)
    });
    let committed = cluster.try_propose(new, "by the new leader").unwrap();
    let term = cluster.node(new).status().term;
    for wire in cluster.wires.values() {
        wire.mend();
    }
    cluster.settle(committed.index);
    assert!(!node.leads_now());
    eventually("it follows", || match &*node.leadership().borrow() {
        Leadership::Following { term: t, .. } => (*t >= term).then_some(()),
        Leadership::Leading { .. } | Leadership::Unknown { .. } => None,
    });
    assert_eq!(
        cluster.running[&old].commands(),
        cluster.running[&new].commands()
    );
}

/// The leader is heard by all, so nobody campaigns; but it hears nobody, so it can do nothing. It must fall silent.
#[test]
fn a_leader_that_hears_no_answers_gives_way() {
    let cluster = Cluster::wired(3);
    let old = cluster.leader();
    let followers = cluster.followers();
    for id in &followers {
        cluster.wires[id].cut(old, Cut::Answers);
    }
    let new = eventually("another leads", || {
        followers
            .iter()
            .copied()
            .find(|id| cluster.node(*id).leads_now())
    });
    cluster.try_propose(new, "by the new leader").unwrap();
    assert!(!cluster.node(old).leads_now());
    for wire in cluster.wires.values() {
        wire.mend();
    }
    let last = cluster.propose("mended");
    cluster.settle(last.index);
}

/// It hears heartbeats, so it passes for alive; but it has nothing of the log. Were it a voter, the cluster could not do
/// without any other.
#[test]
fn a_learner_that_gets_no_entries_does_not_vote() {
    let mut cluster = Cluster::wired(3);
    let leader = cluster.leader();
    let victim = cluster.followers()[0];
    let addr = cluster.start_to_join(4);
    for id in [1, 2, 3] {
        cluster.wires[&4].cut(id, Cut::Entries);
    }
    let node = cluster.node(leader).clone();
    cluster.block_on(leader, node.add(4, addr)).unwrap();
    let status = |id: u64| {
        let nodes = node.status().nodes;
        nodes.into_iter().find(|one| one.id == id).unwrap()
    };
    // Many looks at the learner later: a leader looks at every heartbeat.
    cluster.kill(victim);
    eventually("the leader misses the dead one", || {
        assert_eq!(status(4).role, PeerRole::Learner);
        (status(victim).state == PeerState::Unreachable).then_some(())
    });
    let last = cluster.try_propose(leader, "by two of three").unwrap();
    assert_eq!(status(4).role, PeerRole::Learner);

    cluster.wires[&4].mend();
    eventually("it catches up and is promoted", || {
        (status(4).role == PeerRole::Voter).then_some(())
    });
    cluster.settle(last.index);
    assert_eq!(cluster.running[&4].commands(), ["by two of three"]);
}
