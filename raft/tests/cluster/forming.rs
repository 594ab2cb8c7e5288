//! How clusters come about.

use crate::harness::Cluster;

#[test]
fn three_nodes_form_a_cluster_in_any_start_order() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
        let mut cluster = Cluster::prepare(3, |_| {});
        for (position, id) in order.into_iter().enumerate() {
            cluster.start(id);
            if position < 2 {
                // Two of three are a quorum, and yet not enough to found a cluster.
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
fn one_node_is_a_cluster_too() {
    let cluster = Cluster::of(1);
    assert_eq!(cluster.propose("only").reply, 0);
    assert!(cluster.block_on(1, cluster.node(1).read_barrier()).is_ok());
}
