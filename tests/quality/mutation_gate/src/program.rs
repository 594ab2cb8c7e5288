//! Runs one test program and reads its output.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::builds::Check;
use triarch_mutation::{Mutation, VARIABLE};

/// A test that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Name of the test within its program.
    pub test: String,
}

/// Selection of the tests of a program.
#[derive(Debug, Clone, Copy)]
pub enum TestSelection<'a> {
    /// All tests.
    All,
    /// Tests whose names contain one of these words.
    Named(&'a [&'static str]),
    /// Tests whose names contain none of these words.
    Others(&'a [&'static str]),
    /// This test only.
    Exactly(&'a str),
}

/// Result of a run.
#[derive(Debug, Default)]
pub struct TestRun {
    /// Failed tests, in the order in which they failed.
    pub failed: Vec<Failed>,
    /// Number of passed tests.
    pub passed: usize,
}

/// Name for a test that never ended, if its real name is not known.
const NO_TEST: &str = "(the program itself)";

/// Runs tests of a program under a mutation, or without one. `at` is called at each failed test. If it returns true,
/// the run ends.
pub fn run(
    check: &Check,
    selection: TestSelection<'_>,
    mutation: Option<Mutation>,
    at: &mut dyn FnMut(&Failed) -> bool,
) -> std::io::Result<TestRun> {
    let mut command = Command::new(&check.program);
    match selection {
        TestSelection::All => {}
        TestSelection::Named(parts) => _ = command.args(parts),
        TestSelection::Others(parts) => parts.iter().for_each(|part| {
            command.args(["--skip", part]);
        }),
        TestSelection::Exactly(test) => _ = command.args(["--exact", test]),
    }
    command
        .current_dir(&check.folder)
        .env_remove(VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(mutation) = mutation {
        command.env(VARIABLE, mutation.name());
    }
    let mut child = command.spawn()?;
    let lines = lines_of(&mut child);
    let run_result = listen(&lines, Instant::now() + check.patience, at);
    // Processes that tests have started end with them.
    let _ = child.kill();
    let status = child.wait()?;
    let mut run_result = run_result;
    if !status.success() && run_result.failed.is_empty() && run_result.ended != Ended::Enough {
        run_result.failed.push(Failed {
            test: NO_TEST.to_owned(),
        });
    }
    Ok(TestRun {
        failed: run_result.failed,
        passed: run_result.passed,
    })
}

fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::sync_channel(1_024);
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
    }
    lines
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    ByItself,
    Enough,
}

struct TestOutput {
    failed: Vec<Failed>,
    passed: usize,
    ended: Ended,
    /// Whether the results of all tests were read.
    failures_begun: bool,
}

/// Reads lines such as `test name ... ok` until the program ends, `at` ends the run, or the time is over.
fn listen(
    lines: &mpsc::Receiver<String>,
    deadline: Instant,
    at: &mut dyn FnMut(&Failed) -> bool,
) -> TestOutput {
    let mut output = TestOutput {
        failed: Vec::new(),
        passed: 0,
        ended: Ended::ByItself,
        failures_begun: false,
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match lines.recv_timeout(left.max(Duration::from_millis(1))) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return output,
            Err(RecvTimeoutError::Timeout) => {
                let test = "(it did not end)".to_owned();
                output.failed.push(Failed { test });
                return output;
            }
        };
        // The rest is output of failed tests, and of the processes that they started.
        output.failures_begun |= line == "failures:";
        if output.failures_begun {
            continue;
        }
        let Some((test, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            continue;
        };
        if outcome.ends_with("ok") {
            output.passed += 1;
        } else if outcome.ends_with("FAILED") {
            let test = test.trim_end_matches(" - should panic").to_owned();
            let failed = Failed { test };
            let enough = at(&failed);
            output.failed.push(failed);
            if enough {
                output.ended = Ended::Enough;
                return output;
            }
        }
    }
}
