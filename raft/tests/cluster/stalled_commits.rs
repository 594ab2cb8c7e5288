//! Stalled commits: a leader whose heartbeats pass and whose appends do not hands leadership over, if another node
//! could commit.

use std::time::{Duration, Instant};

use triarch_raft::{LeaderChangeKind, Readiness};

use crate::harness::{Cluster, eventually};
use crate::links::Cut;

/// Longer than an idle connection is kept without a probe. The time itself is under test: there is nothing to wait for.
const REST: Duration = Duration::from_millis(1_500);
/// Longer than a leader with a stalled commit index would keep leadership, were there a node to take it. During this time
/// nothing may happen, so the test watches it to the end.
const CALM: Duration = Duration::from_secs(4);

fn cut_all(cluster: &Cluster, sender: u64, cut: Cut) {
    for (id, link) in &cluster.links {
        if *id != sender {
            link.cut(sender, cut);
        }
    }
}

fn heal(cluster: &Cluster) {
    for link in cluster.links.values() {
        link.heal();
    }
}

/// Proposes in the background. The outcome does not matter.
fn propose_in_background(cluster: &Cluster, id: u64, command: Vec<u8>) {
    let node = cluster.node(id).clone();
    cluster.spawn(id, async move {
        let _ = node.propose(command.into(), Default::default()).await;
    });
}

#[test]
fn entries_are_appended_after_a_rest_although_new_connections_are_refused() {
    let cluster = Cluster::with_links(3);
    let leader = cluster.leader();
    cluster.propose("before");
    let term = cluster.node(leader).status().term;
    std::thread::sleep(REST);
    for sender in 1..=3 {
        cut_all(&cluster, sender, Cut::NewConnections);
    }
    for number in 0..5 {
        cluster.try_propose(leader, format!("{number}")).unwrap();
    }
    assert_eq!(cluster.node(leader).status().term, term);
}

#[test]
fn a_leader_whose_large_messages_are_lost_hands_over_to_a_node_whose_own_pass() {
    let cluster = Cluster::with_links(3);
    let old = cluster.leader();
    cut_all(&cluster, old, Cut::Large);
    propose_in_background(&cluster, old, vec![7; 8_000]);
    let new = eventually("another node leads", || {
        let mut others = cluster.running.iter().filter(|(id, _)| **id != old);
        others
            .find(|(_, running)| running.node.leads_now())
            .map(|(id, _)| *id)
    });
    cluster.try_propose(new, vec![8; 8_000]).unwrap();
    let metrics = cluster.node(old).metrics();
    assert_eq!(metrics.abdications(), 1);
    eventually("the new leader knows why it leads", || {
        let changes = cluster.node(new).metrics();
        (changes.leader_changes(LeaderChangeKind::CommitsStalled) == 1).then_some(())
    });
    heal(&cluster);
    let last = cluster.propose("mended");
    cluster.settle(last.index);
}

#[test]
fn leadership_stays_where_no_other_node_could_commit_either() {
    let cluster = Cluster::with_links(3);
    let leader = cluster.leader();
    let term = cluster.node(leader).status().term;
    for sender in 1..=3 {
        cut_all(&cluster, sender, Cut::Large);
    }
    propose_in_background(&cluster, leader, vec![7; 8_000]);
    eventually("the leader says that proposals wait", || {
        matches!(
            cluster.node(leader).readiness(),
            Readiness::ProposalsWaiting { .. }
        )
        .then_some(())
    });
    let metrics = cluster.node(leader).metrics();
    assert!(metrics.oldest_proposal_age() > Duration::ZERO);
    let end = Instant::now() + CALM;
    while Instant::now() < end {
        assert_eq!(cluster.node(leader).status().term, term);
        std::thread::sleep(Duration::from_millis(50));
    }
    heal(&cluster);
    let last = cluster.propose("mended");
    cluster.settle(last.index);
    assert_eq!(cluster.node(leader).status().term, term);
    assert_eq!(metrics.abdications(), 0);
    eventually("the leader is ready and says that nothing waits", || {
        let ready = cluster.node(leader).readiness() == Readiness::Ready { leader };
        (ready && metrics.oldest_proposal_age() == Duration::ZERO).then_some(())
    });
}

#[test]
fn a_leader_whose_successor_cannot_be_elected_leads_again() {
    let mut cluster = Cluster::with_links(3);
    let leader = cluster.leader();
    let [gone, successor] = cluster.followers()[..] else {
        panic!("two followers");
    };
    cluster.stop(gone);
    let term = cluster.node(leader).status().term;
    // Its log grows beyond the successor's, so it refuses to vote for it.
    cluster.links[&successor].cut(leader, Cut::Entries);
    propose_in_background(&cluster, leader, b"kept".to_vec());
    let campaigns = cluster.node(leader).metrics().campaigns();
    eventually("it has tried to hand over", || {
        (cluster.node(leader).metrics().abdications() > 0).then_some(())
    });
    eventually("it campaigns, because nobody took over", || {
        (cluster.node(leader).metrics().campaigns() > campaigns).then_some(())
    });
    assert!(cluster.node(leader).status().term > term);
    heal(&cluster);
    cluster.propose("mended");
    let commands = cluster.running[&leader].commands();
    assert!(commands.iter().any(|command| &command[..] == b"kept"));
}
