//! Opening of the data directory and everything in it, once at start.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use triarch_storage::{
    DataDir, FreeSpace, LogMetrics, LogState, LogStore, SledLogOptions, StorageError,
};
use uuid::Uuid;

use crate::protocol::acknowledged::Facts;
use crate::protocol::history::History;
use crate::storage::log_store::from_position;
use crate::storage::snapshot_store::Snapshots;

/// Names of the files of a data directory, for error messages of this module.
const IDENTITY_NAME: &str = "identity.json";
const SNAPSHOTS_NAME: &str = "snapshots";

/// Identity of the data directory, and the lock on it.
pub(crate) struct Directory {
    pub incarnation: Uuid,
    /// `None` once released.
    dir: Mutex<Option<DataDir>>,
}

impl Directory {
    /// Writes the cluster id. Durable when it returns.
    pub(crate) fn set_cluster(&self, cluster: Uuid) -> Result<(), StorageError> {
        match &*self.dir.lock() {
            Some(dir) => dir.set_cluster(&cluster.to_string(), serde_json::Value::Null),
            None => Err(StorageError::Stopped(
                "the data directory was closed".into(),
            )),
        }
    }

    /// Records, durably, why this directory must not be started from again.
    pub(crate) fn condemn(&self, what: &str) -> Result<(), StorageError> {
        match &*self.dir.lock() {
            Some(dir) => dir.condemn(what),
            None => Err(StorageError::Stopped(
                "the data directory was closed".into(),
            )),
        }
    }

    /// Writes what is known to be acknowledged. Survives a power cut only if `durable`.
    pub(crate) fn save_acknowledged(&self, text: &str, durable: bool) -> Result<(), StorageError> {
        match &*self.dir.lock() {
            Some(dir) => dir.save_acknowledged(text, durable),
            None => Err(StorageError::Stopped(
                "the data directory was closed".into(),
            )),
        }
    }

    /// Releases the directory for another process. The log must be closed before.
    pub(crate) fn release(&self) {
        *self.dir.lock() = None;
    }
}

pub(crate) struct OpenedStorage {
    pub directory: Arc<Directory>,
    pub cluster: Option<Uuid>,
    pub log: Arc<dyn LogStore>,
    pub space: FreeSpace,
    pub snapshots: Snapshots,
    pub log_metrics: Arc<LogMetrics>,
    pub history: Arc<History>,
    /// What was known to be acknowledged when the directory was last in use.
    pub acknowledged: Facts,
}

/// Maximum bytes of the log that are in memory at once while its history is read.
const READ_BYTES_MAX: usize = 8 << 20;

/// Opens and checks everything. A node with a damaged disk does not start.
pub(crate) fn open(
    path: &Path,
    node_id: u64,
    low_bytes: Option<u64>,
) -> Result<OpenedStorage, StorageError> {
    let dir = DataDir::open(path, node_id)?;
    let identity = dir.identity();
    let cluster = match identity.cluster {
        None => None,
        Some(known) => Some(Uuid::parse_str(&known.cluster_id).map_err(|e| {
            let what = format!("the cluster id {:?} is invalid: {e}", known.cluster_id);
            StorageError::damaged(&path.join(IDENTITY_NAME), what, node_id)
        })?),
    };
    let options = SledLogOptions {
        low_bytes,
        ..SledLogOptions::default()
    };
    let log_metrics = Arc::clone(&options.metrics);
    let log = dir.open_log(options)?;
    let space = log.space();
    let snapshots = Snapshots::new(dir.snapshots()?, space.clone());
    check_consistency(path, node_id, cluster.is_some(), log.state(), &snapshots)?;
    let history = read_history(&log, &snapshots)?;
    let acknowledged = dir.acknowledged();
    let acknowledged = acknowledged.and_then(|text| Facts::from_text(&text));
    Ok(OpenedStorage {
        directory: Arc::new(Directory {
            incarnation: identity.incarnation,
            dir: Mutex::new(Some(dir)),
        }),
        cluster,
        log: Arc::new(log),
        space,
        snapshots,
        log_metrics,
        history: Arc::new(history),
        acknowledged: acknowledged.map_or_else(Facts::default, |(facts, _)| facts),
    })
}

/// Reads the history of the log: from the last snapshot on if it carries one, else from the first entry on.
fn read_history(log: &impl LogStore, snapshots: &Snapshots) -> Result<History, StorageError> {
    let history = History::default();
    let state = log.state();
    let snapshot = snapshots.current().ok().flatten();
    let anchor = snapshot.and_then(|snapshot| {
        let id = snapshot.meta().last_log_id?;
        Some((id, snapshot.history()?.clone()))
    });
    let mut next = match (anchor, state.purged) {
        (Some((id, anchor)), _) => {
            history.begin_after(id, Some(anchor));
            id.index + 1
        }
        (None, Some(purged)) => {
            history.begin_after(from_position(purged), None);
            purged.index + 1
        }
        (None, None) => 0,
    };
    let end = state.last.map_or(0, |last| last.index + 1);
    while next < end {
        let records = log.read(next..end, READ_BYTES_MAX)?;
        let Some(last) = records.last() else {
            break;
        };
        next = last.position.index + 1;
        for record in &records {
            history.append(from_position(record.position), &record.payload);
        }
    }
    Ok(history)
}

/// Checks that the parts belong together. Each part was found sound by itself, but one may be lost, or of an earlier
/// time.
fn check_consistency(
    path: &Path,
    node_id: u64,
    formed: bool,
    log: LogState,
    snapshots: &Snapshots,
) -> Result<(), StorageError> {
    if !formed && log.last.is_some() {
        // A node writes its cluster's id before it takes part in it.
        let what = "it names no cluster, but the directory contains the log of one";
        return Err(StorageError::damaged(
            &path.join(IDENTITY_NAME),
            what,
            node_id,
        ));
    }
    let snapshot = snapshots
        .current()
        .map_err(|e| StorageError::damaged(&path.join(SNAPSHOTS_NAME), e.to_string(), node_id))?;
    let upto = snapshot.and_then(|snapshot| snapshot.meta().last_log_id);
    let upto = upto.map(|id| id.index);
    let purged = log.purged.map(|purged| purged.index);
    if purged > upto {
        let begin = purged.map_or(0, |purged| purged + 1);
        let there = match upto {
            Some(upto) => format!("the existing one ends with entry {upto}"),
            None => "there is none".to_owned(),
        };
        let what =
            format!("the log begins with entry {begin} and needs a snapshot up to it, but {there}");
        return Err(StorageError::damaged(
            &path.join(SNAPSHOTS_NAME),
            what,
            node_id,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::sync::mpsc::channel;

    use bytes::Bytes;
    use triarch_storage::{LogPosition, LogRecord};

    use super::*;
    use crate::level::Level;
    use crate::storage::snapshot_store::SnapshotHead;
    use crate::types::{SnapshotMeta, log_id};

    fn snapshot(disk: &OpenedStorage, upto: u64) {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(1, upto)),
            ..SnapshotMeta::default()
        };
        disk.snapshots
            .write(
                SnapshotHead {
                    meta,
                    used_ids: BTreeSet::new(),
                    level: Level::ONE,
                    history: None,
                },
                |out| out.write_all(b"state"),
            )
            .unwrap();
    }

    /// Writes a directory whose log begins with entry 6, after a snapshot.
    fn written(path: &Path) {
        let disk = open(path, 1, None).unwrap();
        disk.directory.set_cluster(Uuid::from_u128(7)).unwrap();
        let position = |index| LogPosition {
            term: 1,
            leader: 0,
            index,
        };
        let records = (0..10).map(|index| LogRecord {
            position: position(index),
            payload: Bytes::from_static(b"entry"),
        });
        let (done, receiver) = channel();
        let completion = move |result| drop(done.send(result));
        disk.log
            .append(records.collect(), Box::new(completion.clone()))
            .unwrap();
        snapshot(&disk, 2);
        fs::copy(newest(path), path.with_extension("old")).unwrap();
        snapshot(&disk, 7);
        disk.log.purge(position(5), Box::new(completion)).unwrap();
        for _ in 0..2 {
            receiver.recv().unwrap().unwrap();
        }
        disk.log.close().unwrap();
    }

    fn newest(path: &Path) -> std::path::PathBuf {
        let entries = fs::read_dir(path.join(SNAPSHOTS_NAME)).unwrap();
        entries.map(|entry| entry.unwrap().path()).max().unwrap()
    }

    fn refusal(path: &Path) -> String {
        match open(path, 1, None).map(|_| ()) {
            Err(error @ StorageError::Damaged { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        written(&path);
        drop(open(&path, 1, None).unwrap());

        let current = newest(&path);
        let good = fs::read(&current).unwrap();
        fs::copy(path.with_extension("old"), &current).unwrap();
        let said = refusal(&path);
        assert!(said.contains("ends with entry 2") && said.contains("begins with entry 6"));
        fs::remove_file(&current).unwrap();
        assert!(refusal(&path).contains("there is none"));
        fs::write(&current, good).unwrap();
        drop(open(&path, 1, None).unwrap());

        // The identity is the one from before the cluster was formed.
        let identity = path.join(IDENTITY_NAME);
        let incarnation = open(&path, 1, None).unwrap().directory.incarnation;
        let early = root.path().join("early");
        drop(open(&early, 1, None).unwrap());
        let text = fs::read_to_string(early.join(IDENTITY_NAME)).unwrap();
        fs::write(&identity, text).unwrap();
        assert!(refusal(&path).contains("names no cluster"), "{incarnation}");
    }
}
