//! Errors of reading a snapshot.

use std::io;

use crate::snapshot::format::VERSION;

/// Reason why a stream is not a table.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The stream cannot be read, or ends too early.
    #[error("cannot read the snapshot: {0}")]
    Io(#[from] io::Error),
    /// The stream does not begin with the magic number.
    #[error("this is not a snapshot of a task table")]
    NotASnapshot,
    /// A newer version of the program wrote the stream.
    #[error(
        "snapshot format {0} is not known here (newest known: {VERSION}): this node runs older code than the cluster"
    )]
    UnknownVersion(u8),
    /// A record does not decode.
    #[error("record {number} of the snapshot is damaged: {problem}")]
    Malformed {
        /// Its number, from 0.
        number: u64,
        /// The problem with it.
        problem: String,
    },
    /// The digest does not match the records.
    #[error("the snapshot is damaged: its digest is {found:016x}, not {expected:016x}")]
    Digest {
        /// The digest in the stream.
        expected: u64,
        /// The digest of the records that were read.
        found: u64,
    },
    /// The records do not make a sound table.
    #[error("the snapshot contradicts itself: {0}")]
    Unsound(String),
}
