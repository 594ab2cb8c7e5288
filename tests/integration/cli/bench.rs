//! `triarch bench`: it measures exactly the tasks that it submitted, and leaves nothing in the cluster.

use std::time::Duration;

use serde_json::{Value, json};
use triarch_harness::{Cli, Cluster, binary, until};

/// Runs a benchmark that must succeed, and returns its JSON output.
async fn bench(cli: &Cli, args: &[&str]) -> Value {
    let mut line = vec!["bench", "--output", "json"];
    line.extend(args);
    let report = cli.run(&line).await.expect(0).json();
    assert_eq!(report["check"]["wrong"], json!([]), "{report}");
    assert_eq!(report["check"]["twice"], json!(0), "{report}");
    report
}

/// The state of the cluster is the same as before the benchmark.
async fn nothing_is_left(cluster: &mut Cluster) {
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let jobs = api.get("/v1/jobs").await.expect(200);
    assert_eq!(jobs["jobs"], json!([]), "{jobs}");
    let queues = api.get("/v1/queues").await.expect(200);
    let queues = queues["queues"].as_array().expect("a list").clone();
    assert!(
        queues.iter().all(|queue| queue["name"] == "default"),
        "{queues:?}"
    );
    let workers = api.get("/v1/workers?state=live").await.expect(200);
    assert_eq!(workers["workers"], json!([]), "{workers}");
}

#[tokio::test]
async fn every_bench_mode_checks_its_results_and_cleans_up() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let cli = cluster.cli();

    let report = bench(
        &cli,
        &["--tasks", "250", "--batch", "100", "--workers", "2"],
    )
    .await;
    assert_eq!(
        (&report["tasks"], &report["jobs"]),
        (&json!(250), &json!(3))
    );
    assert_eq!(report["check"]["results"], json!(250));
    assert_eq!(report["latency_ms"]["life"]["count"], json!(250));
    assert!(report["tasks_per_s"].as_f64() > Some(0.0), "{report}");
    let measured = &report["leader"];
    for part in ["queueing_ms", "commit_ms", "log_sync_ms", "apply_ms"] {
        assert!(
            measured[part]["count"].as_u64() > Some(0),
            "{part}: {measured}"
        );
    }
    nothing_is_left(&mut cluster).await;

    let report = bench(
        &cli,
        &["--mode", "submit", "--tasks", "120", "--batch", "50"],
    )
    .await;
    assert_eq!(report["check"]["unfinished"], json!(120));
    nothing_is_left(&mut cluster).await;

    let report = bench(&cli, &["--mode", "round-trip", "--tasks", "20"]).await;
    assert_eq!(report["latency_ms"]["round trip"]["count"], json!(20));

    let report = bench(
        &cli,
        &[
            "--mode", "exec", "--tasks", "30", "--batch", "10", "--slots", "4",
        ],
    )
    .await;
    assert_eq!(report["check"]["results"], json!(30));
    nothing_is_left(&mut cluster).await;

    let idle = [
        "--mode",
        "idle",
        "--workers",
        "20",
        "--seconds",
        "1",
        "--rate",
        "20",
    ];
    let report = bench(&cli, &idle).await;
    assert_eq!(report["check"]["results"], json!(20));
    assert_eq!(report["idle"]["masters"].as_array().map(Vec::len), Some(3));

    let report = bench(
        &cli,
        &["--mode", "mixed", "--tasks", "60", "--clients", "2"],
    )
    .await;
    assert!(
        report["latency_ms"]["list"]["count"].as_u64() > Some(0),
        "{report}"
    );
    nothing_is_left(&mut cluster).await;
    assert_eq!(
        cluster.leader().await,
        leader,
        "it was measured without an election"
    );
}

#[tokio::test]
async fn bench_prints_tables_and_leaves_other_jobs_alone() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    let cli = cluster.cli();
    let mine = cli
        .run(&["submit", "--queue", "mine", "--", "true"])
        .await
        .expect(0);
    let ran = cli
        .run(&["bench", "--tasks", "10", "--rate", "100", "--batch", "5"])
        .await
        .expect(0);
    ran.shows("tasks/s")
        .shows("P99")
        .shows("fdatasync")
        .shows("10 results");
    cli.run(&["job", "show", mine.stdout.trim()])
        .await
        .expect(0)
        .shows("running");
}

#[tokio::test]
async fn an_interrupted_bench_leaves_nothing_behind() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let mut command = cluster.marked(binary::triarch());
    command.args(["bench", "--seconds", "600", "--rate", "50"]);
    command.args(["--masters", &cluster.masters()]);
    let mut running = cluster.spawn("bench", command);
    let api = cluster.api(leader);
    until(Duration::from_secs(30), "it has begun", async || {
        let jobs = api.get("/v1/jobs").await.expect(200);
        jobs["jobs"].as_array().is_some_and(|jobs| !jobs.is_empty())
    })
    .await;
    running.interrupt();
    let ended = running.wait(Duration::from_secs(60)).await;
    assert_eq!(ended.code(), Some(130), "{}", running.last_words());
    assert!(
        running.log().contains("deleted from the cluster"),
        "{}",
        running.last_words()
    );
    nothing_is_left(&mut cluster).await;
}
