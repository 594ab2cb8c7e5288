//! The worker that runs commands, as a process: what its tasks do never costs the worker, and what it lacks never costs
//! a task.

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
