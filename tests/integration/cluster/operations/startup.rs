//! Starts before everything is there: names, addresses, the other masters, a clock.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use triarch_harness::{Cluster, FakeClocks, Options, Process, addresses, binary, until};

use crate::job_helpers::WAIT_TIMEOUT;

async fn unstarted(fake_clocks: Option<FakeClocks>) -> Cluster {
    Cluster::unstarted(Options {
        nodes: 1,
        fake_clocks,
        ..Options::default()
    })
    .await
}

/// Starts the only master of a cluster at this address.
fn alone(
    cluster: &Cluster,
    program: Command,
    name: &str,
    address: &str,
    listen: Option<&str>,
) -> Process {
    let mut command = program;
    command
        .args(["server", "--id", "1", "--data-dir"])
        .arg(cluster.root().join(name))
        .args(["--cluster", &format!("1={address}")]);
    command.args(listen.into_iter().flat_map(|listen| ["--listen", listen]));
    cluster.spawn(name, command)
}

async fn logs(process: &mut Process, text: &str) {
    until(
        WAIT_TIMEOUT,
        format!("{} logs {text:?}", process.name),
        async || {
            assert!(process.ended().is_none(), "{}", process.last_words());
            process.log().contains(text)
        },
    )
    .await;
}

#[tokio::test]
async fn a_master_waits_for_an_address_that_may_come_and_stops_when_asked() {
    let cluster = unstarted(None).await;
    for (name, address, listen, missing) in [
        (
            "unnamed",
            "m1.triarch.invalid:7101",
            None,
            "does not resolve",
        ),
        (
            "unassigned",
            "192.0.2.77:7101",
            None,
            "no interface of this machine has",
        ),
        (
            "unplugged",
            "m1.triarch.invalid:7101",
            Some("[fe80::77%nosuchif]:7101"),
            "no interface nosuchif",
        ),
    ] {
        let program = cluster.marked(binary::triarch());
        let mut master = alone(&cluster, program, name, address, listen);
        logs(&mut master, "waiting for the address to listen on").await;
        let log = master.log();
        assert!(
            log.contains(missing) && !log.contains("another process"),
            "{log}"
        );
        master.terminate();
        let status = master.wait(WAIT_TIMEOUT).await;
        assert_eq!(status.code(), Some(0), "{}", master.last_words());
    }
}

#[tokio::test]
async fn a_master_whose_address_another_process_uses_ends_at_once() {
    let cluster = unstarted(None).await;
    let address = SocketAddr::new(addresses::own_address(), addresses::PORT_BASE + 1);
    let _taken = TcpListener::bind(address).expect("a free port");
    let program = cluster.marked(binary::triarch());
    let mut master = alone(&cluster, program, "second", &address.to_string(), None);
    let status = master.wait(WAIT_TIMEOUT).await;
    assert_eq!(status.code(), Some(1));
    let log = master.log();
    assert!(
        log.contains("another process may use this address"),
        "{log}"
    );
}

/// Whether a process here may have a view of the file system of its own.
fn may_unshare() -> bool {
    let tried = Command::new("unshare").args(["--mount", "true"]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

#[tokio::test]
async fn master_and_worker_begin_once_the_masters_name_resolves() {
    if !may_unshare() {
        eprintln!("skipped: no right to mount a hosts file of its own");
        return;
    }
    let cluster = unstarted(None).await;
    let ip = addresses::own_address();
    let hosts = cluster.root().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n").expect("the directory is writable");
    let program = || {
        let mut program = cluster.marked("unshare");
        program
            .args([
                "--mount",
                "sh",
                "-c",
                r#"mount --bind "$0" /etc/hosts && exec "$@""#,
            ])
            .arg(&hosts)
            .arg(binary::triarch());
        program
    };
    let mut master = alone(
        &cluster,
        program(),
        "named",
        "m1.triarch.invalid:7101",
        None,
    );
    let mut worker = program();
    worker.args(["worker", "--masters", "http://m1.triarch.invalid:7101"]);
    let mut worker = cluster.spawn("worker", worker);
    logs(&mut master, "waiting for the address to listen on").await;
    logs(&mut worker, "registration failed, retrying").await;
    std::fs::write(&hosts, format!("{ip} m1.triarch.invalid\n")).expect("it is writable");
    logs(&mut master, "this master is up").await;
    logs(&mut worker, ": registered").await;
}

#[tokio::test]
async fn a_cluster_that_forms_says_who_is_missing() {
    let cluster = Cluster::unstarted(Options::default()).await;
    let mut command = cluster.server_command(1, &cluster.data_dir(1));
    command.env("TRIARCH_LOG", "info");
    let mut first = cluster.spawn("master-1", command);
    logs(&mut first, "waiting for node 2").await;
    let url = cluster.url(1);
    let args = ["cluster", "status", "--masters", &url];
    let ran = cluster.cli().run(&args).await.expect(1);
    assert!(
        ran.stderr
            .contains("has not formed yet: it waits for node 2"),
        "{}",
        ran.stderr
    );
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        lines[0].starts_with("cluster") && lines[0].ends_with("forming"),
        "{}",
        ran.stdout
    );
    for (id, answers) in [(1, "yes"), (2, "unreachable"), (3, "unreachable")] {
        let found = lines.iter().any(|line| {
            line.starts_with(&format!("{id} "))
                && line.contains(&cluster.addr(id))
                && line.ends_with(answers)
        });
        assert!(found, "{id}: {}", ran.stdout);
    }
}

fn fake_clocks(dir: &Path) -> Option<FakeClocks> {
    let clocks = FakeClocks::within(dir);
    if clocks.is_none() {
        eprintln!("skipped: libfaketime is not installed (Debian package faketime)");
    }
    clocks
}

fn unix_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_secs()).expect("seconds")
}

#[tokio::test]
async fn a_clock_before_1970_is_not_taken_for_damage() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(clocks) = fake_clocks(dir.path()) else {
        return;
    };
    clocks.set(1, -unix_s() - 86_400);
    let cluster = unstarted(Some(clocks)).await;
    let command = cluster.server_command(1, &cluster.data_dir(1));
    let mut master = cluster.spawn("master-1", command);
    let status = master.wait(WAIT_TIMEOUT).await;
    assert_eq!(status.code(), Some(1));
    let log = master.log();
    assert!(
        log.contains("before 1970") && log.contains("set the clock"),
        "{log}"
    );
    assert!(
        !log.contains("damaged") && !log.contains("move its data directory away"),
        "{log}"
    );
}

#[tokio::test]
async fn a_table_in_the_future_after_all_clocks_were_is_named_everywhere() {
    const TEN_YEARS_S: i64 = 315_360_000;
    let dir = tempfile::tempdir().expect("a directory");
    let Some(clocks) = fake_clocks(dir.path()) else {
        return;
    };
    clocks.set(1, TEN_YEARS_S);
    let mut cluster = Cluster::with(Options {
        nodes: 1,
        fake_clocks: Some(clocks.clone()),
        ..Options::default()
    })
    .await;
    let job = serde_json::json!({"tasks": [{"kind": "none"}]});
    cluster.api(1).submit(&job).await;
    cluster.kill9(1);
    clocks.set(1, 0);
    cluster.restart(1);
    cluster.wait_ready().await;
    until(Duration::from_secs(20), "the log says so", async || {
        let log = cluster.log_line_of(1);
        log.contains("the time of the table is ahead of the masters' clocks")
            && log.contains("triarch cluster set-time-back")
    })
    .await;
    let status = cluster.api(1).get("/v1/cluster").await.expect(200);
    let ahead_ms = status["table_ahead_ms"].as_i64().expect("a number");
    assert!(ahead_ms > (TEN_YEARS_S - 3_600) * 1_000, "{status}");
    let ran = cluster.cli().cluster_status(&[]).await;
    ran.shows("the time of the table is 3649d ahead of the masters' clocks");
    let metrics = cluster.api(1).get("/metrics").await.text;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("triarch_table_ahead_seconds "))
        .unwrap_or_else(|| panic!("{metrics}"));
    assert!(line.parse::<f64>().expect("a number") > 3e8, "{line}");
}
