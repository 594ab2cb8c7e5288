//! How a log is opened.

use std::sync::Arc;

use crate::LogMetrics;

/// How to open a [`SledLog`](super::SledLog).
#[derive(Debug, Clone)]
pub struct SledLogOptions {
    /// The node whose log it is, for advice in errors.
    pub node_id: u64,
    /// This node has had a log before: a missing one is damage.
    pub expect_existing: bool,
    /// sled's page cache.
    pub cache_bytes: u64,
    /// How much payload of entries that are on disk is kept in memory too.
    pub recent_bytes_max: usize,
    /// How much may wait for the disk before callers do.
    pub queued_bytes_max: usize,
    /// Disk space kept aside for when the disk is full.
    pub reserve_bytes: u64,
    /// Where the sync thread tells how long the disk takes.
    pub metrics: Arc<LogMetrics>,
    /// With less than this free, the disk is told to be low; worked out from its size unless given.
    pub low_bytes: Option<u64>,
}

impl Default for SledLogOptions {
    fn default() -> Self {
        SledLogOptions {
            node_id: 0,
            expect_existing: false,
            cache_bytes: 32 << 20,
            recent_bytes_max: 64 << 20,
            queued_bytes_max: 64 << 20,
            reserve_bytes: 16 << 20,
            metrics: Arc::default(),
            low_bytes: None,
        }
    }
}
