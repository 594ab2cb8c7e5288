//! Whole clusters in one process, over real TCP and real directories.

mod harness;
mod links;

mod bootstrap;
mod divergence;
mod hostile_peers;
mod leadership;
mod levels;
mod partitions;
mod readiness;
mod removed_nodes;
mod restarts;
mod restored_disks;
mod snapshots;
mod stalled_commits;
