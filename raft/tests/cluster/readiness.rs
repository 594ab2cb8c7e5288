//! Readiness: a node is ready when it has what its leader had committed, and a leader while a majority answers it.

use triarch_raft::Readiness;

use crate::harness::{Cluster, eventually};
use crate::links::Cut;

fn behind(cluster: &Cluster, id: u64) -> Option<u64> {
    match cluster.node(id).readiness() {
        Readiness::CatchingUp { behind } => behind,
        Readiness::Ready { .. }
        | Readiness::NoLeader
        | Readiness::NoMajority { .. }
        | Readiness::ProposalsWaiting { .. } => None,
    }
}

#[test]
fn a_follower_that_starts_behind_is_not_ready_before_the_entries_have_come() {
    let mut cluster = Cluster::with_links(3);
    let leader = cluster.leader();
    let late = cluster.followers()[0];
    cluster.stop(late);
    for number in 0..50 {
        cluster.try_propose(leader, format!("{number}")).unwrap();
    }
    // It hears heartbeats, and so knows its leader, but gets no entries.
    for sender in (1..=3).filter(|id| *id != late) {
        cluster.links[&late].cut(sender, Cut::Entries);
    }
    cluster.start(late);
    eventually("it knows how much it lacks", || {
        assert!(!matches!(
            cluster.node(late).readiness(),
            Readiness::Ready { .. }
        ));
        behind(&cluster, late).filter(|behind| *behind >= 50)
    });
    cluster.links[&late].heal();
    let ready = eventually("it is ready", || {
        let readiness = cluster.node(late).readiness();
        matches!(readiness, Readiness::Ready { .. }).then_some(readiness)
    });
    assert!(cluster.running[&late].commands().len() >= 50);
    assert_eq!(
        ready,
        Readiness::Ready {
            leader: cluster.leader()
        }
    );
}

#[test]
fn a_follower_that_gets_heartbeats_and_no_entries_stops_being_ready() {
    let cluster = Cluster::with_links(3);
    let leader = cluster.leader();
    let starved = cluster.followers()[0];
    eventually("it is ready", || {
        let readiness = cluster.node(starved).readiness();
        matches!(readiness, Readiness::Ready { .. }).then_some(())
    });
    cluster.links[&starved].cut(leader, Cut::Entries);
    for number in 0..20 {
        cluster.try_propose(leader, format!("{number}")).unwrap();
    }
    eventually("it says what it lacks", || {
        behind(&cluster, starved).filter(|behind| *behind > 0)
    });
    cluster.links[&starved].heal();
    eventually("it is ready again", || {
        let readiness = cluster.node(starved).readiness();
        matches!(readiness, Readiness::Ready { .. }).then_some(())
    });
}

#[test]
fn a_leader_that_no_majority_answers_is_not_ready_and_does_not_name_itself() {
    let cluster = Cluster::with_links(3);
    let leader = cluster.leader();
    for id in cluster.followers() {
        for link in cluster.links.values() {
            link.cut(id, Cut::Requests);
        }
        cluster.links[&id].cut(leader, Cut::Answers);
    }
    eventually("it knows that nobody answers", || {
        matches!(
            cluster.node(leader).readiness(),
            Readiness::NoMajority { .. }
        )
        .then_some(())
    });
    eventually("it names no leader", || {
        cluster.node(leader).status().leader.is_none().then_some(())
    });
    for link in cluster.links.values() {
        link.heal();
    }
    let last = cluster.propose("mended");
    cluster.settle(last.index);
}
