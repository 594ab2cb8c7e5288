//! A master that was removed learns it, says so, and does not come back.

use triarch_harness::{Cluster, eventually, until};

use crate::job_helpers::{WAIT_TIMEOUT, assert_works};

#[tokio::test]
async fn a_removed_master_says_so_and_ends_with_1_when_it_is_started_again() {
    let mut cluster = Cluster::start(3).await;
    let (_, removed) = cluster.leader_and_follower().await;
    let cli = cluster.cli();
    let id = removed.to_string();
    until(WAIT_TIMEOUT, "the master is removed", async || {
        cli.run(&["cluster", "remove", &id]).await.code == Some(0)
    })
    .await;
    let words = format!("node {removed} was removed from the cluster by log entry");
    let api = cluster.api(removed);
    eventually(WAIT_TIMEOUT, "it says so to probes", async || {
        let reply = api
            .call(reqwest::Method::GET, "/readyz")
            .send()
            .await
            .ok()?;
        // Until it learns of its removal, it is a follower without a leader.
        let detail =
            (reply.status == 503).then(|| reply.refused(503, "no_leader")["detail"].to_string())?;
        detail.contains(&words).then_some(())
    })
    .await;
    let status = cluster.cli().masters(&cluster.url(removed));
    let status = status.run(&["cluster", "status"]).await;
    status.expect(1).says(&words);
    assert!(cluster.log_line_of(removed).contains(&words));
    cluster.terminate(removed).await;

    // Started again, and again, it ends at once.
    for _ in 0..2 {
        cluster.restart(removed);
        let ended = cluster.node(removed).wait(WAIT_TIMEOUT).await;
        assert_eq!(ended.code(), Some(1));
    }
    assert!(cluster.log_line_of(removed).contains("--join"));
    assert_works(&mut cluster).await;
}
