//! The worker that runs commands, as a process: what its tasks do never costs the worker, and what it lacks never costs
//! a task.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use serde_json::json;
use triarch_harness::{Api, Cluster, Process, eventually, until};

use crate::job_helpers::{WAIT_TIMEOUT, shell, submit_task, wait_job, wait_state};

/// Starts a worker by a shell, after `setup`.
async fn worker_after(cluster: &mut Cluster, setup: &str, more: &str) -> Process {
    let mut command = cluster.marked("sh");
    let triarch = triarch_harness::binary::triarch();
    let script = format!(
        "{setup}; exec {} worker --masters {} --name odd {more}",
        triarch.display(),
        cluster.masters()
    );
    command.args(["-c", &script]);
    let worker = cluster.spawn("odd", command);
    cluster.wait_workers(1).await;
    worker
}

async fn stdout_of(api: &Api, script: &str) -> String {
    let task = submit_task(api, &shell(script)).await;
    let task = wait_state(api, &task, "succeeded").await;
    task["result"]["stdout"].as_str().expect("text").to_owned()
}

async fn api_of(cluster: &mut Cluster) -> Api {
    let leader = cluster.wait_ready().await;
    cluster.api(leader)
}

fn kernel_state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[tokio::test]
async fn a_worker_with_more_slots_than_open_files_fails_no_task() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    // The soft limit is raised to the hard one, which is not enough for all slots.
    let worker = worker_after(&mut cluster, "ulimit -Sn 64; ulimit -Hn 160", "--slots 60").await;
    let command =
        json!({"kind": "exec", "payload": {"argv": ["sh", "-c", "ulimit -Sn; sleep 0.3"]}});
    let submitted = api.submit(&json!({"tasks": vec![command; 60]})).await;
    let job = wait_job(&api, submitted["id"].as_str().expect("an id")).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(
        worker.log().contains("enough for 24 slots"),
        "{}",
        worker.log()
    );
    let shown = api.get("/v1/workers").await.expect(200);
    assert_eq!(shown["workers"][0]["slots"], 24, "{shown}");
    let limit = stdout_of(&api, "ulimit -Sn").await;
    assert_eq!(
        limit, "64\n",
        "commands have the limit that the worker was started with"
    );
}

#[tokio::test]
async fn commands_that_cannot_be_started_for_a_want_are_handed_back_and_run_later() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    let worker = worker_after(&mut cluster, "true", "--slots 4").await;
    let limit_files = |files: &str| {
        let (pid, limit) = (worker.pid().to_string(), format!("--nofile={files}:20000"));
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status();
        assert!(set.expect("prlimit runs").success());
    };
    assert_eq!(stdout_of(&api, "echo first").await, "first\n");
    limit_files("12");
    let task = submit_task(&api, &shell("echo later")).await;
    let returned = eventually(WAIT_TIMEOUT, "its lease goes back", async || {
        let task = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
        let attempts = task["attempts"].as_array()?;
        attempts
            .iter()
            .any(|attempt| attempt["outcome"] == "returned")
            .then_some(task)
    })
    .await;
    assert_eq!(returned["failures"], 0, "{returned}");
    limit_files("1024");
    let done = wait_state(&api, &task, "succeeded").await;
    assert_eq!(
        (&done["failures"], &done["losses"]),
        (&json!(0), &json!(0)),
        "{done}"
    );
    assert!(
        worker.log().contains("goes back to its queue"),
        "{}",
        worker.log()
    );
}

#[tokio::test]
async fn a_process_that_leaves_the_group_does_not_outlive_its_task_and_leaves_no_zombie() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    let worker = worker_after(&mut cluster, "true", "--slots 2").await;
    // A daemon with a child of its own, beside a task that goes on.
    let running = submit_task(
        &api,
        &shell("setsid sleep 1000 >/dev/null 2>&1 & echo $!; sleep 1000"),
    )
    .await;
    let script = "setsid sh -c 'sleep 1000 & echo $$ $!; exec >/dev/null 2>&1; wait' & sleep 0.2";
    let pids = stdout_of(&api, script).await;
    for pid in pids.split_whitespace() {
        until(
            WAIT_TIMEOUT,
            format!("process {pid} is gone, reaped"),
            async || kernel_state(pid).is_none(),
        )
        .await;
    }
    let alive = eventually(
        WAIT_TIMEOUT,
        "the other task shows its daemon",
        async || {
            let logs = api
                .get(&format!("/v1/tasks/{running}/logs"))
                .await
                .expect(200);
            Some(logs["chunks"][0]["text"].as_str()?.trim().to_owned())
        },
    )
    .await;
    assert_eq!(
        kernel_state(&alive),
        Some('S'),
        "that of a running task goes on"
    );
    let cancelled = api
        .post(&format!("/v1/tasks/{running}/cancel"), &json!({}))
        .await;
    assert_eq!(cancelled.status, 200);
    until(WAIT_TIMEOUT, "it ends with its task", async || {
        kernel_state(&alive).is_none()
    })
    .await;
    drop(worker);
}

#[tokio::test]
async fn a_command_sees_neither_the_environment_of_its_worker_nor_its_memory() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    let setup = "export SECRET_KEY=hunter2 TRIARCH_AUTH_TOKEN=tri_x LC_TIME=C KEPT=yes";
    let _worker = worker_after(&mut cluster, setup, "--pass-env KEPT,ALSO").await;
    let environment = stdout_of(&api, "env").await;
    assert!(
        environment.contains("KEPT=yes") && environment.contains("LC_TIME=C"),
        "{environment}"
    );
    assert!(
        environment.contains("PATH=") && environment.contains("TRIARCH_TOKEN="),
        "{environment}"
    );
    let worker = stdout_of(&api, "cat /proc/$PPID/environ 2>/dev/null | tr '\\0' '\\n'").await;
    for text in [environment, worker] {
        assert!(
            !text.contains("hunter2") && !text.contains("tri_x"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn all_of_the_environment_but_credentials_is_passed_on_request() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    let setup = "export SECRET_KEY=hunter2 TRIARCH_AUTH_TOKEN=tri_x";
    let _worker = worker_after(&mut cluster, setup, "--pass-env '*'").await;
    let environment = stdout_of(&api, "env").await;
    assert!(environment.contains("SECRET_KEY=hunter2"), "{environment}");
    assert!(!environment.contains("tri_x"), "{environment}");
}

#[tokio::test]
async fn a_command_has_default_signals_though_its_worker_was_started_to_ignore_some() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    let _worker = worker_after(&mut cluster, "trap '' HUP INT QUIT USR1 TSTP TTOU", "").await;
    let masks = stdout_of(&api, "grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2").await;
    let masks: Vec<u64> = masks
        .lines()
        // The C library ignores two signals of its own in everything that it starts.
        .map(|mask| u64::from_str_radix(mask, 16).expect("a mask") & !(0b11 << 31))
        .collect();
    assert_eq!(masks, [0, 0]);
}

#[tokio::test]
async fn a_worker_whose_log_cannot_be_written_runs_its_tasks() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    let _worker = worker_after(&mut cluster, "exec 2>/dev/full", "").await;
    for nth in 0..3 {
        assert_eq!(
            stdout_of(&api, &format!("echo {nth}")).await,
            format!("{nth}\n")
        );
    }
}

#[tokio::test]
async fn a_worker_logs_a_line_for_each_task() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    let worker = worker_after(&mut cluster, "true", "").await;
    assert_eq!(stdout_of(&api, "echo fine").await, "fine\n");
    let mut job = shell("echo 'no room' >&2; exit 3");
    job["tasks"][0]["max_attempts"] = json!(1);
    let failed = submit_task(&api, &job).await;
    wait_state(&api, &failed, "failed").await;
    let log = worker.log();
    let line = |words: &[&str]| {
        log.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(line(&["INFO", "task succeeded", "took_ms="]), "{log}");
    assert!(
        line(&[
            "WARN",
            "task failed",
            &failed,
            "exited with code 3: no room"
        ]),
        "{log}"
    );
}

/// Starts a worker that refuses to run, and returns its log.
async fn refusal(cluster: &mut Cluster, script: &str) -> String {
    let mut command = cluster.marked("sh");
    let triarch = triarch_harness::binary::triarch();
    // Through a descriptor, because another user may not pass the directories above the program.
    let script = format!(
        "exec 3<{}; W=\"/proc/self/fd/3 worker --masters {}\"; {script}",
        triarch.display(),
        cluster.masters()
    );
    command.args(["-c", &script]);
    let mut worker = cluster.spawn("refused", command);
    let status = worker.wait(WAIT_TIMEOUT).await;
    assert_eq!(status.code(), Some(1), "{}", worker.log());
    worker.log()
}

/// Returns whether this process may do what only root may.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[tokio::test]
async fn a_command_of_another_user_has_the_rights_of_that_user_only() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    let refused = refusal(&mut cluster, "exec $W --run-as no-such-user-here").await;
    assert!(
        refused.contains("there is no user 'no-such-user-here'"),
        "{refused}"
    );
    if !is_root() {
        let refused = refusal(&mut cluster, "exec $W --run-as nobody").await;
        assert!(refused.contains("only root can run tasks"), "{refused}");
        return;
    }
    let as_nobody = "exec setpriv --reuid=65534 --regid=65534 --clear-groups $W --run-as root";
    let refused = refusal(&mut cluster, as_nobody).await;
    assert!(refused.contains("only root can run tasks"), "{refused}");

    let _worker = worker_after(&mut cluster, "true", "--slots 2 --run-as nobody").await;
    let seen = stdout_of(
        &api,
        "id -un; id -G; echo $USER $LOGNAME; grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status | cut -f2; \
         echo reopened >/dev/stdout; cat /proc/$PPID/environ 2>/dev/null | wc -c",
    )
    .await;
    let groups = Command::new("id").args(["-G", "nobody"]).output();
    let groups = String::from_utf8(groups.expect("id runs").stdout).expect("text");
    let none = "0000000000000000";
    let expected = format!("nobody\n{groups}nobody nobody\n{none}\n{none}\n{none}\nreopened\n0\n");
    assert_eq!(seen, expected);

    // A directory that is open to all, below one that is not.
    let closed = tempfile::tempdir().expect("a directory");
    let open = closed.path().join("open");
    std::fs::create_dir(&open).expect("made");
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(closed.path(), private).expect("changed");
    let mut inside = shell("pwd");
    inside["tasks"][0]["payload"]["cwd"] = json!(open);
    let task = submit_task(&api, &inside).await;
    let task = wait_state(&api, &task, "failed").await;
    let message = task["error"]["message"].as_str().expect("text");
    assert!(
        message.contains("in the working directory") && message.contains("Permission denied"),
        "{task}"
    );
    let mut at_root = shell("pwd; sleep 1000");
    at_root["tasks"][0]["payload"]["cwd"] = json!("/");
    at_root["tasks"][0]["timeout_ms"] = json!(300);
    at_root["tasks"][0]["max_attempts"] = json!(1);
    let task = submit_task(&api, &at_root).await;
    let task = wait_state(&api, &task, "failed").await;
    assert_eq!(
        (&task["error"]["type"], &task["error"]["stdout"]),
        (&json!("timeout"), &json!("/\n")),
        "{task}"
    );
}

/// Returns the groups of tasks of this worker, wherever control groups are mounted.
fn task_groups_of(worker: u32) -> Vec<String> {
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-name"])
        .arg(format!("triarch-task-{worker}-*"))
        .output();
    let found = String::from_utf8(found.expect("find runs").stdout).expect("text");
    found.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn memory_and_processes_of_a_task_are_limited_or_the_worker_refuses_to_start() {
    let mut cluster = Cluster::start(1).await;
    let api = api_of(&mut cluster).await;
    if is_root() {
        let nowhere =
            "exec unshare -m sh -c 'umount -R -l /sys/fs/cgroup; exec '\"$W --pids-max 20\"";
        let refused = refusal(&mut cluster, nowhere).await;
        assert!(
            refused.contains("need a control group") && refused.contains("Delegate=yes"),
            "{refused}"
        );
    }
    let mut command = cluster.marked(triarch_harness::binary::triarch());
    let masters = cluster.masters();
    let limits = ["--memory-max", "64M", "--pids-max", "20"];
    command.args(["worker", "--masters", &masters]).args(limits);
    let mut worker = cluster.spawn("limited", command);
    let started = eventually(WAIT_TIMEOUT, "it starts or refuses to", async || {
        let shown = api.get("/v1/workers?state=live").await.expect(200);
        let workers = shown["workers"].as_array().map_or(0, Vec::len);
        (workers > 0 || worker.ended().is_some()).then_some(workers > 0)
    })
    .await;
    if !started {
        let log = worker.log();
        assert!(
            log.contains("need a control group") && log.contains("Delegate=yes"),
            "{log}"
        );
        return;
    }
    let task = |script: &str| {
        let payload = json!({"argv": ["sh", "-c", script]});
        json!({"kind": "exec", "max_attempts": 1, "timeout_ms": 20_000, "payload": payload})
    };
    let greedy = task("exec dd if=/dev/zero of=/dev/null bs=200M count=1");
    let forking = task("for i in $(seq 40); do sleep 5 & done; wait");
    // It leaves its group of processes, and removes the lease by which it could be recognised.
    let hidden = task("setsid env -i sleep 1000 >/dev/null 2>&1 & echo $!");
    let submitted = api
        .submit(&json!({"tasks": [greedy, forking, hidden]}))
        .await;
    let id = |nth: usize| submitted["tasks"][nth].as_str().expect("an id").to_owned();
    let greedy = wait_state(&api, &id(0), "failed").await;
    let message = greedy["error"]["message"].as_str().expect("text");
    assert!(
        message.contains("SIGKILL") && message.contains("--memory-max"),
        "{greedy}"
    );
    let forking = wait_state(&api, &id(1), "failed").await;
    let stderr = forking["error"]["stderr"].as_str().expect("text");
    assert!(stderr.contains("ork"), "{forking}");
    let hidden = wait_state(&api, &id(2), "succeeded").await;
    let pid = hidden["result"]["stdout"].as_str().expect("text").trim();
    until(WAIT_TIMEOUT, "the hidden process is gone", async || {
        kernel_state(pid).is_none()
    })
    .await;
    assert_eq!(stdout_of(&api, "echo fine").await, "fine\n");
    let pid = worker.pid();
    worker.terminate();
    worker.wait(WAIT_TIMEOUT).await;
    assert_eq!(task_groups_of(pid), [""; 0], "no group is left behind");
}
