//! `triarch job`, `task`, `queue`, `worker`, `cluster`: tables for reading, JSON for programs.

use std::time::Duration;

use serde_json::Value;
use triarch_harness::{Cli, Cluster, eventually};

use crate::with_worker;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a command with table output and with JSON output, and returns both.
async fn both(cli: &Cli, args: &[&str]) -> (String, Value) {
    let people = cli.run(args).await.expect(0);
    let mut with_json = args.to_vec();
    with_json.extend(["--output", "json"]);
    let programs = cli.run(&with_json).await.expect(0);
    (people.stdout, programs.json())
}

#[tokio::test]
async fn job_and_task_commands_print_tables_and_json() {
    let cluster = with_worker(3).await;
    let cli = cluster.cli();
    let ran = cli
        .run(&[
            "submit", "--name", "greeting", "--wait", "--output", "json", "--", "echo", "hello",
        ])
        .await
        .expect(0);
    let submitted = ran.json();
    let job = submitted["job"]["id"].as_str().expect("an id").to_owned();
    let task = submitted["tasks"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();

    let (people, programs) = both(&cli, &["job", "list"]).await;
    assert!(
        people.contains(&job) && people.contains("greeting") && people.contains("succeeded"),
        "{people}"
    );
    assert_eq!(programs["jobs"][0]["id"], job.as_str());
    let (people, programs) = both(&cli, &["job", "show", &job]).await;
    assert!(
        people.contains("greeting") && people.contains("1 succeeded"),
        "{people}"
    );
    assert_eq!(programs["counts"]["succeeded"], 1);
    let (people, programs) = both(&cli, &["job", "wait", &job]).await;
    assert_eq!(
        (people.as_str(), &programs["state"]),
        ("succeeded\n", &Value::from("succeeded"))
    );
    let (people, programs) = both(&cli, &["job", "list", "--state", "failed"]).await;
    assert!(!people.contains(&job), "{people}");
    assert_eq!(programs["jobs"].as_array().map(Vec::len), Some(0));

    let (people, programs) = both(&cli, &["task", "list", "--job", &job]).await;
    assert!(
        people.contains(&task) && people.contains("exec"),
        "{people}"
    );
    assert_eq!(programs["tasks"][0]["id"], task.as_str());
    let (people, _) = both(
        &cli,
        &["task", "list", "--queue", "default", "--state", "succeeded"],
    )
    .await;
    assert!(people.contains(&task), "{people}");
    let (people, programs) = both(&cli, &["task", "show", &task]).await;
    assert!(
        people.contains("hello") && people.contains("succeeded"),
        "{people}"
    );
    assert_eq!(programs["attempts"][0]["outcome"], "succeeded");
    let (people, programs) = both(&cli, &["task", "wait", &task]).await;
    assert_eq!(
        (people.as_str(), &programs["result"]["exit_code"]),
        ("hello\n", &Value::from(0))
    );
}

#[tokio::test]
async fn cancel_and_retry_commands_print_the_new_state() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let job = cli
        .run(&["submit", "--delay", "10m", "--", "true"])
        .await
        .expect(0)
        .stdout
        .trim()
        .to_owned();
    cli.run(&["job", "cancel", &job])
        .await
        .expect(0)
        .shows("cancelled");
    // A cancelled job counts as not succeeded.
    cli.run(&["job", "wait", &job])
        .await
        .expect(1)
        .shows("cancelled");

    let ran = cli
        .run(&["submit", "--delay", "10m", "--output", "json", "--", "true"])
        .await
        .expect(0);
    let task = ran.json()["tasks"][0].as_str().expect("an id").to_owned();
    cli.run(&["task", "cancel", &task])
        .await
        .expect(0)
        .shows("cancelled");
    cli.run(&["task", "wait", &task]).await.expect(1);
    cli.run(&["task", "retry", &task]).await.expect(0);
    cli.run(&["task", "wait", &task]).await.expect(0);
}

#[tokio::test]
async fn worker_queue_and_cluster_commands_print_tables_and_json() {
    let mut cluster = with_worker(3).await;
    let cli = cluster.cli();
    let (people, programs) = both(&cli, &["worker", "list"]).await;
    assert!(
        people.contains("worker-1") && people.contains("live"),
        "{people}"
    );
    let worker = programs["workers"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let (people, programs) = both(&cli, &["worker", "show", &worker]).await;
    assert!(people.contains("worker-1"), "{people}");
    assert_eq!(programs["slots"], 4);

    cli.run(&["submit", "--queue", "later", "--", "true"])
        .await
        .expect(0);
    let (people, programs) = both(&cli, &["queue", "list"]).await;
    assert!(
        people.contains("default") && people.contains("later"),
        "{people}"
    );
    let queues = programs["queues"].as_array().expect("queues");
    assert!(
        queues
            .iter()
            .any(|queue| queue["name"] == "later" && queue["depth"] == 1),
        "{programs}"
    );

    // The leader may change between the two commands.
    eventually(WAIT_TIMEOUT, "both outputs show the leader", async || {
        let people = cli.cluster_status(&[]).await.stdout;
        let programs = cli.cluster_status(&["--output", "json"]).await.json();
        assert_eq!(programs["nodes"].as_array().map(Vec::len), Some(3));
        let leader = programs["leader"].as_u64().expect("it succeeded");
        let shown = people.contains(&format!("node {leader}"));
        (shown && people.contains(&cluster.addr(leader))).then_some(())
    })
    .await;
    // A stopped master is shown as such, and the rest of the cluster works.
    let down = cluster.follower().await;
    cluster.kill9(down);
    triarch_harness::until(
        std::time::Duration::from_secs(30),
        "the dead master is shown as such",
        async || {
            let ran = cli.cluster_status(&["--output", "json"]).await;
            ran.json()["nodes"][down as usize - 1]["state"] == "unreachable"
        },
    )
    .await;

    // A drained worker finishes its tasks and leaves.
    cli.run(&["worker", "drain", &worker]).await.expect(0);
    let status = cluster
        .worker_process(0)
        .wait(std::time::Duration::from_secs(30))
        .await;
    assert!(status.success(), "{status}");
    let (people, _) = both(&cli, &["worker", "list", "--state", "left"]).await;
    assert!(people.contains("worker-1"), "{people}");
}

#[tokio::test]
async fn long_lists_are_paged() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    let cli = cluster.cli();
    cli.run(&["submit", "--array", "1-7", "--delay", "10m", "--", "true"])
        .await
        .expect(0);
    let page = cli
        .run(&["task", "list", "--limit", "5", "--output", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(page["tasks"].as_array().map(Vec::len), Some(5));
    let next = page["next"].as_str().expect("there are more");
    let rest = cli
        .run(&["task", "list", "--after", next, "--output", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(
        (rest["tasks"].as_array().map(Vec::len), &rest["next"]),
        (Some(2), &Value::Null)
    );
    // The hint that there are more pages goes to stderr, not into the table.
    let people = cli.run(&["task", "list", "--limit", "5"]).await.expect(0);
    people.says(next);
}

#[tokio::test]
async fn a_worker_is_shown_by_its_name_with_its_load() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&[]);
    cluster.wait_workers(1).await;
    let cli = cluster.cli();
    let shown = cli
        .run(&["worker", "pause", "worker-1", "--output", "json"])
        .await
        .expect(0);
    assert_eq!(shown.json()["state"], "paused");
    cli.run(&["worker", "resume", "worker-1"]).await.expect(0);
    cli.run(&["worker", "show", "nobody"])
        .await
        .expect(1)
        .says("no worker is called 'nobody'");
    eventually(WAIT_TIMEOUT, "the machine's load is told", async || {
        let shown = cli
            .run(&["worker", "show", "worker-1", "--output", "json"])
            .await
            .expect(0)
            .json();
        let load = &shown["load"];
        (load["cpu"].is_number() && load["mem_mb"].is_number()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_watch_option_prints_the_output_repeatedly() {
    let cluster = with_worker(1).await;
    let watched = async |rest: &str| {
        // `head` closes the pipe after some lines, which ends the command like Ctrl-C.
        let script = format!("\"$0\" {rest} --masters {}", cluster.masters());
        let mut command = cluster.marked("sh");
        command
            .arg("-c")
            .arg(script + " --watch | head -n 8")
            .arg(triarch_harness::binary::triarch());
        let watching = tokio::process::Command::from(command).output();
        let output = tokio::time::timeout(WAIT_TIMEOUT, watching).await;
        let output = output.expect("in time").expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let programs = watched("queue list --output json").await;
    assert_eq!(programs.lines().count(), 8);
    for line in programs.lines() {
        let list: Value = serde_json::from_str(line).expect("a document on each line");
        assert!(list["queues"].is_array());
    }
    let people = watched("worker list").await;
    let headers = people.lines().filter(|line| line.contains("SLOTS"));
    assert!(headers.count() >= 2, "{people}");
    assert!(people.lines().any(str::is_empty), "{people}");
    // `--watch` does not repeat a request that was refused.
    let refused = cluster.cli();
    let refused = refused.run(&["task", "list", "--job", "j999999-0", "--watch"]);
    refused.await.expect(1);
}
