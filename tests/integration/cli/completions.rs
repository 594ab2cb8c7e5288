//! Completions of a shell, with values of the cluster, and manual pages.

use std::process::Command;

use serde_json::json;
use triarch_harness::cluster::WAIT_TIMEOUT;
use triarch_harness::{Cli, Cluster, eventually};

/// Returns what bash offers for the last of these words, once it offers anything. On a busy machine the program may give
/// up its question to the cluster, because a user waits at the prompt.
async fn offered(cluster: &Cluster, words: &[&str]) -> Vec<String> {
    let what = format!("something is offered after {words:?}");
    eventually(WAIT_TIMEOUT, what, async || {
        let offered = offered_now(cluster, words);
        (!offered.is_empty()).then_some(offered)
    })
    .await
}

/// Returns what bash offers for the last of these words.
fn offered_now(cluster: &Cluster, words: &[&str]) -> Vec<String> {
    let script = r#"
        source <(triarch completions bash)
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
        _clap_complete_triarch triarch "${COMP_WORDS[COMP_CWORD]}" ""
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let program = triarch_harness::binary::triarch();
    let path = format!(
        "{}:{}",
        program.parent().expect("a directory").display(),
        std::env::var("PATH").expect("a path")
    );
    let mut command: Command = cluster.marked("bash");
    command
        .args(["-c", script, "bash"])
        .args(words)
        .env("PATH", path)
        .env("TRIARCH_MASTERS", cluster.masters());
    let output = command.output().expect("bash runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().map(|line| line.trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_offers_ids_and_names_of_the_cluster() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let (cli, api) = (cluster.cli(), cluster.api(leader));
    let mut jobs = Vec::new();
    for queue in ["mail", "mail", "media", "$(reboot)"] {
        let submitted = cli.run(&["submit", "-q", queue, "--", "true"]).await;
        jobs.push(submitted.expect(0).stdout.trim().to_owned());
    }
    jobs.reverse();
    let schedule = json!({"cron": "@daily", "job": {"tasks": [{"kind": "exec", "payload": {"argv": ["true"]}}]}});
    api.put("/v1/schedules/nightly", &schedule)
        .await
        .expect(201);

    assert_eq!(
        offered(&cluster, &["triarch", "job", "show", ""]).await[..4],
        jobs,
        "the newest first"
    );
    let of_first = offered(&cluster, &["triarch", "job", "wait", &jobs[0]]).await;
    assert_eq!(of_first, [jobs[0].as_str()]);
    let tasks = offered(&cluster, &["triarch", "task", "cancel", "t"]).await;
    assert_eq!(tasks.len(), 4, "{tasks:?}");
    assert_eq!(
        offered(&cluster, &["triarch", "queue", "show", "m"]).await,
        ["mail", "media"]
    );
    // A name that a shell would run is not offered.
    let queues = offered(&cluster, &["triarch", "submit", "--queue", ""]).await;
    assert!(queues.contains(&"media".to_owned()), "{queues:?}");
    assert!(
        !queues.iter().any(|queue| queue.contains("reboot")),
        "{queues:?}"
    );
    assert_eq!(
        offered(&cluster, &["triarch", "schedule", "pause", "n"]).await,
        ["nightly"]
    );
    let states = offered(&cluster, &["triarch", "task", "list", "--state", "f"]).await;
    assert_eq!(states, ["failed"]);
    let elsewhere = ["triarch", "--masters", "127.0.0.1:1", "queue", "show", "m"];
    assert_eq!(
        offered_now(&cluster, &elsewhere),
        [""; 0],
        "no cluster, no values, no message"
    );
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let cli = Cli::new("manual");
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().join("man1");
    let path = to.to_str().expect("plain");
    cli.run(&["man-pages", path])
        .await
        .expect(0)
        .says("manual pages are in");
    let page = |name: &str| std::fs::read_to_string(to.join(name)).expect(name);
    let all = page("triarch.1");
    for command in ["submit", "worker", "task", "cluster", "man\\-pages"] {
        assert!(
            all.contains(&format!("triarch\\-{command}(1)")),
            "{command}: {all}"
        );
    }
    let list = page("triarch-task-list.1");
    assert!(list.starts_with(".ie") || list.contains(".TH"), "{list}");
    assert!(
        list.contains("error\\-type") && list.contains("newest first"),
        "{list}"
    );
    assert!(page("triarch-submit.1").contains("Examples:"));
    cli.run(&["man-pages", "/proc/nowhere"])
        .await
        .expect(1)
        .says("/proc/nowhere");
}
