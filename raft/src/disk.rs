//! What this node has on disk, opened once at start.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use triarch_storage::{DataDir, LogMeasures, LogStore, SledLogOptions, StorageError};
use uuid::Uuid;

use crate::snapshot::Snapshots;

/// The data directory's identity, and the lock on it.
pub(crate) struct Directory {
    pub incarnation: Uuid,
    /// Gone once released.
    dir: Mutex<Option<DataDir>>,
}

impl Directory {
    /// Durable when it returns.
    pub(crate) fn set_cluster(&self, cluster: Uuid) -> Result<(), StorageError> {
        match &*self.dir.lock() {
            Some(dir) => dir.set_cluster(&cluster.to_string(), serde_json::Value::Null),
            None => Err(StorageError::Stopped(
                "the data directory was closed".into(),
            )),
        }
    }

    /// Notes, durably, why this directory must not be started from again.
    pub(crate) fn condemn(&self, what: &str) -> Result<(), StorageError> {
        match &*self.dir.lock() {
            Some(dir) => dir.condemn(what),
            None => Err(StorageError::Stopped(
                "the data directory was closed".into(),
            )),
        }
    }

    /// Lets another process have the directory. The log must be closed before.
    pub(crate) fn release(&self) {
        *self.dir.lock() = None;
    }
}

pub(crate) struct Disk {
    pub directory: Arc<Directory>,
    pub cluster: Option<Uuid>,
    pub log: Arc<dyn LogStore>,
    pub snapshots: Snapshots,
    pub measures: Arc<LogMeasures>,
}

/// Opens and checks everything; a node with a damaged disk does not start.
pub(crate) fn open(path: &Path, node_id: u64) -> Result<Disk, StorageError> {
    let dir = DataDir::open(path, node_id)?;
    let identity = dir.identity();
    let cluster = match identity.cluster {
        None => None,
        Some(known) => Some(Uuid::parse_str(&known.cluster_id).map_err(|e| {
            StorageError::Damaged {
                path: path.to_path_buf(),
                what: format!("the cluster id {:?} is none: {e}", known.cluster_id),
                advice: format!(
                    "Replace node {node_id}: remove it from the cluster and add one with a new id"
                ),
            }
        })?),
    };
    let options = SledLogOptions::default();
    let measures = Arc::clone(&options.measures);
    let log = dir.open_log(options)?;
    let snapshots = Snapshots::new(dir.snapshots()?);
    Ok(Disk {
        directory: Arc::new(Directory {
            incarnation: identity.incarnation,
            dir: Mutex::new(Some(dir)),
        }),
        cluster,
        log: Arc::new(log),
        snapshots,
        measures,
    })
}
