//! Exit codes: 0 success; 1 the requested work failed; 2 wrong usage; 3 no cluster reachable.

use triarch_harness::{Cli, Cluster};

#[tokio::test]
async fn a_missing_object_exits_with_1() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    let cli = cluster.cli();
    for args in [
        &["job", "show", "j999-0"][..],
        &["job", "show", "nonsense"],
        &["job", "wait", "j999-0"],
        &["job", "cancel", "j999-0"],
        &["task", "show", "t999-0"],
        &["task", "wait", "t999-0"],
        &["task", "cancel", "t999-0"],
        &["task", "retry", "t999-0"],
        &["worker", "show", "w999-0"],
        &["worker", "drain", "w999-0"],
        &["cluster", "transfer-leader", "9"],
    ] {
        let ran = cli.run(args).await.expect(1);
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{ran:#?}");
    }
}

#[tokio::test]
async fn bad_usage_exits_with_2_and_sends_no_request() {
    // No cluster runs at this address, and none is needed for wrong usage.
    let cli = Cli::new("usage").masters("http://127.0.0.1:1");
    for args in [
        &[][..],
        &["frobnicate"],
        &["job"],
        &["job", "show"],
        &["job", "list", "--state", "done"],
        &["job", "list", "--limit", "0"],
        &["task", "list", "--job", "j1-0", "--state", "queued"],
        &["submit"],
        &["submit", "echo", "hi"],
        &["submit", "--priority", "10", "--", "true"],
        &["submit", "--delay", "5", "--", "true"],
        &["submit", "--file", "job.json", "--", "true"],
        &["--masters", "ftp://127.0.0.1:7101", "job", "list"],
        &["--output", "xml", "job", "list"],
        &["worker", "--slots", "0"],
        &["worker", "--log", "inof"],
        &["queue", "set", "q", "--rate", "nan"],
        &["queue", "set", "q", "--rate", "inf"],
        &["queue", "set", "q", "--rate", "1e400"],
        &["task", "logs", "t1-0", "--attempt", "0"],
        &["worker", "--label", "zone"],
        &[
            "server",
            "--id",
            "0",
            "--data-dir",
            "/nowhere",
            "--cluster",
            "1=127.0.0.1:1",
        ],
        &[
            "server",
            "--id",
            "2",
            "--data-dir",
            "/nowhere",
            "--cluster",
            "1=127.0.0.1:1",
        ],
        &["server", "--id", "1", "--data-dir", "/nowhere"],
        &["dev", "--nodes", "0"],
        &["dev", "--port", "65535"],
        &["bench", "--mode", "fast"],
        &["bench", "--tasks", "0"],
        &["bench", "--rate", "0"],
    ] {
        let ran = cli.run(args).await.expect(2);
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{ran:#?}");
    }
}

#[tokio::test]
async fn an_unreachable_cluster_exits_with_3_and_names_its_addresses() {
    let cli = Cli::new("nobody");
    // Ports on which only root can listen, and on which no process listens.
    let masters = "http://127.0.0.1:1,http://127.0.0.1:2";
    for args in [
        &["job", "list"][..],
        &["submit", "--", "true"],
        &["cluster", "status"],
        &["worker", "list"],
        &["queue", "list"],
        &["task", "show", "t1-0"],
    ] {
        let mut with_masters = vec!["--masters", masters];
        with_masters.extend(args);
        let ran = cli.run(&with_masters).await.expect(3);
        assert!(ran.stdout.is_empty(), "{ran:#?}");
        ran.says("127.0.0.1:1").says("127.0.0.1:2");
    }
}

#[tokio::test]
async fn a_cluster_without_a_quorum_exits_with_3() {
    let mut cluster = Cluster::start(3).await;
    let survivor = cluster.follower().await;
    for node in cluster.ids().filter(|id| *id != survivor) {
        cluster.kill9(node);
    }
    let cli = cluster.cli();
    cli.run(&["job", "list"]).await.expect(3);
    // The state that the last master knows is still shown. The command fails, because no master leads.
    let ran = cli.run(&["cluster", "status"]).await;
    assert_ne!(ran.code, Some(0), "{ran:#?}");
}

#[tokio::test]
async fn one_reachable_master_is_enough() {
    let mut cluster = Cluster::start(3).await;
    let down = cluster.follower().await;
    cluster.kill9(down);
    let dead_first = format!("{},{}", cluster.url(down), cluster.masters());
    let cli = Cli::new("dead-first");
    cli.run(&["--masters", &dead_first, "job", "list"])
        .await
        .expect(0);
    // The option has precedence over the environment variable.
    let cli = cli.masters("http://127.0.0.1:1");
    cli.run(&["job", "list", "--masters", &dead_first])
        .await
        .expect(0);
}

#[tokio::test]
async fn help_and_version_exit_with_0_and_go_to_stdout() {
    let cli = Cli::new("help");
    for args in [
        &["--help"][..],
        &["--version"],
        &["submit", "--help"],
        &["server", "--help"],
        &["worker", "--help"],
        &["dev", "--help"],
        &["help", "job"],
    ] {
        let ran = cli.run(args).await.expect(0);
        assert!(!ran.stdout.is_empty(), "{ran:#?}");
    }
}
