//! Tests with real processes and real signals. Every wait is for a condition, within a deadline.

use serde_json::json;
use triarch_sdk::worker::TaskHandle;

use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

const DEADLINE: Duration = Duration::from_secs(30);

fn task(payload: &str) -> LeasedTask {
    LeasedTask {
        id: "t4-0".to_owned(),
        job: "j4-0".to_owned(),
        kind: exec::KIND.to_owned(),
        payload: Some(RawValue::from_string(payload.to_owned()).expect("valid JSON")),
        inputs: BTreeMap::new(),
        attempt: 2,
        token: 17,
        lease_ms: 10_000,
        timeout_ms: None,
    }
}

fn shell(script: &str) -> LeasedTask {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    task(
        ExecPayload {
            argv,
            ..ExecPayload::default()
        }
        .to_raw()
        .get(),
    )
}

fn executor() -> ExecExecutor {
    limited(ExecLimits {
        kill_grace: Duration::from_millis(300),
        ..ExecLimits::default()
    })
}

fn limited(limits: ExecLimits) -> ExecExecutor {
    ExecExecutor::new(limits, Surroundings::default()).expect("a thread")
}

async fn run(executor: &ExecExecutor, task: LeasedTask) -> Outcome {
    let (_handle, context) = TaskContext::new();
    run_in(executor, task, context).await
}

async fn run_in(executor: &ExecExecutor, task: LeasedTask, context: TaskContext) -> Outcome {
    tokio::time::timeout(DEADLINE, executor.run(task, context))
        .await
        .expect("ends in time")
}

fn result(outcome: Outcome) -> ExecResult {
    match outcome {
        Outcome::Succeeded(Some(raw)) => serde_json::from_str(raw.get()).expect("a result"),
        other => panic!("not succeeded: {other:?}"),
    }
}

fn error(outcome: Outcome) -> (ExecError, bool) {
    match outcome {
        Outcome::Failed { error, retryable } => (
            serde_json::from_str(error.get()).expect("an error"),
            retryable,
        ),
        other => panic!("not failed: {other:?}"),
    }
}

async fn eventually<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = holds() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn written_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Returns whether the process exists and is not a zombie that waits for somebody else to reap it.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn is_gone_entirely(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_result_has_both_streams_and_the_exit_code() {
    let outcome = run(&executor(), shell("echo out; echo err >&2")).await;
    let result = result(outcome);
    assert_eq!((result.exit_code, result.truncated), (0, false));
    assert_eq!(
        (result.stdout.as_str(), result.stderr.as_str()),
        ("out\n", "err\n")
    );
}

#[tokio::test]
async fn a_nonzero_exit_code_fails_with_the_same_fields() {
    let (error, retryable) = error(run(&executor(), shell("echo out; echo why >&2; exit 3")).await);
    assert_eq!(
        (error.kind.as_str(), error.exit_code, retryable),
        ("exit", Some(3), true)
    );
    assert_eq!(
        (error.stdout.as_str(), error.stderr.as_str()),
        ("out\n", "why\n")
    );
    assert_eq!(error.message, "exited with code 3: why");
}

#[tokio::test]
async fn a_command_killed_by_a_signal_fails_with_its_name() {
    let (error, _) = error(run(&executor(), shell("kill -SEGV $$")).await);
    assert_eq!(
        (error.kind.as_str(), error.signal.as_deref()),
        ("signal", Some("SIGSEGV"))
    );
    assert_eq!(error.exit_code, None);
}

#[tokio::test]
async fn the_environment_names_the_attempt() {
    let payload = r#"{"argv":["sh","-c","echo $TRIARCH_TASK $TRIARCH_JOB $TRIARCH_ATTEMPT $TRIARCH_TOKEN $A"],
        "env":{"A":"1","TRIARCH_TOKEN":"forged"}}"#;
    let result = result(run(&executor(), task(payload)).await);
    assert_eq!(result.stdout, "t4-0 j4-0 2 17 1\n");
}

#[tokio::test]
async fn a_command_gets_its_stdin_and_working_directory() {
    let text = "x".repeat(300_000);
    let payload = ExecPayload {
        argv: ["sh", "-c", "pwd; wc -c"].map(str::to_owned).to_vec(),
        stdin: Some(text),
        cwd: Some("/".to_owned()),
        ..ExecPayload::default()
    };
    let result = result(run(&executor(), task(payload.to_raw().get())).await);
    let words: Vec<&str> = result.stdout.split_whitespace().collect();
    assert_eq!(words, ["/", "300000"]);
}

#[tokio::test]
async fn a_command_that_ignores_its_stdin_succeeds() {
    let payload = ExecPayload {
        argv: vec!["true".to_owned()],
        stdin: Some("x".repeat(1 << 20)),
        ..ExecPayload::default()
    };
    assert_eq!(
        result(run(&executor(), task(payload.to_raw().get())).await).exit_code,
        0
    );
}

#[tokio::test]
async fn output_past_the_limit_is_dropped_without_blocking_the_command() {
    let executor = limited(ExecLimits {
        output: OutputBounds {
            head_bytes: 250,
            tail_bytes: 750,
        },
        ..ExecLimits::default()
    });
    let result = result(
        run(
            &executor,
            shell("head -c 3000000 /dev/zero | tr '\\0' x; echo last; echo done >&2"),
        )
        .await,
    );
    let omitted = result.stdout_omitted.expect("a part is");
    assert_eq!((omitted.at, omitted.bytes), (250, 3_000_005 - 1_000));
    assert_eq!(result.stdout.len(), 1_000 + omitted.marker().len());
    assert!(result.truncated && result.stdout.ends_with("xxlast\n"));
    assert_eq!(result.stderr, "done\n");
}

#[tokio::test]
async fn output_that_is_not_utf8_is_replaced() {
    let result = result(run(&executor(), shell("printf 'a\\377b'")).await);
    assert_eq!(result.stdout, "a\u{fffd}b");
    let raw = result.stdout_raw.expect("the bytes");
    assert_eq!((raw.base64.as_str(), raw.omitted), ("Yf9i", None));
}

#[tokio::test]
async fn the_message_of_a_failure_ends_with_the_true_last_line_of_a_long_output() {
    let script =
        "seq -f 'compiling unit %.0f of a long list' 20000 >&2; echo 'FATAL: no room' >&2; exit 3";
    let (error, _) = error(run(&executor(), shell(script)).await);
    assert_eq!(error.message, "exited with code 3: FATAL: no room");
    assert!(
        error.stderr.starts_with("compiling unit 1 "),
        "{:.60}",
        error.stderr
    );
    assert!(
        error
            .stderr
            .ends_with("unit 20000 of a long list\nFATAL: no room\n")
    );
    let omitted = error.stderr_omitted.expect("a part is");
    assert_eq!(omitted.at, 64 << 10);
}

#[tokio::test]
async fn a_command_killed_by_a_real_time_signal_fails_with_its_name() {
    let (error, retryable) =
        error(run(&executor(), shell("kill -s RTMIN+3 $$ || kill -37 $$")).await);
    assert_eq!(
        (error.kind.as_str(), error.signal.as_deref(), retryable),
        ("signal", Some("SIGRTMIN+3"), true)
    );
}

#[tokio::test]
async fn a_command_has_default_signals_and_none_blocked() {
    // A thread of this test blocks and ignores signals, as a shell may have for a worker.
    triarch_process::signals::neutralize_inherited().expect("set");
    let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2";
    let result = result(run(&executor(), shell(script)).await);
    for mask in result.stdout.lines() {
        // The C library ignores two signals of its own in everything that it starts.
        let mask = u64::from_str_radix(mask, 16).expect("a mask") & !(0b11 << 31);
        assert_eq!(mask, 0, "{}", result.stdout);
    }
    assert_eq!(result.stdout.lines().count(), 2);
}

#[tokio::test]
async fn a_command_gets_only_the_variables_that_are_passed() {
    // The variables of this test are those of a worker. Cargo sets some that are not passed.
    assert!(std::env::var_os("CARGO_PKG_NAME").is_some());
    let payload = r#"{"argv":["env"],"env":{"MINE":"1"}}"#;
    let names = |result: ExecResult| -> Vec<String> {
        let lines = result
            .stdout
            .lines()
            .filter_map(|line| line.split_once('='));
        lines.map(|(name, _)| name.to_owned()).collect()
    };
    let few = names(result(run(&executor(), task(payload)).await));
    assert!(few.iter().any(|name| name == "PATH") && few.iter().any(|name| name == "MINE"));
    assert!(!few.iter().any(|name| name.starts_with("CARGO")), "{few:?}");
    let surroundings = Surroundings {
        environment: PassedEnvironment::new(["CARGO_PKG_NAME".to_owned()]),
        ..Surroundings::default()
    };
    let executor = ExecExecutor::new(ExecLimits::default(), surroundings).expect("a thread");
    let more = names(result(run(&executor, task(payload)).await));
    let cargo: Vec<&String> = more
        .iter()
        .filter(|name| name.starts_with("CARGO"))
        .collect();
    assert_eq!(cargo, ["CARGO_PKG_NAME"]);
}

#[test]
fn a_command_that_cannot_start_for_a_want_goes_back() {
    let payload = ExecPayload {
        argv: vec!["true".to_owned()],
        ..ExecPayload::default()
    };
    for want in [
        libc::EMFILE,
        libc::ENFILE,
        libc::EAGAIN,
        libc::ENOMEM,
        libc::ENOSPC,
    ] {
        let outcome = spawn_failure(&payload, &io::Error::from_raw_os_error(want));
        assert!(
            matches!(outcome, Outcome::Returned { .. }),
            "{want}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn an_invalid_payload_fails_for_good_with_the_reason() {
    let executor = executor();
    for (payload, hint) in [
        ("null", "argv"),
        ("{}", "argv"),
        (r#"{"argv":[]}"#, "argv is empty"),
        (r#"{"argv":[""]}"#, "argv[0] is empty"),
        (r#"{"argv":"true"}"#, "sequence"),
        (r#"{"argv":["true"],"shell":true}"#, "unknown field `shell`"),
        (r#"{"argv":["true"],"env":{"A=B":"1"}}"#, "A=B"),
        (r#"{"argv":["a\u0000b"]}"#, "NUL"),
        (r#"{"argv":["true"],"cwd":""}"#, "cwd"),
    ] {
        let (error, retryable) = error(run(&executor, task(payload)).await);
        assert_eq!(
            (error.kind.as_str(), retryable),
            ("invalid_payload", false),
            "{payload}"
        );
        assert!(error.message.contains(hint), "{payload}: {}", error.message);
    }
}

#[tokio::test]
async fn a_command_that_cannot_start_fails_for_good_with_the_reason() {
    let executor = executor();
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("script");
    std::fs::write(&path, "#!/no/such/interpreter\n").expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is there");
    let script = json!({"argv": [path]}).to_string();
    let long_cwd = json!({"argv": ["true"], "cwd": "a/".repeat(3_000)}).to_string();
    for (payload, hint) in [
        (r#"{"argv":["/no/such/program"]}"#, "/no/such/program"),
        (r#"{"argv":["/etc/passwd"]}"#, "ermission"),
        (
            r#"{"argv":["true"],"cwd":"/no/such/place"}"#,
            "the working directory /no/such/place does not exist",
        ),
        (
            r#"{"argv":["true"],"cwd":"/etc/passwd"}"#,
            "the working directory /etc/passwd is not a directory",
        ),
        (long_cwd.as_str(), "File name too long"),
        (script.as_str(), "interpreter"),
    ] {
        let (error, retryable) = error(run(&executor, task(payload)).await);
        assert_eq!(
            (error.kind.as_str(), retryable),
            ("spawn", false),
            "{payload}"
        );
        assert!(error.message.contains(hint), "{payload}: {}", error.message);
        assert!(error.message.len() < 500, "{payload}");
    }
}

/// Runs `script`, which writes its own or a child's pid to `$PID`, and stops it once it has.
async fn stopped(executor: &ExecExecutor, script: &str, reason: StopReason) -> (Outcome, i32) {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("pid");
    let mut task = shell(&script.replace("$PID", &path.display().to_string()));
    task.timeout_ms = Some(1234);
    let (handle, context): (TaskHandle, _) = TaskContext::new();
    let running = run_in(executor, task, context);
    let stop = async {
        let pid = eventually("the command has begun", || written_pid(&path)).await;
        handle.stop(reason);
        pid
    };
    tokio::join!(running, stop)
}

#[tokio::test]
async fn a_timed_out_group_gets_sigterm_first() {
    let script = "trap 'echo bye; exit 0' TERM; echo hi; sleep 1000 & echo $! >$PID; wait";
    let (outcome, grandchild) = stopped(&executor(), script, StopReason::TimedOut).await;
    let (error, retryable) = error(outcome);
    assert_eq!((error.kind.as_str(), retryable), ("timeout", true));
    assert_eq!(error.stdout, "hi\nbye\n");
    assert!(error.message.contains("1234 ms"), "{}", error.message);
    eventually("the grandchild is dead", || {
        (!is_alive(grandchild)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_killed() {
    let script = "trap '' TERM; echo $$ >$PID; while :; do sleep 1000; done";
    let (outcome, child) = stopped(&executor(), script, StopReason::TimedOut).await;
    let (error, _) = error(outcome);
    assert_eq!(
        (error.kind.as_str(), error.signal.as_deref()),
        ("timeout", Some("SIGKILL"))
    );
    assert!(is_gone_entirely(child), "no zombie is left");
}

#[tokio::test]
async fn a_cancelled_or_lost_attempt_reports_nothing() {
    for reason in [
        StopReason::Cancelled,
        StopReason::Lost,
        StopReason::ShuttingDown,
    ] {
        let (outcome, child) = stopped(&executor(), "echo $$ >$PID; exec sleep 1000", reason).await;
        assert!(
            matches!(outcome, Outcome::Stopped),
            "{reason:?}: {outcome:?}"
        );
        assert!(is_gone_entirely(child), "{reason:?}: no zombie is left");
    }
}

#[tokio::test]
async fn processes_that_a_command_leaves_behind_are_killed() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("pid");
    let script = format!("sleep 1000 & echo $! >{}; echo hi", path.display());
    // The process left behind holds the command's stdout open, too, and must not keep the attempt waiting.
    assert_eq!(
        result(run(&executor(), shell(&script)).await).stdout,
        "hi\n"
    );
    let left_behind = written_pid(&path).expect("written before the command ended");
    eventually("what was left behind is dead", || {
        (!is_alive(left_behind)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_process_that_leaves_the_group_does_not_delay_the_attempt() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ >{}; exec sleep 1000' & echo hi",
        path.display()
    );
    let result = result(run(&executor(), shell(&script)).await);
    // All that the command wrote is there, although the pipe is still open.
    assert_eq!((result.stdout.as_str(), result.truncated), ("hi\n", false));
    if let Some(pid) = written_pid(&path) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[tokio::test]
async fn a_dropped_attempt_takes_its_group_along_and_leaves_no_zombie() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("pid");
    let executor = executor();
    let (_handle, context) = TaskContext::new();
    let script = format!(
        "trap '' TERM; echo $$ >{}; while :; do sleep 1000; done",
        path.display()
    );
    let running = executor.run(shell(&script), context);
    let child = tokio::select! {
        outcome = running => panic!("ended: {outcome:?}"),
        child = eventually("the command has begun", || written_pid(&path)) => child,
    };
    eventually("the command is reaped", || {
        is_gone_entirely(child).then_some(())
    })
    .await;
}
