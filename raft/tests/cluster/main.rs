//! Whole clusters in one process, over real TCP and real directories.

mod harness;

mod forming;
mod leading;
mod restarts;
mod snapshots;
