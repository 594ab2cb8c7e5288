//! Tests of proposals, reads and leadership.

use std::time::Duration;

use bytes::Bytes;
use triarch_raft::{
    ChangeError, Leadership, PiggybackedCommand, ProposeError, ProposeOptions, ReadError,
    TransferReason,
};

use crate::harness::{Cluster, eventually};

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
fn a_piggybacked_command_is_the_last_of_an_entry_that_allows_one() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader();
    let node = cluster.node(leader).clone();
    let term = node.status().term;
    let (dispatches, dispatched) = std::sync::mpsc::channel();
    node.set_piggyback_dispatcher(Box::new(move |in_term| {
        let (outcome, outcome_rx) = tokio::sync::oneshot::channel();
        let _ = dispatches.send((in_term, outcome_rx));
        Some(PiggybackedCommand {
            command: Bytes::from("piggybacked"),
            outcome,
        })
    }));
    cluster.propose("alone");
    assert!(dispatched.try_recv().is_err());
    let options = ProposeOptions {
        allow_piggyback: true,
        ..ProposeOptions::default()
    };
    let allowing = node.propose(Bytes::from("allowing"), options);
    let committed = cluster.block_on(leader, allowing).unwrap();
    let (in_term, outcome_rx) = dispatched.try_recv().unwrap();
    assert_eq!(in_term, term);
    let piggybacked = cluster.block_on(leader, outcome_rx).unwrap().unwrap();
    assert_eq!(piggybacked.index, committed.index);
    assert_eq!(piggybacked.reply, committed.reply + 1);
    cluster.settle(committed.index);
    for id in cluster.followers() {
        let commands = cluster.running[&id].commands();
        assert_eq!(commands, ["alone", "allowing", "piggybacked"]);
    }
}

#[test]
fn concurrent_proposals_share_entries_and_each_gets_its_own_reply() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader();
    let node = cluster.node(leader).clone();
    let committed = cluster.block_on(leader, async {
        let proposals = (0..500_u32).map(|n| {
            let node = node.clone();
            tokio::spawn(async move {
                (
                    n,
                    node.propose(Bytes::from(n.to_string()), ProposeOptions::default())
                        .await
                        .unwrap(),
                )
            })
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

fn in_term(term: u64) -> ProposeOptions {
    ProposeOptions {
        term: Some(term),
        ..ProposeOptions::default()
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
                node.propose(Bytes::from_static(b"mine"), in_term(term))
            )
            .is_ok()
    );
    for wrong in [term - 1, term + 1] {
        let refused = cluster.block_on(
            leader,
            node.propose(Bytes::from_static(b"stale"), in_term(wrong)),
        );
        assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
    }
    for id in cluster.followers() {
        let refused = cluster.block_on(
            id,
            cluster
                .node(id)
                .propose(Bytes::from_static(b"not me"), in_term(term)),
        );
        assert!(matches!(refused, Err(ProposeError::NotLeader { .. })));
    }
}

#[test]
fn leadership_is_transferred_on_request() {
    let cluster = Cluster::of(3);
    for _ in 0..3 {
        let leader = cluster.leader();
        let to = cluster.followers()[0];
        cluster
            .block_on(
                leader,
                cluster
                    .node(leader)
                    .transfer_leader(Some(to), TransferReason::Operator),
            )
            .unwrap();
        assert_eq!(cluster.leader(), to);
        cluster.propose("by the new one");
    }
    let leader = cluster.leader();
    cluster
        .block_on(
            leader,
            cluster
                .node(leader)
                .transfer_leader(None, TransferReason::Operator),
        )
        .unwrap();
    assert_ne!(cluster.leader(), leader);
    let unknown = cluster.leader();
    let refused = cluster.block_on(
        unknown,
        cluster
            .node(unknown)
            .transfer_leader(Some(9), TransferReason::Operator),
    );
    assert_eq!(refused, Err(ChangeError::UnknownNode(9)));
}

#[test]
fn a_leader_without_a_quorum_answers_neither_reads_nor_proposals() {
    let mut cluster = Cluster::with(3, |config| {
        config.limits.propose_timeout_ms = 1_000;
        config.limits.read_timeout_ms = 1_000;
    });
    let leader = cluster.leader();
    for id in cluster.followers() {
        cluster.kill(id);
    }
    let node = cluster.node(leader).clone();
    eventually("its lease runs out", || (!node.leads_now()).then_some(()));
    let read = cluster.block_on(leader, node.read_barrier());
    assert!(
        matches!(read, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })),
        "{read:?}"
    );
    // After the lease nothing is appended any more, so this outcome is certain.
    let proposed = cluster.try_propose(leader, "lost");
    assert_eq!(proposed, Err(ProposeError::NotLeader { leader: None }));
}

#[test]
fn a_proposal_caught_without_a_quorum_is_unknown() {
    let mut cluster = Cluster::with(3, |config| config.limits.propose_timeout_ms = 600);
    let leader = cluster.leader();
    for id in cluster.followers() {
        cluster.kill(id);
    }
    // Within the lease the command is appended, but never acknowledged by a quorum. If the lease ran out first, it is
    // refused.
    let proposed = cluster.try_propose(leader, "perhaps");
    assert!(
        matches!(
            proposed,
            Err(ProposeError::Unknown(_) | ProposeError::NotLeader { .. })
        ),
        "{proposed:?}"
    );
}

#[test]
fn reads_wait_for_what_was_acknowledged() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader();
    let node = cluster.node(leader).clone();
    cluster.block_on(leader, async {
        for n in 0..50_u32 {
            let committed = node
                .propose(Bytes::from(n.to_string()), ProposeOptions::default())
                .await
                .unwrap();
            let barriers = (0..8).map(|_| node.read_barrier());
            for valid_for in futures_util::future::join_all(barriers).await {
                assert!(valid_for.unwrap() >= committed.index);
            }
        }
    });
    let last = cluster.propose("last");
    for id in cluster.followers() {
        let node = cluster.node(id);
        let waited = cluster.block_on(id, node.wait_applied(last.index, Duration::from_secs(10)));
        assert!(waited.unwrap() >= last.index);
    }
}

#[test]
fn reads_wait_for_what_was_acknowledged_under_the_leader_before() {
    let mut cluster = Cluster::with(3, |config| config.limits.read_timeout_ms = 1_000);
    let first = cluster.propose("first");
    cluster.settle(first.index);
    let old = cluster.leader();
    let followers = cluster.followers();
    for id in &followers {
        cluster.running[id].toy.hold();
    }
    let last = cluster.propose("acknowledged");
    cluster.kill(old);
    let (new, read) = eventually("one of the others is elected and hears a quorum", || {
        let has_committed = |id: &&u64| cluster.node(**id).status().commit_index > last.index;
        let answers = followers.iter().filter(has_committed).map(|id| {
            let read = cluster.block_on(*id, cluster.node(*id).read_barrier());
            (*id, read)
        });
        let is_elected = |(_, read): &(u64, Result<u64, ReadError>)| {
            !matches!(read, Err(ReadError::NotLeader { .. }))
        };
        let mut answers = answers.filter(is_elected);
        answers.next()
    });
    // The new leader has the command and a quorum, but has not applied the command yet.
    assert_eq!(read, Err(ReadError::NoQuorum));
    assert_eq!(cluster.running[&new].commands(), ["first"]);

    for id in &followers {
        cluster.running[id].toy.release();
    }
    let read = eventually("it can be read", || {
        let reader = cluster.running.values().find(|r| r.node.leads_now())?;
        let id = reader.node.status().node_id;
        let valid_for = cluster.block_on(id, reader.node.read_barrier()).ok()?;
        Some((valid_for, reader.commands()))
    });
    assert!(read.0 > last.index, "{read:?}");
    assert_eq!(read.1, ["first", "acknowledged"]);
}

#[test]
fn an_entry_that_cannot_be_applied_stops_the_nodes_that_meet_it() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader();
    cluster.propose("fine");
    let poisoned = cluster.try_propose(leader, "poison");
    assert!(
        matches!(
            poisoned,
            Err(ProposeError::StorageFailed(_) | ProposeError::Unknown(_))
        ),
        "{poisoned:?}"
    );
    // Every node that knows the entry to be committed fails alike. At least the next leader does.
    eventually("two say so", || {
        let texts: Vec<String> = cluster
            .running
            .values()
            .filter_map(|r| r.node.status().failed)
            .collect();
        assert!(
            texts.iter().all(|text| text.contains("cannot be applied")),
            "{texts:?}"
        );
        (texts.len() >= 2).then_some(())
    });
    eventually("nobody leads", || {
        let mut nodes = cluster.running.values();
        nodes.all(|r| !r.node.leads_now()).then_some(())
    });
}

#[test]
fn proposals_beyond_the_bounds_are_refused_and_none_is_lost() {
    let cluster = Cluster::with(3, |config| {
        config.limits.queue_commands_max = 4;
        config.limits.command_bytes_max = 1_000;
    });
    let leader = cluster.leader();
    let node = cluster.node(leader).clone();
    let large = cluster.try_propose(leader, vec![0; 1_001]);
    assert_eq!(
        large,
        Err(ProposeError::TooLarge {
            bytes: 1_001,
            bytes_max: 1_000
        })
    );
    let outcomes = cluster.block_on(leader, async {
        let all = (0..200_u32)
            .map(|n| node.propose(Bytes::from(n.to_string()), ProposeOptions::default()));
        futures_util::future::join_all(all).await
    });
    let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(
        outcomes
            .iter()
            .all(|o| matches!(o, Ok(_) | Err(ProposeError::Overloaded)))
    );
    assert!(done >= 4, "{done}");
    assert_eq!(cluster.running[&leader].commands().len(), done);
}
