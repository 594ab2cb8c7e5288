//! Divergence: nodes that arrived at different states from the same log.

use triarch_raft::Checkpoint;
use triarch_storage::StorageError;

use crate::harness::{Cluster, eventually, start};
use triarch_raft::StartError;

fn record_digest(cluster: &Cluster, id: u64, index: u64, digest: u64) {
    cluster.node(id).record_digest(Checkpoint {
        index,
        format: 1,
        digest,
    });
}

#[test]
fn a_node_that_differs_from_the_majority_stops_for_good() {
    let mut cluster = Cluster::of(3);
    let index = cluster.propose("something").index;
    cluster.settle(index);
    for id in 1..=3 {
        record_digest(&cluster, id, index, 7);
    }
    for id in 1..=3 {
        eventually("all agree", || {
            let consistency = cluster.node(id).consistency();
            (consistency.verified_index == index).then_some(())
        });
        assert_eq!(cluster.node(id).consistency().mismatches, 0);
    }

    // The same holds for the leader itself.
    let index = cluster.propose("more").index;
    cluster.settle(index);
    let wrong = cluster.leader();
    for id in 1..=3 {
        record_digest(&cluster, id, index, if id == wrong { 8 } else { 9 });
    }
    let fatal_error = cluster.node(wrong).fatal_error();
    let said = eventually("the node that is wrong stops", || {
        fatal_error.borrow().clone()
    });
    assert!(
        said.contains("differed from that of the majority"),
        "{said}"
    );
    for id in (1..=3).filter(|id| *id != wrong) {
        eventually("the others go on, and know", || {
            let consistency = cluster.node(id).consistency();
            (consistency.verified_index == index && consistency.mismatches == 1).then_some(())
        });
        assert_eq!(*cluster.node(id).fatal_error().borrow(), None);
    }

    // It does not start again from its data.
    cluster.kill(wrong);
    match start(cluster.config(wrong)) {
        Err(StartError::Storage(StorageError::Damaged { what, .. })) => {
            assert!(what.contains("table differed"), "{what}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
    let last = cluster.propose("without it").index;
    for id in (1..=3).filter(|id| *id != wrong) {
        eventually("the others go on", || {
            (cluster.node(id).applied_index() >= last).then_some(())
        });
    }
}

#[test]
fn no_node_stops_where_no_digest_has_a_majority() {
    let cluster = Cluster::of(3);
    let index = cluster.propose("something").index;
    cluster.settle(index);
    for id in 1..=3 {
        record_digest(&cluster, id, index, id);
    }
    for id in 1..=3 {
        eventually("everyone knows", || {
            (cluster.node(id).consistency().mismatches == 1).then_some(())
        });
        assert_eq!(*cluster.node(id).fatal_error().borrow(), None);
    }
    cluster.propose("they go on");
}
