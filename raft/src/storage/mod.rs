//! Local storage: the data directory, openraft's log over it, snapshots, and free disk space.

pub(crate) mod disk_space;
pub(crate) mod log_store;
pub(crate) mod open;
pub(crate) mod snapshot_store;
