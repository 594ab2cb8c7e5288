//! `triarch submit`: command lines and job files, waiting for the result, and refusals.

use serde_json::json;
use triarch_harness::Cluster;

use crate::with_worker;

#[tokio::test]
async fn submit_prints_the_output_of_the_command() {
    let cluster = with_worker(3).await;
    let cli = cluster.cli();
    let ran = cli
        .run(&[
            "submit",
            "--wait",
            "--",
            "sh",
            "-c",
            "echo hello; echo aside >&2",
        ])
        .await
        .expect(0);
    assert_eq!(
        ran.stdout, "hello\n",
        "nothing but what the task wrote: {ran:#?}"
    );
    ran.says("aside");
}

#[tokio::test]
async fn submit_without_waiting_prints_only_the_job_id() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let ran = cli
        .run(&["submit", "--", "sh", "-c", "exit 0"])
        .await
        .expect(0);
    let id = ran.stdout.trim();
    assert!(
        !id.is_empty() && !id.contains(char::is_whitespace),
        "{ran:#?}"
    );
    // The output is only the id, so the next command can use it.
    cli.run(&["job", "wait", id])
        .await
        .expect(0)
        .shows("succeeded");
    let ran = cli
        .run(&["submit", "--output", "json", "--", "true"])
        .await
        .expect(0);
    let submitted = ran.json();
    assert_eq!(
        submitted["tasks"].as_array().map(Vec::len),
        Some(1),
        "{submitted}"
    );
}

#[tokio::test]
async fn submit_of_a_job_that_fails_exits_with_1() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let script = "echo so far; echo oops >&2; exit 3";
    let ran = cli
        .run(&[
            "submit",
            "--wait",
            "--retries",
            "0",
            "--",
            "sh",
            "-c",
            script,
        ])
        .await
        .expect(1);
    assert_eq!(ran.stdout, "so far\n");
    ran.says("oops").says("failed");
    let ran = cli
        .run(&[
            "submit",
            "--wait",
            "--retries",
            "0",
            "--",
            "/no/such/program",
        ])
        .await
        .expect(1);
    ran.says("/no/such/program");
    let ran = cli
        .run(&[
            "submit",
            "--wait",
            "--retries",
            "0",
            "--timeout",
            "200ms",
            "--",
            "sleep",
            "600",
        ])
        .await;
    ran.expect(1).says("time");
}

#[tokio::test]
async fn every_submit_option_reaches_the_task() {
    let mut cluster = Cluster::start(1).await;
    cluster.worker(&["--slots", "1", "--queues", "builds"]);
    cluster.wait_workers(1).await;
    let cli = cluster.cli();
    let ran = cli
        .run(&[
            "submit",
            "--queue",
            "builds",
            "--priority",
            "7",
            "--delay",
            "100ms",
            "--timeout",
            "30s",
            "--retries",
            "4",
            "--env",
            "NAME=value",
            "--cwd",
            "/",
            "--name",
            "nightly",
            "--key",
            "k1",
            "--wait",
            "--output",
            "json",
            "--",
            "sh",
            "-c",
            "echo $NAME in $(pwd)",
        ])
        .await
        .expect(0);
    let (job, task) = (&ran.json()["job"], &ran.json()["tasks"][0]);
    assert_eq!(
        (&job["name"], &job["idempotency_key"], &job["state"]),
        (&json!("nightly"), &json!("k1"), &json!("succeeded"))
    );
    assert_eq!(
        (&task["queue"], &task["priority"]),
        (&json!("builds"), &json!(7)),
        "{task}"
    );
    assert_eq!(
        (&task["max_attempts"], &task["timeout_ms"]),
        (&json!(5), &json!(30_000)),
        "{task}"
    );
    assert_eq!(task["result"]["stdout"], "value in /\n");
}

#[tokio::test]
async fn submit_of_an_array_makes_one_job_of_many_tasks() {
    let cluster = with_worker(3).await;
    let cli = cluster.cli();
    let script = "echo item $TRIARCH_ARRAY_INDEX";
    let ran = cli
        .run(&[
            "submit", "--array", "1-20", "--wait", "--", "sh", "-c", script,
        ])
        .await
        .expect(0);
    let expected: String = (1..=20).map(|nth| format!("item {nth}\n")).collect();
    assert_eq!(ran.stdout, expected);
    // One failed task fails the job, and is named in the output.
    let script = "[ $TRIARCH_ARRAY_INDEX != 2 ]";
    let ran = cli
        .run(&[
            "submit",
            "--array",
            "1-3",
            "--retries",
            "0",
            "--wait",
            "--",
            "sh",
            "-c",
            script,
        ])
        .await;
    ran.expect(1).says("(key 2)");
    cli.run(&["submit", "--array", "3-1", "--", "true"])
        .await
        .expect(2);
    cli.run(&["submit", "--array", "1-100001", "--", "true"])
        .await
        .expect(2);
    // A job that is too large for one request is sent in parts, and is still one job.
    let submitted = cli
        .run(&[
            "submit", "--queue", "nobody", "--array", "1-10001", "--", "true",
        ])
        .await
        .expect(0);
    let job = cli
        .run(&["job", "show", submitted.stdout.trim(), "--output", "json"])
        .await
        .expect(0);
    assert_eq!(job.json()["counts"]["queued"], json!(10_001));
}

#[tokio::test]
async fn submitting_an_idempotency_key_again_returns_the_first_job() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let first = cli
        .run(&["submit", "--key", "once", "--", "echo", "one"])
        .await
        .expect(0);
    let second = cli
        .run(&["submit", "--key", "once", "--", "echo", "one"])
        .await
        .expect(0);
    assert_eq!(first.stdout, second.stdout);
    second.says("submitted before");
    cli.run(&["submit", "--key", "once", "--", "echo", "two"])
        .await
        .expect(1)
        .says("another body");
    // Without a key, two submissions make two jobs.
    let third = cli.run(&["submit", "--", "echo", "one"]).await.expect(0);
    let fourth = cli.run(&["submit", "--", "echo", "one"]).await.expect(0);
    assert_ne!(third.stdout, fourth.stdout);
}

#[tokio::test]
async fn a_job_can_come_from_a_file_or_a_pipe() {
    let cluster = with_worker(1).await;
    let cli = cluster.cli();
    let task = |word: &str| json!({"kind": "exec", "key": word, "payload": {"argv": ["cat"], "stdin": format!("{word}\n")}});
    let job = json!({"name": "from afar", "tasks": [task("one"), task("two")]}).to_string();
    let path = cluster.root().join("job.json");
    std::fs::write(&path, &job).expect("a file can be written");
    let path = path.to_str().expect("UTF-8");

    let ran = cli
        .run(&["submit", "--file", path, "--wait"])
        .await
        .expect(0);
    assert_eq!(ran.stdout, "one\ntwo\n");
    for from_pipe in [
        &["submit", "-", "--wait"][..],
        &["submit", "--file", "-", "--wait"],
    ] {
        let ran = cli.run_with_input(from_pipe, &job).await.expect(0);
        assert_eq!(ran.stdout, "one\ntwo\n", "{ran:#?}");
    }

    cli.run(&["submit", "--file", "/no/such/file"])
        .await
        .expect(2)
        .says("/no/such/file");
    cli.run_with_input(&["submit", "-"], "not JSON")
        .await
        .expect(2)
        .says("stdin");
    cli.run_with_input(
        &["submit", "-"],
        r#"{"tasks": [{"kind": "exec", "prio": 3}]}"#,
    )
    .await
    .expect(2)
    .says("prio");
    // The cluster refuses what only the cluster can check.
    let refused = cli
        .run_with_input(
            &["submit", "-"],
            r#"{"tasks": [{"kind": "exec", "priority": 99}]}"#,
        )
        .await;
    refused.expect(1).says("priority");
}

#[tokio::test]
async fn submit_waits_over_the_death_of_the_leader() {
    let mut cluster = with_worker(3).await;
    let leader = cluster.leader().await;
    let go = cluster.root().join("go");
    let script = format!(
        "while [ ! -e '{}' ]; do sleep 0.05; done; echo survived",
        go.display()
    );
    let (cli, api) = (cluster.cli(), cluster.api(leader));
    let waiting = tokio::spawn(async move {
        cli.run(&["submit", "--wait", "--", "sh", "-c", &script])
            .await
    });
    triarch_harness::until(
        std::time::Duration::from_secs(30),
        "the command runs",
        async || {
            let tasks = api.get("/v1/tasks?state=running").await.expect(200);
            tasks["tasks"]
                .as_array()
                .is_some_and(|tasks| !tasks.is_empty())
        },
    )
    .await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    std::fs::write(&go, "").expect("a file can be written");
    let ran = waiting.await.expect("it does not panic").expect(0);
    assert_eq!(ran.stdout, "survived\n");
}
