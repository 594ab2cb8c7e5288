//! The command line as users type it, against real clusters: its stdout, its stderr, and its exit codes.

mod bench;
mod dev;
mod inspect;
mod schedule;
mod submit;
mod usage;

use triarch_harness::Cluster;

/// A cluster with one worker, ready to run commands.
async fn with_worker(nodes: u64) -> Cluster {
    let mut cluster = Cluster::start(nodes).await;
    cluster.worker(&["--slots", "4"]);
    cluster.wait_workers(1).await;
    cluster
}
