//! Options for opening a log.

use std::sync::Arc;

use crate::LogMetrics;

/// Options for opening a [`SledLog`](super::SledLog).
#[derive(Debug, Clone)]
pub struct SledLogOptions {
    /// The node that owns the log, for advice in errors.
    pub node_id: u64,
    /// Whether this node has had a log before. If so, a missing log is damage.
    pub expect_existing: bool,
    /// Size of sled's page cache, in bytes. Default: 32 MiB.
    pub cache_bytes: u64,
    /// Memory of stored entries that are kept in memory as well, in bytes. Default: 64 MiB.
    pub recent_bytes_max: usize,
    /// Bound on queued writes, in bytes, above which callers wait for the disk. Default: 64 MiB.
    pub queued_bytes_max: usize,
    /// Size of the emergency reserve, in bytes. Default: 16 MiB.
    pub reserve_bytes: u64,
    /// Receives the disk latencies that the sync thread measures.
    pub metrics: Arc<LogMetrics>,
    /// The low watermark of free space, in bytes. Default: derived from the size of the file system.
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
