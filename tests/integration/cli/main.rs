//! The command line as users type it, against real clusters: its stdout, its stderr, and its exit codes.

mod bench;
mod bulk_changes;
mod completions;
mod dev;
mod inspect;
mod schedule;
mod submit;
mod submit_options;
mod terminal_text;
mod usage;

use std::time::Duration;

use triarch_harness::Cluster;

/// For something to happen, on a slow and busy machine too.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A cluster with one worker, ready to run commands.
async fn with_worker(nodes: u64) -> Cluster {
    let mut cluster = Cluster::start(nodes).await;
    cluster.worker(&["--slots", "4"]);
    cluster.wait_workers(1).await;
    cluster
}
