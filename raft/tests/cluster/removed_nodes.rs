//! Nodes that were removed or left behind: the first learn it and end, the second follow again.

use triarch_raft::{PeerRole, StartError};

use crate::harness::{Cluster, eventually, start};

#[test]
fn a_removed_node_learns_it_and_does_not_start_again() {
    let mut cluster = Cluster::of(3);
    cluster.propose("before");
    let leader = cluster.leader();
    let removed = cluster.followers()[0];
    let signal = cluster.node(removed).removal();
    let node = cluster.node(leader).clone();
    eventually("it is removed", || {
        cluster.block_on(leader, node.remove(removed)).ok()
    });
    let removal = eventually("it learns that", || signal.borrow().clone());
    assert_eq!(removal.node_id, removed);
    assert!(removal.index > 0 && removal.index <= node.status().commit_index);
    assert!(cluster.node(removed).exclusion().is_some());
    cluster.stop(removed);
    let Err(StartError::Foreign(text)) = start(cluster.config(removed)) else {
        panic!("a removed node must not start again")
    };
    assert!(text.contains("was removed from the cluster"), "{text}");
    cluster.propose("after");
}

#[test]
fn a_node_that_is_removed_while_it_is_down_learns_it_at_its_start() {
    let mut cluster = Cluster::of(3);
    cluster.propose("before");
    let leader = cluster.leader();
    let removed = cluster.followers()[0];
    cluster.stop(removed);
    let node = cluster.node(leader).clone();
    eventually("it is removed", || {
        cluster.block_on(leader, node.remove(removed)).ok()
    });
    let Err(StartError::Foreign(text)) = start(cluster.config(removed)) else {
        panic!("a removed node must not start again")
    };
    assert!(text.contains("was removed from the cluster"), "{text}");

    // Without an answer at its start, it learns it from the first that comes back.
    for id in cluster.running.keys().copied().collect::<Vec<_>>() {
        cluster.stop(id);
    }
    cluster.start(removed);
    assert_eq!(cluster.node(removed).exclusion(), None);
    cluster.start(leader);
    let signal = cluster.node(removed).removal();
    eventually("it learns it", || signal.borrow().clone());
}

#[test]
fn a_node_that_was_down_while_all_others_were_replaced_follows_again() {
    let mut cluster = Cluster::of(3);
    cluster.propose("before");
    let away = cluster.followers()[0];
    cluster.stop(away);
    let founders: Vec<u64> = cluster.running.keys().copied().collect();
    for (new, old) in [(4, founders[0]), (5, founders[1])] {
        let addr = cluster.start_to_join(new);
        let add = |cluster: &Cluster| {
            let leader = current_leader(cluster);
            let node = cluster.node(leader).clone();
            let added = cluster.block_on(leader, node.add(new, addr.parse().unwrap()));
            added.ok()
        };
        eventually("it is added", || add(&cluster));
        eventually("it is promoted", || {
            let status = cluster.node(current_leader(&cluster)).status();
            let node = status.nodes.iter().find(|node| node.id == new)?;
            (node.role == PeerRole::Voter).then_some(())
        });
        eventually("the old one is removed", || {
            let leader = current_leader(&cluster);
            let node = cluster.node(leader).clone();
            cluster.block_on(leader, node.remove(old)).ok()
        });
        cluster.stop(old);
    }
    cluster.start(away);
    let last = cluster.propose("after");
    cluster.settle(last.index);
    assert_eq!(cluster.running[&away].commands(), ["before", "after"]);
}

fn current_leader(cluster: &Cluster) -> u64 {
    eventually("a leader", || {
        let mut running = cluster.running.iter();
        running.find(|(_, r)| r.node.leads_now()).map(|(id, _)| *id)
    })
}
