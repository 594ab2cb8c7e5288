//! What this node has on disk, opened once at start. For now it is kept in memory, until the data directory is there.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use triarch_storage::{LogStore, MemoryLog, StorageError};
use uuid::Uuid;

use crate::snapshot::Snapshots;

/// The directory's identity.
pub(crate) struct Directory {
    pub incarnation: Uuid,
    cluster: Mutex<Option<Uuid>>,
}

impl Directory {
    pub(crate) fn cluster(&self) -> Option<Uuid> {
        *self.cluster.lock()
    }

    /// Durable when it returns.
    pub(crate) fn set_cluster(&self, cluster: Uuid) -> Result<(), StorageError> {
        *self.cluster.lock() = Some(cluster);
        Ok(())
    }
}

pub(crate) struct Disk {
    pub directory: Arc<Directory>,
    pub log: Arc<dyn LogStore>,
    pub snapshots: Snapshots,
}

pub(crate) fn open(_path: &Path, _node_id: u64) -> Result<Disk, StorageError> {
    Ok(Disk {
        directory: Arc::new(Directory {
            incarnation: Uuid::new_v4(),
            cluster: Mutex::new(None),
        }),
        log: Arc::new(MemoryLog::default()),
        snapshots: Snapshots::default(),
    })
}
