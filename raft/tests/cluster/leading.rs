//! Proposals, reads and leadership.

use bytes::Bytes;
use triarch_raft::{Leadership, ProposeError, ReadError};

use crate::harness::Cluster;

#[test]
fn a_follower_names_the_leader() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader();
    let hint = Some((leader, cluster.founding[&leader].clone()));
    for id in cluster.followers() {
        assert_eq!(
            cluster.try_propose(id, "x"),
            Err(ProposeError::NotLeader {
                leader: hint.clone()
            })
        );
        let read = cluster.block_on(id, cluster.node(id).read_barrier());
        assert_eq!(
            read,
            Err(ReadError::NotLeader {
                leader: hint.clone()
            })
        );
        assert!(!cluster.node(id).leads_now());
    }
}

#[test]
fn nothing_acknowledged_is_lost_with_the_leader() {
    let mut cluster = Cluster::of(3);
    for number in 0..20 {
        cluster.propose(&format!("before {number}"));
    }
    let old = cluster.leader();
    let old_term = cluster.node(old).status().term;
    cluster.kill(old);
    let new = cluster.leader();
    assert!(cluster.node(new).status().term > old_term);
    let last = cluster.propose("after");
    cluster.settle(last.index);
    let commands = cluster.running[&new].commands();
    assert_eq!(commands.len(), 21);
    assert_eq!(commands[20], "after");
}

#[test]
fn concurrent_proposals_share_entries_and_each_gets_its_own_reply() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader();
    let node = cluster.node(leader).clone();
    let committed = cluster.block_on(leader, async {
        let proposals = (0..500_u32).map(|n| {
            let node = node.clone();
            tokio::spawn(
                async move { (n, node.propose(Bytes::from(n.to_string())).await.unwrap()) },
            )
        });
        let mut committed = Vec::new();
        for proposal in proposals.collect::<Vec<_>>() {
            committed.push(proposal.await.unwrap());
        }
        committed
    });
    let entries: std::collections::BTreeSet<u64> = committed.iter().map(|(_, c)| c.index).collect();
    assert!(
        entries.len() < 250,
        "{} entries for 500 proposals",
        entries.len()
    );
    let state = cluster.running[&leader].toy.state.lock();
    for (n, c) in committed {
        assert_eq!(state[c.reply], (c.index, Bytes::from(n.to_string())));
    }
}

#[test]
fn the_leaders_own_commands_are_fenced_by_its_term() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader();
    let node = cluster.node(leader);
    let Leadership::Leading { term, .. } = *node.leadership().borrow() else {
        panic!("{leader} leads")
    };
    assert!(
        cluster
            .block_on(
                leader,
                node.propose_in_term(term, Bytes::from_static(b"mine"))
            )
            .is_ok()
    );
    for wrong in [term - 1, term + 1] {
        let refused = cluster.block_on(
            leader,
            node.propose_in_term(wrong, Bytes::from_static(b"stale")),
        );
        assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
    }
    for id in cluster.followers() {
        let refused = cluster.block_on(
            id,
            cluster
                .node(id)
                .propose_in_term(term, Bytes::from_static(b"not me")),
        );
        assert!(matches!(refused, Err(ProposeError::NotLeader { .. })));
    }
}
