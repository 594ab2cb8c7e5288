//! Metrics of consensus on this node, and of its log on disk.

use triarch_raft::{LeaderChangeKind, PeerRole, PeerState, ProposalRefusal, Readiness};

use super::families::{Labels, MetricFamilies, Scale};
use crate::server::app::App;

pub fn collect(app: &App, out: &mut MetricFamilies) {
    let status = app.node.status();
    let measures = app.node.metrics();
    out.gauges(
        "triarch_build_info",
        "Always 1; the labels identify the node and its version.",
        vec![(
            vec![
                ("node", app.node_id.to_string()),
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ],
            1.0,
        )],
    );
    out.gauge(
        "triarch_term",
        "Latest Raft term known to this node.",
        status.term as f64,
    );
    out.gauge(
        "triarch_cluster_level",
        "Level of the cluster's formats, as applied here. It rises with triarch cluster upgrade.",
        f64::from(status.level.number()),
    );
    let leads = app.node.leads_now();
    out.gauge(
        "triarch_is_leader",
        "1 if this node leads and a majority has confirmed it within the lease.",
        f64::from(u8::from(leads)),
    );
    let ready = matches!(app.node.readiness(), Readiness::Ready { .. });
    out.gauge(
        "triarch_ready",
        "1 if this node is ready, as /readyz says.",
        f64::from(u8::from(ready && !app.shutdown.is_cancelled())),
    );
    out.gauge(
        "triarch_leader_id",
        "Id of the leader known to this node; 0 if none is known.",
        status.leader.unwrap_or(0) as f64,
    );
    let role = |role| {
        let nodes = status.nodes.iter().filter(|node| node.role == role);
        nodes.count() as f64
    };
    out.gauges(
        "triarch_members",
        "Nodes of the cluster known to this node, by role.",
        vec![
            (vec![("role", "voter".to_owned())], role(PeerRole::Voter)),
            (
                vec![("role", "learner".to_owned())],
                role(PeerRole::Learner),
            ),
        ],
    );
    for (name, help, index) in [
        (
            "triarch_last_log_index",
            "Index of the last entry in this node's log.",
            status.last_log_index,
        ),
        (
            "triarch_commit_index",
            "Index of the last entry known to this node to be committed.",
            status.commit_index,
        ),
        (
            "triarch_applied_index",
            "Index of the last entry applied to this node's table.",
            status.applied_index,
        ),
        (
            "triarch_snapshot_index",
            "Index of the last entry in this node's last snapshot.",
            status.snapshot_index,
        ),
    ] {
        out.gauge(name, help, index as f64);
    }
    // Only a leader has contact with the others.
    let peers = || {
        let others = status.nodes.iter().filter(|node| node.id != app.node_id);
        others.filter(|_| leads)
    };
    let peer = |id: u64| -> Labels { vec![("peer", id.to_string())] };
    out.gauges(
        "triarch_peer_lag_entries",
        "On the leader: number of entries of its log that are not known to be on the other node's disk.",
        peers()
            .map(|node| {
                let matched = node.matched.unwrap_or(0);
                (
                    peer(node.id),
                    status.last_log_index.saturating_sub(matched) as f64,
                )
            })
            .collect(),
    );
    out.gauges(
        "triarch_peer_reachable",
        "On the leader: 1 if the other node has answered within the lease.",
        peers()
            .map(|node| {
                let reachable = node.state != PeerState::Unreachable;
                (peer(node.id), f64::from(u8::from(reachable)))
            })
            .collect(),
    );
    let acked = status
        .quorum_ack_age_ms
        .map(|ms| (Labels::new(), ms as f64 / 1e3));
    out.gauges(
        "triarch_quorum_ack_age_seconds",
        "On the leader: time since a majority last confirmed its leadership.",
        acked.into_iter().collect(),
    );
    out.counter(
        "triarch_campaigns",
        "Number of terms in which this node asked for votes.",
        measures.campaigns() as f64,
    );
    out.counters(
        "triarch_leader_changes",
        "Changes of leadership that this node has observed, by cause. Every node observes each of them.",
        LeaderChangeKind::ALL
            .into_iter()
            .map(|cause| {
                let labels = vec![("cause", cause.as_str().to_owned())];
                (labels, measures.leader_changes(cause) as f64)
            })
            .collect(),
    );
    out.counter(
        "triarch_leaderless_seconds",
        "Total time without a leader known to this node, including the present time.",
        measures.leaderless().as_secs_f64(),
    );
    out.gauge(
        "triarch_raft_oldest_proposal_age_seconds",
        "On the leader: for how long entries have waited while the commit index did not advance; 0 while none waits.",
        measures.oldest_proposal_age().as_secs_f64(),
    );
    out.counter(
        "triarch_raft_abdications",
        "How often this node handed leadership over because it could not commit, or its disk did not finish a sync.",
        measures.abdications() as f64,
    );
    out.gauge(
        "triarch_log_unfinished_sync_seconds",
        "Age of the oldest unfinished sync of this node's log; 0 while there is none.",
        measures
            .log
            .unfinished_sync()
            .map_or(0.0, |age| age.as_secs_f64()),
    );
    out.gauge(
        "triarch_proposals_open",
        "Proposals to this node that wait or are in flight.",
        measures.proposals_open() as f64,
    );
    out.counters(
        "triarch_proposals_refused",
        "Proposals to this node that failed, or whose outcome is unknown, by reason.",
        ProposalRefusal::ALL
            .into_iter()
            .map(|why| {
                let labels = vec![("reason", why.as_str().to_owned())];
                (labels, measures.refusals(why) as f64)
            })
            .collect(),
    );
    out.counter(
        "triarch_duplicate_node_messages",
        "Messages refused because another process answers at the address of the node that they name: a copy of its data directory runs.",
        app.node.duplicate_messages() as f64,
    );
    for (name, help, scale, histogram) in [
        (
            "triarch_entry_commands",
            "Number of commands in each entry that this node proposed.",
            Scale::Plain,
            &measures.entry_commands,
        ),
        (
            "triarch_entry_bytes",
            "Size in bytes of each entry that this node proposed.",
            Scale::Plain,
            &measures.entry_bytes,
        ),
        (
            "triarch_proposal_wait_seconds",
            "Time from the proposal of a command until its entry was sent.",
            Scale::Time,
            &measures.proposal_wait,
        ),
        (
            "triarch_apply_seconds",
            "Time to apply each entry with commands to this node's table.",
            Scale::Time,
            &measures.apply,
        ),
        (
            "triarch_commit_seconds",
            "Time from an entry's proposal until it was committed and applied on this node.",
            Scale::Time,
            &measures.commit,
        ),
        (
            "triarch_log_append_seconds",
            "Time from an append to this node's log until it was durable: the wait for the sync before it, and its own.",
            Scale::Time,
            &measures.log.append,
        ),
        (
            "triarch_log_sync_seconds",
            "Time of each fdatasync of this node's log.",
            Scale::Time,
            &measures.log.sync,
        ),
        (
            "triarch_snapshot_write_seconds",
            "Time to write a snapshot of this node's table.",
            Scale::Time,
            &measures.snapshot_write,
        ),
        (
            "triarch_snapshot_install_seconds",
            "Time to restore a snapshot that was received from the leader.",
            Scale::Time,
            &measures.snapshot_install,
        ),
    ] {
        out.histogram(name, help, scale, histogram.read());
    }
    out.counter(
        "triarch_snapshots_postponed",
        "Snapshots that were given up for lack of disk space, descriptors, memory or threads, and tried again later.",
        measures.snapshots_postponed() as f64,
    );
    let consistency = app.node.consistency();
    out.gauge(
        "triarch_digest_agreed_index",
        "Index of the last entry at which a majority, including this node, had the same table.",
        consistency.verified_index as f64,
    );
    out.counter(
        "triarch_digest_mismatches",
        "Comparisons of the masters' tables in which a node differed from the majority, or in which there was no majority.",
        consistency.mismatches as f64,
    );
}
