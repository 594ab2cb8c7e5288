//! openraft's configuration for a node.

use crate::config::NodeConfig;
use crate::error::StartError;

/// Translates the configuration of a node to openraft's.
pub(crate) fn raft_config(config: &NodeConfig) -> Result<openraft::Config, StartError> {
    let timing = &config.timing;
    let raft = openraft::Config {
        cluster_name: "triarch".into(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        enable_pre_vote: Some(true),
        // A restarted leader must be elected again, because its state machine may lack entries that it acknowledged.
        enable_leader_restore: Some(false),
        // A leader that reaches its followers, but does not receive their answers, would keep them from electing for
        // ever. Without a quorum it falls silent for long enough that they can elect another.
        quorum_loss_probe_interval: Some(timing.election_max_ms * 2 + timing.heartbeat_ms),
        // A follower whose disk was put back has less than it acknowledged: see `protocol::acknowledged`. It gets its
        // entries again.
        allow_log_reversion: Some(true),
        install_snapshot_timeout: timing.snapshot_install_ms,
        // openraft's policy counts entries only: see `apply::snapshot_policy`.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        // A lagging follower gets log entries as long as they exist: they are never much larger than a snapshot.
        replication_lag_threshold: u64::MAX,
        max_in_snapshot_log_to_keep: config.snapshot.keep_entries,
        purge_batch_size: (config.snapshot.entries / 8).clamp(1, 256),
        max_payload_entries: 256,
        ..openraft::Config::default()
    };
    raft.validate()
        .map_err(|e| StartError::Config(e.to_string()))
}
