//! Storage errors: cause, consequence and next action, for the operator of the node.

use std::io;
use std::path::{Path, PathBuf};

/// A failure of the disk or the data directory. Final for the node: it stops with this message.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused an operation.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// The refused operation, as a verb.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The message of the operating system.
        cause: String,
        /// Whether no space was left. The node can be started again once there is some.
        disk_full: bool,
        /// Whether the process or the machine lacked descriptors, memory or threads. The same operation may succeed later.
        /// Never set for a sync, because a failed sync is not retried.
        exhausted: bool,
    },
    /// The disk does not hold what this node once acknowledged.
    #[error("{path} is damaged: {what}. {advice}")]
    Damaged {
        /// The file or directory that is damaged.
        path: PathBuf,
        /// Description of the damage.
        what: String,
        /// The next action.
        advice: String,
    },
    /// The directory belongs to another node, cluster or format version.
    #[error("{path}: {what}. {advice}")]
    Mismatch {
        /// The directory, or the file in it that shows the mismatch.
        path: PathBuf,
        /// The expected and the actual value.
        what: String,
        /// The next action.
        advice: String,
    },
    /// The log was deleted or moved under the running node.
    #[error(
        "{path} is not there any more: it was deleted or moved while this node ran, and what is written now would be lost with \
         the process. If it was moved, move it back and start the node again. {advice}"
    )]
    Gone {
        /// The file that is missing, or another one by now.
        path: PathBuf,
        /// The next action if it was deleted.
        advice: String,
    },
    /// The clock of this machine stands before 1970.
    #[error(
        "the clock of this machine stands before 1970, and the log cannot be opened with it; {path} is unharmed and stays as it \
         is: set the clock, then start the node again"
    )]
    ClockBefore1970 {
        /// The data directory.
        path: PathBuf,
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

impl StorageError {
    /// Describes an operation that the operating system refused, with the next action where there is one.
    pub(crate) fn io(action: &'static str, path: &Path, error: &io::Error) -> Self {
        let disk_full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let cause = if disk_full {
            "no space is left on this file system; free some and start the node again".to_string()
        } else {
            error.to_string()
        };
        StorageError::Io {
            action,
            path: path.to_path_buf(),
            cause,
            disk_full,
            exhausted: action != "sync" && is_exhausted(error),
        }
    }

    /// Describes a log that was taken away from the running node.
    pub(crate) fn gone(path: &Path, node_id: u64) -> Self {
        StorageError::Gone {
            path: path.to_path_buf(),
            advice: format!(
                "If it was deleted: the only master of a cluster loses everything with it, and a backup is restored into a \
                 new cluster. {}",
                replace_advice(node_id)
            ),
        }
    }

    /// Describes damage that only a fresh copy from the other nodes can heal.
    pub fn damaged(path: &Path, what: impl Into<String>, node_id: u64) -> Self {
        StorageError::Damaged {
            path: path.to_path_buf(),
            what: what.into(),
            advice: replace_advice(node_id),
        }
    }
}

/// Returns whether an operation failed because the process or the machine lacked descriptors, memory or threads. The same
/// operation may succeed later, so nothing is damaged.
pub fn is_exhausted(error: &io::Error) -> bool {
    const EXHAUSTED: [i32; 5] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::EAGAIN,
        libc::ENOBUFS,
    ];
    error
        .raw_os_error()
        .is_some_and(|number| EXHAUSTED.contains(&number))
}

/// Returns the advice for a node that has lost what it once acknowledged. It must not vote again under its old id.
pub(crate) fn replace_advice(node_id: u64) -> String {
    format!(
        "This node has lost data that it once acknowledged and must not return under its id; the other nodes have all of it. \
         Keep it stopped and move its data directory away. Start a new one with `triarch server --id <new id> --listen \
         <host:port> --join http://<a running node> --data-dir <empty directory>`, and replace this one with `triarch \
         cluster replace {node_id} <new id>=<host:port>`"
    )
}

/// The reason why a store takes no more calls.
#[derive(Debug, Clone)]
pub(crate) enum StopCause {
    /// The log was closed.
    Closed,
    /// The log was dropped without being closed.
    Dropped,
    /// The log failed with this error.
    Failed(String),
}

impl StopCause {
    pub(crate) fn error(&self) -> StorageError {
        match self {
            StopCause::Closed => StorageError::Stopped("the log was closed".into()),
            StopCause::Dropped => StorageError::Stopped("the log was dropped".into()),
            StopCause::Failed(cause) => StorageError::Stopped(cause.clone()),
        }
    }
}

/// Returns the error of a store that has failed; `None` if it runs, or was closed or dropped.
pub(crate) fn failure(stopped: Option<&StopCause>) -> Option<StorageError> {
    match stopped {
        Some(cause @ StopCause::Failed(_)) => Some(cause.error()),
        Some(StopCause::Closed | StopCause::Dropped) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_resources_is_exhaustion_and_never_that_of_a_sync() {
        let exhausted = |action, number| {
            let error = io::Error::from_raw_os_error(number);
            match StorageError::io(action, Path::new("x"), &error) {
                StorageError::Io { exhausted, .. } => exhausted,
                other => panic!("{other}"),
            }
        };
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN] {
            assert!(exhausted("create", number), "{number}");
            assert!(!exhausted("sync", number), "{number}");
        }
        for number in [libc::EIO, libc::ENOSPC, libc::EROFS, libc::EACCES] {
            assert!(!exhausted("create", number), "{number}");
        }
    }
}
