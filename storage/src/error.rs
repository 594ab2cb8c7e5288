//! What can go wrong with a disk, told so that a person knows what to do next.

use std::path::PathBuf;

/// A disk or a data directory let us down. Final for the node: it stops and says this.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused an operation.
    #[error("cannot {action} {path}: {cause}")]
    Io { action: &'static str, path: PathBuf, cause: String, disk_full: bool },
    /// What is on disk is not what this node once acknowledged.
    #[error("{path} is damaged: {what}. {advice}")]
    Damaged { path: PathBuf, what: String, advice: String },
    /// The directory belongs to another node, cluster or format version.
    #[error("{path}: {what}. {advice}")]
    Mismatch { path: PathBuf, what: String, advice: String },
    /// Another process has the directory open.
    #[error("{path} is in use by another process; stop that one first, or choose another --data-dir")]
    Locked { path: PathBuf },
    /// An earlier error stopped this store.
    #[error("storage has stopped after an earlier error: {0}")]
    Stopped(String),
}
