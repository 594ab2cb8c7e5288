//! Tests that a killed worker's commands die, by killing a separate process.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const DEADLINE: Duration = Duration::from_secs(30);
/// Environment variable with the file into which the process to be killed writes the pid of its command.
const DIRECTORY_ENV: &str = "TRIARCH_TEST_DIRECTORY";

#[tokio::test]
#[ignore = "is run by the test below, as a process of its own"]
async fn a_worker_that_will_be_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY_ENV) else {
        return;
    };
    let children: Arc<Children> = Arc::default();
    let starter = Starter::new(children.clone(), None).expect("a thread");
    let grandchild = Path::new(&directory).join("grandchild");
    let script = format!("sleep 1000 & echo $! >{}; wait", grandchild.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let start = Start {
        command,
        lease: children.lease(("t1-0".to_owned(), "1".to_owned())),
        join: Vec::new(),
        run_as: None,
        cwd: None,
    };
    let group = starter.start(start).await.expect("started");
    let ready = Path::new(&directory).join("ready");
    std::fs::write(&ready, group.id.to_string()).expect("writable");
    std::fs::rename(&ready, Path::new(&directory).join("pid")).expect("writable");
    group.ended().await.expect("watched");
}

#[test]
fn a_command_and_its_children_die_with_a_killed_worker() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut worker = Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "process::tests::a_worker_that_will_be_killed"])
        .args(["--ignored", "--test-threads", "1"])
        .env(DIRECTORY_ENV, directory.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("started");
    let pids = ["pid", "grandchild"].map(|name| {
        let path = directory.path().join(name);
        eventually("the command and its child run", || {
            std::fs::read_to_string(&path).ok()?.trim().parse().ok()
        })
    });
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    worker.kill().expect("killed");
    worker.wait().expect("reaped");
    eventually("the command and its child are dead", || {
        pids.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn eventually<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = holds() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
