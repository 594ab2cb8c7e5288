//! Changes of many things at once: the count first, a question on a terminal, and nothing without a yes. Also hints.

use std::io::Write;
use std::process::{Command, Stdio};

use triarch_harness::{Cli, Cluster};

/// Runs a command on a terminal of its own, with this answer typed in. Returns its exit code and what the terminal showed.
async fn on_terminal(cluster: &Cluster, args: &str, answer: &'static str) -> (Option<i32>, String) {
    let mut command: Command = cluster.marked("script");
    let line = format!(
        "{} {args} --masters {}",
        triarch_harness::binary::triarch().display(),
        cluster.masters()
    );
    command
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ran = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("script runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(answer.as_bytes()).expect("typed");
        drop(stdin);
        child.wait_with_output().expect("it ends")
    });
    let output = tokio::time::timeout(crate::WAIT_TIMEOUT, ran).await;
    let output = output.expect("in time").expect("no panic");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), shown)
}

async fn count(cli: &Cli, state: &str) -> usize {
    let list = ["task", "list", "--state", state, "-o", "json"];
    let list = cli.run(&list).await.expect(0).json();
    list["tasks"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_dry_run_counts_what_would_change_and_changes_nothing() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    let cli = cluster.cli();
    let submit = ["submit", "--array", "1-5", "--tag", "blue", "--", "true"];
    cli.run(&submit).await.expect(0);
    cli.run(&["submit", "--tag", "red", "--", "true"])
        .await
        .expect(0);

    let cancel = ["task", "cancel", "--tag", "blue"];
    let counted = cli
        .run(&[&cancel[..], &["--dry-run"]].concat())
        .await
        .expect(0);
    assert_eq!(counted.stdout, "would have cancelled 5 tasks\n");
    let purge = ["queue", "purge", "default"];
    let counted = cli
        .run(&[&purge[..], &["--dry-run"]].concat())
        .await
        .expect(0);
    counted.shows("would have cancelled 6 tasks");
    assert_eq!(count(&cli, "queued").await, 6);
    // Without a terminal nobody is asked.
    cli.run(&cancel).await.expect(0).shows("cancelled 5 tasks");
    assert_eq!(
        (count(&cli, "queued").await, count(&cli, "cancelled").await),
        (1, 5)
    );
    let retry = ["task", "retry", "--state", "cancelled", "--dry-run"];
    cli.run(&retry)
        .await
        .expect(0)
        .shows("would have retried 5 tasks");
    let forget = ["task", "forget", "--state", "cancelled", "--dry-run"];
    cli.run(&forget)
        .await
        .expect(0)
        .shows("would have forgotten 1 job");
    assert_eq!(count(&cli, "cancelled").await, 5);
    cli.run(&["task", "cancel", "t1-0", "--dry-run"])
        .await
        .expect(2);
}

#[tokio::test]
async fn a_bulk_change_asks_on_a_terminal_and_changes_nothing_without_a_yes() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    let cli = cluster.cli();
    cli.run(&["submit", "--array", "1-3", "--", "true"])
        .await
        .expect(0);
    for answer in ["n\n", "\n"] {
        let (code, shown) = on_terminal(&cluster, "task cancel --queue default", answer).await;
        assert_eq!(code, Some(1), "{shown}");
        assert!(
            shown.contains("This cancels 3 tasks. Continue? [y/N]"),
            "{shown}"
        );
        assert!(shown.contains("Nothing was changed"), "{shown}");
        assert_eq!(count(&cli, "queued").await, 3);
    }
    let (code, shown) = on_terminal(&cluster, "task cancel --queue default", "y\n").await;
    assert!(
        code == Some(0) && shown.contains("cancelled 3 tasks"),
        "{shown}"
    );
    assert_eq!(count(&cli, "queued").await, 0);
    let (code, shown) = on_terminal(&cluster, "queue purge default --yes", "").await;
    assert!(code == Some(0) && !shown.contains("Continue?"), "{shown}");
}

#[tokio::test]
async fn a_list_shows_the_newest_tasks_first_and_filters_combine() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    let cli = cluster.cli();
    let submit = async |name: &str, queue: &str| {
        let args = [
            "submit", "-o", "json", "--name", name, "-q", queue, "--tag", "blue", "--", "true",
        ];
        let task = cli.run(&args).await.expect(0).json()["tasks"][0].clone();
        task.as_str().expect("an id").to_owned()
    };
    let first = submit("one", "a").await;
    let second = submit("two", "a").await;
    let third = submit("two", "b").await;
    let list = async |more: &[&str]| -> Vec<String> {
        let args = [&["task", "list", "-o", "json"], more].concat();
        let list = cli.run(&args).await.expect(0).json();
        let tasks = list["tasks"].as_array().expect("a list").iter();
        tasks
            .map(|task| task["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    let all = [third.as_str(), second.as_str(), first.as_str()];
    assert_eq!(list(&[]).await, all);
    assert_eq!(list(&["--order", "asc"]).await, [all[2], all[1], all[0]]);
    assert_eq!(
        list(&["--name", "two", "--queue", "a", "--tag", "blue"]).await,
        [second.as_str()]
    );
    assert_eq!(
        list(&["--name", "two", "--after", &third]).await,
        [second.as_str()]
    );
    assert_eq!(list(&["--error-type", "exit"]).await, [""; 0]);
    let counted = cli.run(&["task", "list", "--name", "two", "--count"]).await;
    assert_eq!(counted.expect(0).stdout, "2\n");
    let counted = cli
        .run(&["job", "list", "--queue", "a", "--count", "-o", "json"])
        .await;
    assert_eq!(counted.expect(0).json(), serde_json::json!({"count": 2}));
}

#[tokio::test]
async fn a_refused_command_line_says_what_was_meant() {
    // No cluster runs at this address, and none is needed for wrong usage.
    let cli = Cli::new("hints").masters("http://127.0.0.1:1");
    cli.run(&["submit", "--wait", "echo", "hi"])
        .await
        .expect(2)
        .says("submit --wait -- echo hi");
    cli.run(&["status"]).await.expect(2).says("cluster status");
    cli.run(&["run", "true"])
        .await
        .expect(2)
        .says("submit --wait");
    cli.run(&["job", "show", "t5-0"])
        .await
        .expect(1)
        .says("task show t5-0");
    cli.run(&["task", "show", "j5-0"])
        .await
        .expect(1)
        .says("job show j5-0");
}
