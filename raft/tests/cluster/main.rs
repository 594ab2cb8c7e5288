//! Whole clusters in one process, over real TCP and real directories.

mod harness;
mod wires;

mod agreement;
mod cuts;
mod forming;
mod leading;
mod restarts;
mod snapshots;
