//! Client operations on the log: proposals with group commit, piggybacked commands, and linearizable reads by
//! ReadIndex.

pub(crate) mod batcher;
pub(crate) mod committed;
pub(crate) mod entry_writer;
pub(crate) mod options;
pub(crate) mod piggyback;
pub(crate) mod read_index;
