//! Runs one program of tests and reads what it says.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::builds::Check;
use triarch_mutation::{Mutation, VARIABLE};

/// A test that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its name within its program.
    pub test: String,
}

/// Which tests of a program are run.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// All of them.
    All,
    /// Those whose names contain one of these.
    Named(&'a [&'static str]),
    /// All but those whose names contain one of these.
    Others(&'a [&'static str]),
    /// This one.
    Exactly(&'a str),
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Ran {
    /// In the order in which they failed.
    pub failed: Vec<Failed>,
    /// How many passed.
    pub passed: usize,
}

/// How a test that never ended is called when it cannot be told which one it is.
const NO_TEST: &str = "(the program itself)";

/// Runs tests of a program under a mutation, or under none. `at` is called at each test that fails, when it does; the run
/// is over once it says so.
pub fn run(
    check: &Check,
    which: Which<'_>,
    mutation: Option<Mutation>,
    at: &mut dyn FnMut(&Failed) -> bool,
) -> std::io::Result<Ran> {
    let mut command = Command::new(&check.program);
    match which {
        Which::All => {}
        Which::Named(parts) => _ = command.args(parts),
        Which::Others(parts) => parts.iter().for_each(|part| {
            command.args(["--skip", part]);
        }),
        Which::Exactly(test) => _ = command.args(["--exact", test]),
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
    let ran = listen(&lines, Instant::now() + check.patience, at);
    // Processes that tests have started end with them.
    let _ = child.kill();
    let status = child.wait()?;
    let mut ran = ran;
    if !status.success() && ran.failed.is_empty() && ran.ended != Ended::Enough {
        ran.failed.push(Failed {
            test: NO_TEST.to_owned(),
        });
    }
    Ok(Ran {
        failed: ran.failed,
        passed: ran.passed,
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

struct Heard {
    failed: Vec<Failed>,
    passed: usize,
    ended: Ended,
    /// Every test has been told of.
    told: bool,
}

/// Reads `test name ... ok` until the program ends, `at` has enough, or the time is up.
fn listen(
    lines: &mpsc::Receiver<String>,
    deadline: Instant,
    at: &mut dyn FnMut(&Failed) -> bool,
) -> Heard {
    let mut heard = Heard {
        failed: Vec::new(),
        passed: 0,
        ended: Ended::ByItself,
        told: false,
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match lines.recv_timeout(left.max(Duration::from_millis(1))) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return heard,
            Err(RecvTimeoutError::Timeout) => {
                let test = "(it did not end)".to_owned();
                heard.failed.push(Failed { test });
                return heard;
            }
        };
        // What failed tests have said comes after this, with what tests that they started as processes have said.
        heard.told |= line == "failures:";
        if heard.told {
            continue;
        }
        let Some((test, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            continue;
        };
        if outcome.ends_with("ok") {
            heard.passed += 1;
        } else if outcome.ends_with("FAILED") {
            let test = test.trim_end_matches(" - should panic").to_owned();
            let failed = Failed { test };
            let enough = at(&failed);
            heard.failed.push(failed);
            if enough {
                heard.ended = Ended::Enough;
                return heard;
            }
        }
    }
}
