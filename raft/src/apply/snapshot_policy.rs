//! When the next snapshot is due.
//!
//! A snapshot writes the whole state, however little of it has changed, and frees the log before it. Written too often it
//! costs more than the log itself; too rarely, and the log, and the time to apply it again at a start, grow without
//! bound. So one is due once the log has grown by a least amount *and* by about as much as the last snapshot took: all
//! snapshots together then cost at most about as much as the log, and the log stays within about the size of the state.
//!
//! All nodes apply the same, so all would write their snapshots at once, and the slowest moment of each would be that of
//! all. So nodes wait for a little more than that, each for another part.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::SnapshotPolicy;

/// What an entry costs in the log beside its commands: keys, heads, its share of a sync.
const ENTRY_COST_BYTES: u64 = 512;

/// How far the log has grown since the last snapshot was begun.
#[derive(Debug)]
pub(crate) struct Growth {
    policy: SnapshotPolicy,
    /// Eighths that are waited for besides.
    eighths: u64,
    entries: u64,
    bytes: u64,
    /// Of the state in the last snapshot; shared with whoever writes one.
    last: Arc<AtomicU64>,
}

impl Growth {
    pub(crate) fn new(policy: SnapshotPolicy, node_id: u64) -> Self {
        Growth {
            policy,
            eighths: node_id % 4,
            entries: 0,
            bytes: 0,
            last: Arc::default(),
        }
    }

    /// An entry with so many bytes of commands was applied.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
    }

    pub(crate) fn is_due(&self) -> bool {
        let more = |bound: u64| bound.saturating_add((bound / 8).saturating_mul(self.eighths));
        let enough =
            self.entries >= more(self.policy.entries) || self.bytes >= more(self.policy.bytes);
        let cost = self.bytes + self.entries * ENTRY_COST_BYTES;
        enough && cost >= more(self.last.load(Ordering::Relaxed))
    }

    /// A snapshot is begun, or asked for.
    pub(crate) fn restart(&mut self) {
        self.entries = 0;
        self.bytes = 0;
    }

    /// Where the size of each new snapshot is noted.
    pub(crate) fn last_snapshot(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_due_by_entries_or_bytes_but_not_before_the_log_is_worth_it() {
        let policy = SnapshotPolicy {
            entries: 10,
            bytes: 10_000,
            keep_entries: 0,
        };
        let mut growth = Growth::new(policy.clone(), 4);
        for _ in 0..9 {
            growth.add(1);
        }
        assert!(!growth.is_due());
        growth.add(1);
        assert!(growth.is_due());
        growth.restart();
        growth.add(10_000);
        assert!(growth.is_due());

        // The last one was large: the log may grow as large.
        growth.last_snapshot().store(1 << 20, Ordering::Relaxed);
        assert!(!growth.is_due());
        let mut written = 10_000 + ENTRY_COST_BYTES;
        while written < 1 << 20 {
            assert!(!growth.is_due(), "{written}");
            growth.add(50_000);
            written += 50_000 + ENTRY_COST_BYTES;
        }
        assert!(growth.is_due());

        // Another node waits for more.
        let mut other = Growth::new(policy, 5);
        other.add(10_000);
        assert!(!other.is_due());
        other.add(1_250);
        assert!(other.is_due());
    }
}
