//! Tests of bootstrap and of the nodes that must be kept out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use triarch_raft::{BootstrapMode, NodeConfig, PeerRole, StartError};

use crate::harness::{Cluster, eventually, free_port, start};

#[test]
fn three_nodes_form_a_cluster_in_any_start_order() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
        let mut cluster = Cluster::prepare(3, |_| {});
        for (position, id) in order.into_iter().enumerate() {
            cluster.start(id);
            if position < 2 {
                // Two of three are a quorum, but not enough to found a cluster.
                assert_eq!(cluster.node(id).status().cluster_id, None);
            }
        }
        let leader = cluster.leader();
        let ids: Vec<_> = cluster
            .running
            .values()
            .map(|r| r.node.status().cluster_id.unwrap())
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        let committed = cluster.propose("first");
        assert_eq!(committed.reply, 0);
        cluster.settle(committed.index);
        assert_eq!(cluster.node(leader).status().nodes.len(), 3);
    }
}

#[test]
fn a_single_node_cluster_restarts() {
    let mut cluster = Cluster::of(1);
    assert_eq!(cluster.propose("only").reply, 0);
    assert!(cluster.block_on(1, cluster.node(1).read_barrier()).is_ok());
    cluster.stop(1);
    cluster.start(1);
    assert_eq!(cluster.leader(), 1);
    eventually("its state is back", || {
        (cluster.running[&1].commands() == ["only"]).then_some(())
    });
}

#[test]
fn a_cluster_stopped_at_once_restarts_with_all_commands() {
    let mut cluster = Cluster::of(3);
    for number in 0..10 {
        cluster.propose(&number.to_string());
    }
    let cluster_id = cluster.node(1).status().cluster_id;
    for id in [1, 2, 3] {
        cluster.kill(id);
    }
    for id in [3, 1, 2] {
        cluster.start(id);
    }
    cluster.leader();
    let last = cluster.propose("10");
    cluster.settle(last.index);
    for running in cluster.running.values() {
        let expected: Vec<String> = (0..=10).map(|n| n.to_string()).collect();
        assert_eq!(running.commands(), expected);
        assert_eq!(running.node.status().cluster_id, cluster_id);
    }
}

#[test]
fn a_formed_node_starts_without_its_peers() {
    let mut cluster = Cluster::of(3);
    let last = cluster.propose("before");
    cluster.settle(last.index);
    for id in [1, 2, 3] {
        cluster.stop(id);
    }
    let begun = Instant::now();
    cluster.start(2);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(cluster.running[&2].commands(), ["before"]);
    assert!(!cluster.node(2).leads_now());
}

#[test]
fn a_wiped_directory_under_a_known_id_takes_no_part() {
    let mut cluster = Cluster::of(3);
    cluster.propose("before");
    let victim = cluster.followers()[0];
    cluster.stop(victim);
    std::fs::remove_dir_all(cluster.dir(victim)).unwrap();
    let Err(StartError::Foreign(text)) = start(cluster.config(victim)) else {
        panic!("a wiped node must not start beside the cluster that knows it")
    };
    assert!(
        text.contains("another data directory") && text.contains("--join"),
        "{text}"
    );

    // It also fails when it comes up before the others.
    let others: Vec<u64> = cluster.running.keys().copied().collect();
    for id in &others {
        cluster.stop(*id);
    }
    std::fs::remove_dir_all(cluster.dir(victim)).unwrap();
    cluster.start(victim);
    cluster.start(others[0]);
    let fatal_error = cluster.node(victim).fatal_error();
    eventually("it notices", || {
        fatal_error
            .borrow()
            .as_ref()
            .map(|text| assert!(text.contains("another data directory")))
    });
    assert!(cluster.node(victim).status().failed.is_some());
    // One voter of three has its memory and one does not, so no node may lead.
    assert!(!cluster.node(others[0]).leads_now());
    cluster.start(others[1]);
    cluster.running.remove(&victim);
    cluster.leader();
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let mut one = Cluster::of(3);
    let mut other = Cluster::of(3);
    one.propose("one");
    other.propose("other");
    let mine = one.followers()[0];
    one.stop(mine);
    // The whole other cluster stops, because a running node of it would take its fellow back in, wherever it is
    // started.
    for id in [1, 2, 3] {
        other.stop(id);
    }
    std::fs::remove_dir_all(one.dir(mine)).unwrap();
    std::fs::rename(other.dir(mine), one.dir(mine)).unwrap();
    let Err(StartError::Foreign(text)) = start(one.config(mine)) else {
        panic!("a directory of another cluster must not start beside this one")
    };
    assert!(text.contains("belongs to cluster"), "{text}");

    // Without a reachable peer it starts. The others then refuse its messages, and it refuses theirs.
    let rest: Vec<u64> = one.running.keys().copied().collect();
    for id in &rest {
        one.stop(*id);
    }
    one.start(mine);
    for id in &rest {
        one.start(*id);
    }
    let last = one.propose("two");
    eventually("the rest go on", || {
        rest.iter()
            .all(|id| one.node(*id).applied_index() >= last.index)
            .then_some(())
    });
    assert!(!one.node(mine).leads_now());
    assert!(
        one.running[&mine]
            .commands()
            .iter()
            .all(|command| command != "two")
    );
}

#[test]
fn nodes_with_different_lists_do_not_found_a_cluster() {
    let cluster = Cluster::prepare(3, |_| {});
    let mut lists = [cluster.config(1), cluster.config(2), cluster.config(3)];
    if let BootstrapMode::Static(members) = &mut lists[2].bootstrap {
        members.remove(&2);
    }
    let nodes: Vec<_> = lists
        .into_iter()
        .map(|config| start(config).unwrap())
        .collect();
    std::thread::sleep(Duration::from_millis(1_500));
    for running in &nodes {
        assert_eq!(running.node.status().cluster_id, None);
    }
}

#[test]
fn a_node_joins_is_promoted_and_leaves() {
    let mut cluster = Cluster::of(3);
    cluster.propose("before");
    let addr = format!("127.0.0.1:{}", free_port());
    let join = BootstrapMode::Join(cluster.founding.values().cloned().collect());
    let config = NodeConfig::new(4, addr.clone(), cluster.dir(4), join.clone());
    cluster.running.insert(4, start(config.clone()).unwrap());
    assert_eq!(cluster.node(4).status().cluster_id, None);

    let leader = eventually("a leader", || {
        cluster
            .running
            .iter()
            .find(|(_, r)| r.node.leads_now())
            .map(|(id, _)| *id)
    });
    let node = cluster.node(leader).clone();
    cluster
        .block_on(leader, node.add(4, addr.parse().unwrap()))
        .unwrap();
    cluster
        .block_on(leader, node.add(4, addr.parse().unwrap()))
        .expect("adding it again is fine");
    let role = |id: u64| {
        node.status()
            .nodes
            .iter()
            .find(|n| n.id == id)
            .map(|n| n.role)
    };
    eventually("it is promoted", || {
        (role(4) == Some(PeerRole::Voter)).then_some(())
    });
    let last = cluster.propose("four");
    cluster.settle(last.index);
    assert_eq!(cluster.running[&4].commands(), ["before", "four"]);

    // It comes back on its own, whatever its start options are.
    cluster.kill(4);
    cluster.running.insert(4, start(config).unwrap());
    let last = cluster.propose("back");
    cluster.settle(last.index);

    cluster.block_on(leader, node.remove(4)).unwrap();
    assert_eq!(role(4), None);
    let again = cluster.block_on(leader, node.remove(4));
    assert_eq!(again, Ok(()), "it is out");
    let unknown = cluster.block_on(leader, node.remove(7));
    assert_eq!(unknown, Err(triarch_raft::ChangeError::UnknownNode(7)));
    let used = cluster
        .block_on(leader, node.add(4, addr.parse().unwrap()))
        .unwrap_err();
    assert!(used.to_string().contains("--id 5"), "{used}");
    let _: BTreeMap<u64, String> = cluster.founding.clone();
}
