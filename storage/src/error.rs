//! What can go wrong with a disk, told so that a person knows what to do next.

use std::path::PathBuf;

/// A disk or a data directory let us down. Final for the node: it stops and says this.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused an operation.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        cause: String,
        /// No space was left. The node can be started again once there is some.
        disk_full: bool,
    },
    /// What is on disk is not what this node once acknowledged.
    #[error("{path} is damaged: {what}. {advice}")]
    Damaged {
        /// The file or directory that is damaged.
        path: PathBuf,
        /// How the damage shows.
        what: String,
        /// What to do next.
        advice: String,
    },
    /// The directory belongs to another node, cluster or format version.
    #[error("{path}: {what}. {advice}")]
    Mismatch {
        /// The directory or the file in it that says so.
        path: PathBuf,
        /// What was asked for and what is there.
        what: String,
        /// What to do next.
        advice: String,
    },
    /// Another process has the directory open.
    #[error(
        "{path} is in use by another process; stop that one first, or choose another --data-dir"
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// An earlier error stopped this store.
    #[error("storage has stopped after an earlier error: {0}")]
    Stopped(
        /// The earlier error.
        String,
    ),
}
