//! A node's data directory: its identity, and the lock that keeps other processes out.
//!
//! ```text
//! <data-dir>/
//!   LOCK            held while a process uses the directory
//!   identity.json   node, incarnation, cluster
//!   log/            the Raft log
//!   snapshots/      snapshots of the state machine
//!   acknowledged    what this node knows that each member has acknowledged: may be missing or old
//!   condemned       only if its node once diverged from the others: the reason
//! ```
//!
//! The identity is made with the directory. It never changes, except for two facts that are added once: the cluster it
//! joined, and the existence of a log. The *incarnation* is a random id of this directory. A node that comes back under
//! an old id with an empty directory has another incarnation, so its cluster can detect that it forgot its votes.
//!
//! Only unfinished files are deleted here, and nothing is guessed: a directory that is neither empty nor a data
//! directory of Triarch is refused.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::durable;
use crate::error::replace_advice;
use crate::{SledLog, SledLogOptions, SnapshotStore, StorageError};

const FORMAT_VERSION: u32 = 1;
const LOCK_NAME: &str = "LOCK";
const IDENTITY_NAME: &str = "identity.json";
const LOG_NAME: &str = "log";
const SNAPSHOTS_NAME: &str = "snapshots";
const CONDEMNED_NAME: &str = "condemned";
const ACKNOWLEDGED_NAME: &str = "acknowledged";
/// A directory that a fresh file system contains.
const LOST_AND_FOUND: &str = "lost+found";

/// The identity of a data directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The version of the directory's layout.
    pub format_version: u32,
    /// The node that owns it.
    pub node_id: u64,
    /// A random id, made with the directory.
    pub incarnation: Uuid,
    /// The cluster of which the node is a member, once it is.
    pub cluster: Option<ClusterIdentity>,
    /// Whether the directory has a log.
    pub has_log: bool,
}

/// The cluster a directory belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterIdentity {
    /// The cluster's id.
    pub cluster_id: String,
    /// Further data that the caller stores with the id.
    pub extra: serde_json::Value,
}

/// The identity with its checksum, as stored on disk.
#[derive(Serialize, Deserialize)]
struct ChecksummedIdentity {
    identity: Box<RawValue>,
    crc32c: String,
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Versioned {
    format_version: u32,
}

/// An open data directory. Dropping it releases the lock.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Mutex<Identity>,
    /// Locked. Released on drop.
    _lock: File,
}

impl DataDir {
    /// Opens the data directory of `node_id`, or creates it.
    pub fn open(path: impl AsRef<Path>, node_id: u64) -> Result<Self, StorageError> {
        let path = path.as_ref();
        check_clock(path)?;
        durable::create_directory(path)?;
        let lock = lock(path)?;
        durable::remove_unfinished(path)?;
        let identity = match read_identity(path, node_id)? {
            Some(identity) => identity,
            None => create_identity(path, node_id)?,
        };
        if identity.node_id != node_id {
            return Err(StorageError::Mismatch {
                path: path.to_path_buf(),
                what: format!(
                    "this directory belongs to node {}, not to node {node_id}",
                    identity.node_id
                ),
                advice: format!(
                    "Start it with --id {}, or choose another --data-dir",
                    identity.node_id
                ),
            });
        }
        if let Some(what) = condemned(path)? {
            return Err(StorageError::damaged(path, what, node_id));
        }
        // Not before: only now it is known to be a directory of this program.
        durable::make_private(path);
        Ok(DataDir {
            path: path.to_path_buf(),
            identity: Mutex::new(identity),
            _lock: lock,
        })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the identity.
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Stores the cluster, durably. It is set once: the same cluster again is accepted, another is a
    /// [`StorageError::Mismatch`].
    pub fn set_cluster(
        &self,
        cluster_id: &str,
        extra: serde_json::Value,
    ) -> Result<(), StorageError> {
        let mut identity = self.identity.lock();
        let cluster = ClusterIdentity {
            cluster_id: cluster_id.to_string(),
            extra,
        };
        match &identity.cluster {
            None => {
                let changed = Identity {
                    cluster: Some(cluster),
                    ..identity.clone()
                };
                write_identity(&self.path, &changed)?;
                *identity = changed;
                Ok(())
            }
            Some(present) if *present == cluster => Ok(()),
            Some(present) => Err(StorageError::Mismatch {
                path: self.path.clone(),
                what: format!(
                    "this directory belongs to cluster {}, not to cluster {cluster_id}",
                    present.cluster_id
                ),
                advice: "Choose another --data-dir, or the addresses of the cluster it belongs to"
                    .into(),
            }),
        }
    }

    /// Marks the directory, durably, as one that must not be opened again, because its content made its node diverge.
    pub fn condemn(&self, what: &str) -> Result<(), StorageError> {
        durable::write_file(&self.path.join(CONDEMNED_NAME), what.as_bytes())
    }

    /// Replaces what this node knows to be acknowledged. The caller's text has one line. A power cut may take it back
    /// unless `durable`.
    pub fn save_acknowledged(&self, text: &str, durable: bool) -> Result<(), StorageError> {
        let path = self.path.join(ACKNOWLEDGED_NAME);
        let content = format!("{text}\n{:08x}\n", crc32c::crc32c(text.as_bytes()));
        match durable {
            true => durable::write_file(&path, content.as_bytes()),
            false => durable::write_file_unsynced(&path, content.as_bytes()),
        }
    }

    /// Returns the text last given to [`DataDir::save_acknowledged`], if it is there and whole.
    pub fn acknowledged(&self) -> Option<String> {
        let content = fs::read_to_string(self.path.join(ACKNOWLEDGED_NAME)).ok()?;
        let (text, checksum) = content.split_once('\n')?;
        let checksum = u32::from_str_radix(checksum.trim_end(), 16).ok()?;
        (checksum == crc32c::crc32c(text.as_bytes())).then(|| text.to_owned())
    }

    /// Returns the path of the log.
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG_NAME)
    }

    /// Opens the log, or creates it if there never was one. The directory's node id replaces the one in `options`.
    pub fn open_log(&self, options: SledLogOptions) -> Result<SledLog, StorageError> {
        let mut identity = self.identity.lock();
        let options = SledLogOptions {
            node_id: identity.node_id,
            expect_existing: identity.has_log,
            ..options
        };
        let log = SledLog::open(&self.log_path(), &options)?;
        if !identity.has_log {
            // Written before anything can be acknowledged: from now on a missing log is a lost one.
            let changed = Identity {
                has_log: true,
                ..identity.clone()
            };
            write_identity(&self.path, &changed)?;
            *identity = changed;
        }
        Ok(log)
    }

    /// Opens the snapshot store and verifies the current snapshot.
    pub fn snapshots(&self) -> Result<SnapshotStore, StorageError> {
        let node_id = self.identity.lock().node_id;
        SnapshotStore::open(&self.path.join(SNAPSHOTS_NAME), node_id)
    }

    /// Returns how many bytes can still be written to the file system of the directory.
    pub fn available_bytes(&self) -> Result<u64, StorageError> {
        durable::available_bytes(&self.path)
            .map_err(|error| StorageError::io("look for free space in", &self.path, &error))
    }
}

/// Refuses a clock that sled cannot work with. It would look like damage.
fn check_clock(path: &Path) -> Result<(), StorageError> {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(_) => Ok(()),
        Err(_) => Err(StorageError::ClockBefore1970 {
            path: path.to_path_buf(),
        }),
    }
}

fn lock(path: &Path) -> Result<File, StorageError> {
    let lock_path = path.join(LOCK_NAME);
    let file = durable::private_file()
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(|error| StorageError::io("write to", path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StorageError::Locked {
            path: path.to_path_buf(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(StorageError::io("lock", &lock_path, &error)),
    }
}

/// Returns the reason why the directory must not be opened, if there is one.
fn condemned(path: &Path) -> Result<Option<String>, StorageError> {
    let path = path.join(CONDEMNED_NAME);
    match fs::read(&path) {
        Ok(what) => Ok(Some(String::from_utf8_lossy(&what).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io("read", &path, &error)),
    }
}

fn create_identity(path: &Path, node_id: u64) -> Result<Identity, StorageError> {
    let entries = fs::read_dir(path).map_err(|error| StorageError::io("list", path, &error))?;
    for entry in entries {
        let name = entry
            .map_err(|error| StorageError::io("list", path, &error))?
            .file_name();
        if name == LOG_NAME || name == SNAPSHOTS_NAME {
            let what = "is missing, although the directory contains data";
            return Err(StorageError::damaged(
                &path.join(IDENTITY_NAME),
                what,
                node_id,
            ));
        }
        if name != LOCK_NAME && name != LOST_AND_FOUND {
            return Err(StorageError::Mismatch {
                path: path.to_path_buf(),
                what: format!(
                    "this directory contains other files, such as {}",
                    name.display()
                ),
                advice: "Choose an empty directory, or one that does not exist yet, as --data-dir"
                    .into(),
            });
        }
    }
    let identity = Identity {
        format_version: FORMAT_VERSION,
        node_id,
        incarnation: Uuid::new_v4(),
        cluster: None,
        has_log: false,
    };
    write_identity(path, &identity)?;
    Ok(identity)
}

fn write_identity(directory: &Path, identity: &Identity) -> Result<(), StorageError> {
    let path = directory.join(IDENTITY_NAME);
    let checksummed = serde_json::value::to_raw_value(identity).and_then(|identity| {
        let crc32c = checksum(&identity);
        serde_json::to_vec(&ChecksummedIdentity { identity, crc32c })
    });
    let mut bytes = checksummed.map_err(|error| {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        StorageError::io("encode", &path, &error)
    })?;
    bytes.push(b'\n');
    durable::write_file(&path, &bytes)
}

fn checksum(identity: &RawValue) -> String {
    format!("{:08x}", crc32c::crc32c(identity.get().as_bytes()))
}

/// Returns `None` if there is no identity.
fn read_identity(directory: &Path, node_id: u64) -> Result<Option<Identity>, StorageError> {
    let path = directory.join(IDENTITY_NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io("read", &path, &error)),
    };
    let damaged = |what: String| StorageError::Damaged {
        path: path.clone(),
        what,
        advice: replace_advice(node_id),
    };
    let checksummed: ChecksummedIdentity =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if checksum(&checksummed.identity) != checksummed.crc32c {
        return Err(damaged("it does not match its checksum".into()));
    }
    let text = checksummed.identity.get();
    let Versioned { format_version } =
        serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    if format_version != FORMAT_VERSION {
        return Err(StorageError::Mismatch {
            path,
            what: format!(
                "this directory has format version {format_version}, this program knows {FORMAT_VERSION}"
            ),
            advice: "Start the version of triarch that made it".into(),
        });
    }
    let identity = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    Ok(Some(identity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_condemned_directory_is_not_opened_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), 3).unwrap();
        dir.condemn("it held something else").unwrap();
        drop(dir);
        let refused = DataDir::open(root.path(), 3).unwrap_err();
        assert!(matches!(refused, StorageError::Damaged { .. }), "{refused}");
        assert!(
            refused.to_string().contains("it held something else"),
            "{refused}"
        );
        assert!(refused.to_string().contains("new id"), "{refused}");
    }

    #[test]
    fn what_is_acknowledged_reads_back_unless_it_is_damaged() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), 3).unwrap();
        assert_eq!(dir.acknowledged(), None);
        for durable in [false, true] {
            let text = format!("c=1.2 {durable}");
            dir.save_acknowledged(&text, durable).unwrap();
            assert_eq!(dir.acknowledged(), Some(text));
        }
        let path = root.path().join(ACKNOWLEDGED_NAME);
        let whole = fs::read(&path).unwrap();
        for kept in 0..whole.len() - 1 {
            fs::write(&path, &whole[..kept]).unwrap();
            assert_eq!(dir.acknowledged(), None, "{kept} bytes");
        }
    }

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep/data");
        let first = DataDir::open(&path, 3).unwrap();
        let identity = first.identity();
        assert_eq!(identity.node_id, 3);
        assert_eq!(identity.cluster, None);
        first
            .set_cluster("c1", json!({"peers": [1, 2, 3]}))
            .unwrap();
        first
            .set_cluster("c1", json!({"peers": [1, 2, 3]}))
            .unwrap();
        let refused = first.set_cluster("c2", json!(null));
        assert!(matches!(refused, Err(StorageError::Mismatch { .. })));
        drop(first);

        let second = DataDir::open(&path, 3).unwrap();
        assert_eq!(second.identity().incarnation, identity.incarnation);
        let cluster = second.identity().cluster.unwrap();
        assert_eq!(cluster.cluster_id, "c1");
        assert_eq!(cluster.extra, json!({"peers": [1, 2, 3]}));
        assert!(second.available_bytes().unwrap() > 0);

        let other = DataDir::open(root.path().join("other"), 3).unwrap();
        assert_ne!(other.identity().incarnation, identity.incarnation);
    }

    #[test]
    fn one_process_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(root.path(), 1).unwrap();
        let second = DataDir::open(root.path(), 1);
        assert!(matches!(second, Err(StorageError::Locked { .. })));
        drop(first);
        DataDir::open(root.path(), 1).unwrap();
    }

    #[test]
    fn the_directory_of_another_node_is_refused_with_advice() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path(), 1).unwrap());
        let error = DataDir::open(root.path(), 2).unwrap_err();
        assert!(matches!(error, StorageError::Mismatch { .. }));
        assert!(error.to_string().contains("--id 1"), "{error}");
    }

    #[test]
    fn a_directory_of_others_is_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.tex"), "words").unwrap();
        let error = DataDir::open(root.path(), 1).unwrap_err();
        assert!(matches!(error, StorageError::Mismatch { .. }));
        assert!(error.to_string().contains("thesis.tex"), "{error}");
    }

    #[test]
    fn a_damaged_or_lost_identity_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(root.path(), 1).unwrap();
        drop(data_dir.snapshots().unwrap());
        drop(data_dir);
        let path = root.path().join(IDENTITY_NAME);
        let good = fs::read(&path).unwrap();
        for bit in 0..(good.len() - 1) * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            let outcome = DataDir::open(root.path(), 1);
            assert!(
                matches!(outcome, Err(StorageError::Damaged { .. })),
                "bit {bit}: {outcome:?}"
            );
        }
        fs::remove_file(&path).unwrap();
        let outcome = DataDir::open(root.path(), 1);
        assert!(matches!(outcome, Err(StorageError::Damaged { .. })));
    }

    #[test]
    fn the_directory_of_a_newer_version_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let identity = DataDir::open(root.path(), 1).unwrap().identity();
        let newer = Identity {
            format_version: FORMAT_VERSION + 1,
            ..identity
        };
        write_identity(root.path(), &newer).unwrap();
        let error = DataDir::open(root.path(), 1).unwrap_err();
        assert!(matches!(error, StorageError::Mismatch { .. }), "{error:?}");
        let said = error.to_string();
        for words in [
            "identity.json",
            "format version 2",
            "knows 1",
            "Start the version",
        ] {
            assert!(said.contains(words), "{words:?} is missing: {said}");
        }
    }

    #[test]
    fn an_unusable_place_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::open(file.join("data"), 1).unwrap_err();
        assert!(matches!(error, StorageError::Io { .. }));
        assert!(error.to_string().contains("file"), "{error}");
    }

    #[test]
    fn a_log_that_was_there_may_not_vanish() {
        let root = tempfile::tempdir().unwrap();
        let options = || SledLogOptions {
            reserve_bytes: 0,
            ..SledLogOptions::default()
        };
        let data_dir = DataDir::open(root.path(), 1).unwrap();
        drop(data_dir.open_log(options()).unwrap());
        drop(data_dir.open_log(options()).unwrap());
        fs::remove_dir_all(data_dir.log_path()).unwrap();
        drop(data_dir);
        let data_dir = DataDir::open(root.path(), 1).unwrap();
        let outcome = data_dir.open_log(options());
        assert!(matches!(outcome, Err(StorageError::Damaged { .. })));
    }
}
