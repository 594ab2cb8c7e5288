//! Whole clusters in one process, over real TCP and real directories.

mod harness;
mod links;

mod bootstrap;
mod divergence;
mod leadership;
mod partitions;
mod readiness;
mod restarts;
mod snapshots;
mod stalled_commits;
