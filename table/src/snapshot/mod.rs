//! Snapshot format: the whole table as a stream of bytes, to be stored in a file or sent to another node.
//!
//! The stream is a magic number, a version byte, and records. Each record is a length (`u32`, little-endian) and that
//! many bytes of postcard. The last one is `Record::End` with a digest over all others.
//!
//! # Invariants
//!
//! - The order of records depends on the state alone, so equal tables give equal bytes.
//! - Only state is written; secondary indexes are rebuilt.
//! - Variants and fields are only ever appended, under a new version, as with commands.
//! - Writing streams from a frozen view while later entries apply; reading streams into a new table. Neither holds more
//!   than one record in addition to the table itself.
//! - A stream that does not read as a sound table is refused, and never taken for a smaller one.

pub(crate) mod digest;
mod error;
mod format;
mod frozen;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use error::SnapshotError;
pub use format::{MAGIC, VERSION};
pub use frozen::{DIGEST_FORMAT, Frozen};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use write::sealed;
