//! Network partitions: a node that reaches a quorum is not hindered, and one that does not answers nothing.

use std::time::{Duration, Instant};

use triarch_raft::{Leadership, PeerRole, PeerState, ReadError, Timing};

use crate::harness::{Cluster, eventually};
use crate::links::Cut;

/// Longer than any election would take, were there one.
const CALM: Duration = Duration::from_secs(5);

/// Returns three nodes that give their leader two seconds, so that a busy machine does not cost it its followers.
fn patient() -> Cluster {
    Cluster::with_links_and(3, |config| {
        config.timing = Timing {
            heartbeat_ms: 400,
            election_min_ms: 1_200,
            election_max_ms: 2_000,
            ..Timing::default()
        };
    })
}

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
fn a_follower_that_receives_nothing_does_not_disrupt_the_leader() {
    let cluster = patient();
    let leader = cluster.leader();
    let deaf = cluster.followers()[0];
    for id in 1..=3 {
        cluster.links[&deaf].cut(id, Cut::Requests);
    }
    eventually("it notices that it hears nobody", || {
        cluster.node(deaf).status().leader.is_none().then_some(())
    });
    stays_calm_and_writes(&cluster, leader);
    assert_eq!(cluster.node(deaf).status().leader, None);
    cluster.links[&deaf].heal();
    let last = cluster.propose("mended");
    cluster.settle(last.index);
    assert_eq!(cluster.leader(), leader);
}

#[test]
fn a_follower_whose_answers_are_lost_does_not_disrupt_the_leader() {
    let cluster = patient();
    let leader = cluster.leader();
    let mute = cluster.followers()[0];
    cluster.links[&mute].cut(leader, Cut::Answers);
    stays_calm_and_writes(&cluster, leader);
    cluster.links[&mute].heal();
    let last = cluster.propose("mended");
    cluster.settle(last.index);
}

#[test]
fn a_link_cut_between_two_nodes_does_not_cause_elections() {
    let cluster = patient();
    let leader = cluster.leader();
    let apart = cluster.followers()[0];
    cluster.links[&apart].cut(leader, Cut::Requests);
    cluster.links[&leader].cut(apart, Cut::Requests);
    stays_calm_and_writes(&cluster, leader);
}

#[test]
fn an_isolated_leader_answers_nothing_and_is_replaced() {
    let cluster = Cluster::with_links(3);
    for number in 0..5 {
        cluster.propose(&number.to_string());
    }
    let old = cluster.leader();
    for id in cluster.followers() {
        cluster.links[&id].cut(old, Cut::Requests);
        cluster.links[&old].cut(id, Cut::Requests);
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
    for link in cluster.links.values() {
        link.heal();
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

/// All nodes hear the leader, so no node campaigns. But the leader hears no node, so it can do nothing, and must fall
/// silent.
#[test]
fn a_leader_that_receives_no_answers_is_replaced() {
    let cluster = Cluster::with_links(3);
    let old = cluster.leader();
    let followers = cluster.followers();
    for id in &followers {
        cluster.links[id].cut(old, Cut::Answers);
    }
    let new = eventually("another leads", || {
        followers
            .iter()
            .copied()
            .find(|id| cluster.node(*id).leads_now())
    });
    cluster.try_propose(new, "by the new leader").unwrap();
    assert!(!cluster.node(old).leads_now());
    for link in cluster.links.values() {
        link.heal();
    }
    let last = cluster.propose("mended");
    cluster.settle(last.index);
}

/// The learner hears heartbeats, so it counts as alive, but it has nothing of the log. Were it a voter, the cluster
/// could not do without any other.
#[test]
fn a_learner_that_gets_no_entries_does_not_vote() {
    let mut cluster = Cluster::with_links(3);
    let leader = cluster.leader();
    let victim = cluster.followers()[0];
    let addr = cluster.start_to_join(4);
    for id in [1, 2, 3] {
        cluster.links[&4].cut(id, Cut::Entries);
    }
    let node = cluster.node(leader).clone();
    cluster
        .block_on(leader, node.add(4, addr.parse().unwrap()))
        .unwrap();
    let status = |id: u64| {
        let nodes = node.status().nodes;
        nodes.into_iter().find(|one| one.id == id).unwrap()
    };
    // The leader checks the learner at every heartbeat. It misses the dead node only after many such checks.
    cluster.kill(victim);
    eventually("the leader misses the dead one", || {
        assert_eq!(status(4).role, PeerRole::Learner);
        (status(victim).state == PeerState::Unreachable).then_some(())
    });
    let last = cluster.try_propose(leader, "by two of three").unwrap();
    assert_eq!(status(4).role, PeerRole::Learner);

    cluster.links[&4].heal();
    eventually("it catches up and is promoted", || {
        (status(4).role == PeerRole::Voter).then_some(())
    });
    cluster.settle(last.index);
    assert_eq!(cluster.running[&4].commands(), ["by two of three"]);
}
