//! `triarch submit` for users of Slurm, xargs and ssh: arrays with steps, lines of input, exit codes, output as it comes.

use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use triarch_harness::Cluster;

use crate::{WAIT_TIMEOUT, with_worker};

/// Starts a command whose output is read while it runs.
fn start(cluster: &Cluster, args: &[&str]) -> tokio::process::Child {
    let mut command =
        tokio::process::Command::from(cluster.marked(triarch_harness::binary::triarch()));
    command
        .args(args)
        .env("TRIARCH_MASTERS", cluster.masters())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().expect("started")
}

/// Reads lines until one contains this text.
async fn line_with(from: impl tokio::io::AsyncRead + Unpin, wanted: &str) -> String {
    let mut lines = BufReader::new(from).lines();
    let found = async {
        loop {
            let line = lines.next_line().await.expect("readable");
            let line = line.unwrap_or_else(|| panic!("it ended without {wanted:?}"));
            if line.contains(wanted) {
                break line;
            }
        }
    };
    let found = tokio::time::timeout(WAIT_TIMEOUT, found).await;
    found.unwrap_or_else(|_| panic!("{wanted:?} did not come"))
}

#[tokio::test]
async fn a_job_is_submitted_after_others_and_says_what_it_waits_for() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let gate = cluster.root().join("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
    let first = cli
        .run(&["submit", "--no-stdin", "--", "sh", "-c", &wait])
        .await
        .expect(0);
    let first = first.stdout.trim();
    let ended = format!("{first}:ended");
    let second = cli
        .run(&["submit", "--no-stdin", "--after", &ended, "--", "true"])
        .await
        .expect(0);
    let second = second.stdout.trim();
    let shown = cli.run(&["job", "show", second]).await.expect(0);
    shown.shows(&format!("{first} (ended: awaited)"));
    let task = second.replacen('j', "t", 1);
    let why = cli.run(&["task", "explain", &task]).await.expect(0);
    why.shows(&format!("its job waits for {first} (ended)"));
    std::fs::write(&gate, "").expect("writable");
    cli.run(&["job", "wait", second]).await.expect(0);
    cli.run(&["submit", "--no-stdin", "--after", "j1-99", "--", "true"])
        .await
        .expect(1)
        .says("there is no job j1-99");
    for wrong in ["", ":failed", "j1-0:soon"] {
        cli.run(&["submit", "--after", wrong, "--", "true"])
            .await
            .expect(2);
    }
}

#[tokio::test]
async fn an_array_takes_lists_steps_and_a_limit_on_running_tasks() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let ran = cli
        .run(&[
            "submit",
            "--array",
            "0-10:5,7,1-2%2",
            "--wait",
            "-o",
            "json",
            "--",
            "sh",
            "-c",
            "echo $TRIARCH_ARRAY_INDEX",
        ])
        .await
        .expect(0);
    let tasks = ran.json()["tasks"].clone();
    let tasks = tasks.as_array().expect("a list");
    let keys: Vec<&str> = tasks
        .iter()
        .filter_map(|task| task["key"].as_str())
        .collect();
    assert_eq!(keys, ["0", "5", "10", "7", "1", "2"]);
    for task in tasks {
        assert_eq!(task["concurrency_limit"], 2, "{task}");
        assert_eq!(task["concurrency_key"], tasks[0]["concurrency_key"]);
        let index = format!("{}\n", task["key"].as_str().expect("a key"));
        assert_eq!(task["result"]["stdout"], index);
    }
    // Another job has a limit of its own.
    let other = cli
        .run(&[
            "submit",
            "--concurrency",
            "1",
            "--wait",
            "-o",
            "json",
            "--",
            "true",
        ])
        .await
        .expect(0);
    assert_ne!(
        other.json()["tasks"][0]["concurrency_key"],
        tasks[0]["concurrency_key"]
    );
    for wrong in ["1-5:0", "1-10%0", "a", "1,"] {
        cli.run(&["submit", "--array", wrong, "--", "true"])
            .await
            .expect(2)
            .says(wrong);
    }
}

#[tokio::test]
async fn standard_input_goes_to_the_task_or_becomes_one_task_for_each_line() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let cat = ["submit", "--wait", "--", "cat"];
    let ran = cli.run_with_input(&cat, "some data\n").await.expect(0);
    assert_eq!(ran.stdout, "some data\n");
    ran.says("10 bytes");
    let ran = cli
        .run_with_input(
            &["submit", "--no-stdin", "--wait", "--", "cat"],
            "some data\n",
        )
        .await
        .expect(0);
    assert_eq!(ran.stdout, "");
    let ran = cli
        .run_with_input(
            &["submit", "--each-line", "--wait", "--", "echo", "<{}>"],
            "a b\n\n  \n$c\n",
        )
        .await
        .expect(0);
    assert_eq!(ran.stdout, "<a b>\n<$c>\n");
    cli.run_with_input(&["submit", "--each-line", "--", "echo"], "\n")
        .await
        .expect(2)
        .says("no lines");
}

#[tokio::test]
async fn the_exit_code_of_the_task_is_propagated_on_request() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let run = async |more: &[&str], script: &str| {
        let mut args = vec!["submit", "--wait", "--retries", "0"];
        args.extend(more);
        args.extend(["--", "sh", "-c", script]);
        cli.run(&args).await
    };
    run(&[], "exit 7").await.expect(1);
    let propagate = "--propagate-exit-code";
    run(&[propagate], "exit 7").await.expect(7);
    run(&[propagate], "exit 0").await.expect(0);
    run(&[propagate], "kill -9 $$").await.expect(137);
    run(&[propagate, "--timeout", "200ms"], "sleep 600")
        .await
        .expect(124);
    let highest = "exit $TRIARCH_ARRAY_INDEX";
    run(&[propagate, "--array", "3,9,4"], highest)
        .await
        .expect(9);
    cli.run(&["submit", propagate, "--", "true"])
        .await
        .expect(2);
}

#[tokio::test]
async fn labels_resources_tags_and_variables_of_the_shell_reach_the_task() {
    let mut cluster = Cluster::start(1).await;
    cluster.worker(&["--label", "zone=eu", "--resource", "mem_mb=100"]);
    cluster.wait_workers(1).await;
    let cli = cluster.cli();
    let ran = cli
        .run(&[
            "submit",
            "--label",
            "zone=eu",
            "--resource",
            "mem_mb=60",
            "--tag",
            "blue",
            "--tag",
            "red",
            "-e",
            "PATH",
            "-e",
            "NO_SUCH_VARIABLE",
            "--wait",
            "-o",
            "json",
            "--",
            "sh",
            "-c",
            "echo ${NO_SUCH_VARIABLE-unset}",
        ])
        .await
        .expect(0);
    let task = &ran.json()["tasks"][0];
    assert_eq!(
        (&task["requires"], &task["tags"], &task["result"]["stdout"]),
        (
            &json!({"labels": {"zone": "eu"}, "resources": {"mem_mb": 60}}),
            &json!(["blue", "red"]),
            &json!("unset\n")
        ),
        "{task}"
    );
    let id = task["id"].as_str().expect("an id");
    cli.run(&["task", "list", "--tag", "red"])
        .await
        .expect(0)
        .shows(id);
    let none = cli.run(&["task", "list", "--tag", "green"]).await.expect(0);
    assert!(!none.stdout.contains(id), "{none:#?}");
}

#[tokio::test]
async fn output_comes_while_the_task_runs() {
    let cluster = with_worker(1).await;
    let go = cluster.root().join("go");
    let script = format!(
        "echo begun; while [ ! -e '{}' ]; do sleep 0.05; done; echo ended",
        go.display()
    );
    let mut child = start(&cluster, &["submit", "--wait", "--", "sh", "-c", &script]);
    let mut stdout = child.stdout.take().expect("piped");
    line_with(&mut stdout, "begun").await;
    std::fs::write(&go, "").expect("a file can be written");
    line_with(&mut stdout, "ended").await;
    let status = tokio::time::timeout(WAIT_TIMEOUT, child.wait()).await;
    assert!(status.expect("it ends").expect("reaped").success());
}

#[tokio::test]
async fn a_wait_without_progress_says_why() {
    let cluster = with_worker(1).await;
    let mut child = start(
        &cluster,
        &["submit", "--wait", "--queue", "nobody", "--", "true"],
    );
    let stderr = child.stderr.take().expect("piped");
    let why = line_with(stderr, "does not run yet").await;
    assert!(why.contains("no worker") && why.contains("nobody"), "{why}");
}
