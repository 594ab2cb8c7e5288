//! `triarch dev`: starts a whole cluster, and stops all of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use triarch_harness::process::{self, MARKER_ENV, kill_marked, marked};
use triarch_harness::{Cli, Process, addresses, binary, eventually, until};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A running development cluster. Dropping it ends everything that it started.
struct Dev {
    process: Process,
    mark: String,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Dev {
    fn start(name: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let port = addresses::free_ports(3);
        let mark = format!("dev-{name}-{}", std::process::id());
        let mut command = Command::new(binary::triarch());
        command.args(["dev", "--output", "json"]).args(more);
        if !more.contains(&"--port") {
            command.args(["--port", &port.to_string()]);
        }
        command.env(MARKER_ENV, &mark).env("TMPDIR", dir.path());
        let process = Process::spawn(name, command, &dir.path().join("log"));
        Self {
            process,
            mark,
            port,
            _dir: dir,
        }
    }

    /// Returns its output once everything runs.
    async fn banner(&mut self) -> Value {
        eventually(
            WAIT_TIMEOUT,
            "the dev cluster introduces itself",
            async || {
                assert!(
                    self.process.ended().is_none(),
                    "{}",
                    self.process.last_words()
                );
                let log = self.process.log();
                let text = &log[log.find('{')?..];
                serde_json::Deserializer::from_str(text)
                    .into_iter::<Value>()
                    .next()?
                    .ok()
            },
        )
        .await
    }

    fn cli(&self) -> Cli {
        let urls: Vec<String> = (1..=3)
            .map(|id| format!("http://127.0.0.1:{}", self.port + id))
            .collect();
        Cli::new("client-of-dev").masters(&urls.join(","))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.process.last_words());
        }
        self.process.kill9();
        kill_marked(&self.mark);
    }
}

fn pids(banner: &Value) -> Vec<u32> {
    let processes = banner["processes"].as_array().expect("processes");
    processes
        .iter()
        .map(|process| process["pid"].as_u64().expect("a pid") as u32)
        .collect()
}

/// Returns the parent of the process, while both live.
fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("PPid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::test]
async fn dev_starts_a_working_cluster_and_stops_it() {
    let mut dev = Dev::start("whole", &[]);
    let banner = dev.banner().await;
    let mut started = pids(&banner);
    started.sort_unstable();
    assert_eq!(started.len(), 5, "three masters and two workers: {banner}");
    let what = format!("separate processes {started:?}, and no others");
    until(WAIT_TIMEOUT, what, async || {
        let mut running: Vec<u32> = marked(&dev.mark)
            .into_iter()
            .filter(|pid| *pid != dev.process.pid())
            // Each worker has a separate process that watches over its child processes. A process that has just ended
            // has no parent.
            .filter(|pid| parent(*pid).is_some_and(|parent| !started.contains(&parent)))
            .collect();
        running.sort_unstable();
        started == running
    })
    .await;
    let data = PathBuf::from(banner["data_dir"].as_str().expect("a directory"));
    assert!(data.exists());
    for path in [
        data.join("cluster.json"),
        data.join("logs"),
        data.join("logs/master-1.log"),
    ] {
        let mode = path.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
    dev.process.signal(Signal::SIGHUP);
    until(WAIT_TIMEOUT, "dev goes on after a hangup", async || {
        dev.process.log().contains("SIGHUP has no effect")
    })
    .await;

    let cli = dev.cli();
    let ran = cli
        .run(&["submit", "--wait", "--", "sh", "-c", "echo hello"])
        .await
        .expect(0);
    assert_eq!(ran.stdout, "hello\n");
    let workers = cli
        .run(&["worker", "list", "--state", "live", "--output", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(
        workers["workers"].as_array().map(Vec::len),
        Some(2),
        "{workers}"
    );
    // A task is still running when the cluster is asked to stop.
    cli.run(&["submit", "--", "sleep", "600"]).await.expect(0);
    until(WAIT_TIMEOUT, "the long task runs", async || {
        let tasks = cli
            .run(&["task", "list", "--state", "running", "--output", "json"])
            .await
            .expect(0)
            .json();
        tasks["tasks"]
            .as_array()
            .is_some_and(|tasks| !tasks.is_empty())
    })
    .await;

    dev.process.terminate();
    let status = dev.process.wait(WAIT_TIMEOUT).await;
    assert_eq!(status.code(), Some(0), "{}", process::describe_exit(status));
    assert_eq!(marked(&dev.mark), [] as [u32; 0], "nothing is left running");
    assert!(!data.exists(), "nor any data");
}

#[tokio::test]
async fn killing_dev_kills_all_its_processes() {
    let mut dev = Dev::start("killed", &["--workers", "1"]);
    let banner = dev.banner().await;
    assert_eq!(pids(&banner).len(), 4);
    dev.process.kill9();
    until(WAIT_TIMEOUT, "all of its processes are gone", async || {
        marked(&dev.mark).is_empty()
    })
    .await;
}

#[tokio::test]
async fn dev_survives_the_death_of_its_leader_and_keeps_its_data() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let data = dir.path().join("data");
    let data_dir = data.to_str().expect("UTF-8");
    let mut dev = Dev::start("leader", &["--data-dir", data_dir, "--workers", "1"]);
    let banner = dev.banner().await;
    let processes = banner["processes"].as_array().expect("processes");
    let cli = dev.cli();
    // The leader that the banner names may have changed, and at that moment there may be none.
    let leader_id = eventually(WAIT_TIMEOUT, "there is a leader", async || {
        let ran = cli.run(&["cluster", "status", "--output", "json"]).await;
        let status: Value = serde_json::from_str(&ran.stdout).ok()?;
        status["leader"].as_u64()
    })
    .await;
    let leader = processes
        .iter()
        .find(|process| process["role"] == "master" && process["id"] == leader_id)
        .expect("the master is one of dev's");
    let job = cli
        .run(&["submit", "--", "echo", "kept"])
        .await
        .expect(0)
        .stdout
        .trim()
        .to_owned();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(leader["pid"].as_u64().expect("a pid") as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("it runs");
    let ran = cli
        .run(&["submit", "--wait", "--", "echo", "still here"])
        .await
        .expect(0);
    assert_eq!(ran.stdout, "still here\n");
    dev.process.terminate();
    dev.process.wait(WAIT_TIMEOUT).await;
    assert!(
        Path::new(data_dir).exists(),
        "a directory that was asked for is kept"
    );

    // A second start on the same directory continues the same cluster.
    let port = dev.port.to_string();
    let mut again = Dev::start(
        "again",
        &["--data-dir", data_dir, "--workers", "0", "--port", &port],
    );
    again.port = dev.port;
    again.banner().await;
    again
        .cli()
        .run(&["job", "show", &job])
        .await
        .expect(0)
        .shows(&job);
}

#[tokio::test]
async fn dev_names_the_ports_in_use_and_starts_nothing() {
    let port = addresses::free_ports(3);
    let taken = std::net::TcpListener::bind(("127.0.0.1", port + 2)).expect("it was free");
    let ran = Cli::new("taken")
        .run(&["dev", "--port", &port.to_string()])
        .await
        .expect(1);
    ran.says(&(port + 2).to_string());
    drop(taken);
    assert_eq!(marked("taken"), [] as [u32; 0]);
}
