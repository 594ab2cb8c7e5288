//! Trigger of automatic snapshots, by the growth of the log since the last one.
//!
//! A snapshot writes the whole state, however little of it has changed, and frees the log before it. Snapshots that are
//! too frequent cost more than the log itself. With snapshots that are too rare, the log grows without bound, and so
//! does the time to apply it again at a start. A snapshot is therefore due once the log has grown by a minimum *and* by
//! about the size of the last snapshot. All snapshots together then cost at most about as much as the log, and the log
//! stays within about the size of the state.
//!
//! All nodes apply the same entries. Without a difference between them, all would write their snapshots at the same
//! time, and the whole cluster would be slow then. Each node therefore waits for some further growth, a different part
//! of the threshold on each node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::SnapshotPolicy;

/// Cost of an entry in the log in addition to its commands, in bytes: chunk keys, headers, and a part of the sync.
const ENTRY_COST_BYTES: u64 = 512;

/// Growth of the log since the last snapshot was begun.
#[derive(Debug)]
pub(crate) struct SnapshotTrigger {
    policy: SnapshotPolicy,
    /// Further growth to wait for, in eighths of the threshold. Different on each node.
    jitter_eighths: u64,
    entries: u64,
    bytes: u64,
    /// Size of the last snapshot in bytes. Shared with the writers of snapshots.
    last_snapshot_bytes: Arc<AtomicU64>,
}

impl SnapshotTrigger {
    pub(crate) fn new(policy: SnapshotPolicy, node_id: u64) -> Self {
        SnapshotTrigger {
            policy,
            jitter_eighths: node_id % 4,
            entries: 0,
            bytes: 0,
            last_snapshot_bytes: Arc::default(),
        }
    }

    /// Records that an entry with `bytes` bytes of commands was applied.
    pub(crate) fn record(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
    }

    pub(crate) fn is_due(&self) -> bool {
        let more =
            |bound: u64| bound.saturating_add((bound / 8).saturating_mul(self.jitter_eighths));
        let enough =
            self.entries >= more(self.policy.entries) || self.bytes >= more(self.policy.bytes);
        let cost = self.bytes + self.entries * ENTRY_COST_BYTES;
        enough && cost >= more(self.last_snapshot_bytes.load(Ordering::Relaxed))
    }

    /// Records that a snapshot was begun or requested.
    pub(crate) fn reset(&mut self) {
        self.entries = 0;
        self.bytes = 0;
    }

    /// Returns the cell that receives the size of each new snapshot.
    pub(crate) fn last_snapshot_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.last_snapshot_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_due_by_entries_or_bytes_once_the_log_outgrew_the_last_one() {
        let policy = SnapshotPolicy {
            entries: 10,
            bytes: 10_000,
            keep_entries: 0,
        };
        let mut snapshot_trigger = SnapshotTrigger::new(policy.clone(), 4);
        for _ in 0..9 {
            snapshot_trigger.record(1);
        }
        assert!(!snapshot_trigger.is_due());
        snapshot_trigger.record(1);
        assert!(snapshot_trigger.is_due());
        snapshot_trigger.reset();
        snapshot_trigger.record(10_000);
        assert!(snapshot_trigger.is_due());

        // The last snapshot was large, so the log may grow as large.
        snapshot_trigger
            .last_snapshot_bytes()
            .store(1 << 20, Ordering::Relaxed);
        assert!(!snapshot_trigger.is_due());
        let mut written = 10_000 + ENTRY_COST_BYTES;
        while written < 1 << 20 {
            assert!(!snapshot_trigger.is_due(), "{written}");
            snapshot_trigger.record(50_000);
            written += 50_000 + ENTRY_COST_BYTES;
        }
        assert!(snapshot_trigger.is_due());

        // Another node waits for more.
        let mut other = SnapshotTrigger::new(policy, 5);
        other.record(10_000);
        assert!(!other.is_due());
        other.record(1_250);
        assert!(other.is_due());
    }
}
