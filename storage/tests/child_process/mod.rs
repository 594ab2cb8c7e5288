//! Runs one of this test binary's own tests as a separate process, so that it can be killed, traced, or fail.
//!
//! The test is marked `#[ignore]` and does nothing unless it has an [`input`].

#![allow(dead_code, reason = "each test file uses a part of this")]

pub mod trace;

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use triarch_storage::{Completion, LogPosition, LogRecord, SledLogOptions, StorageError};

const INPUT: &str = "TRIARCH_STORAGE_CHILD";

/// The time after which any step of these tests counts as hanging.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Returns the input of the child, in the child. Returns `None` in an ordinary run.
pub fn input() -> Option<String> {
    env::var(INPUT).ok()
}

/// Returns the command that runs the one test `name` of this binary with `input`.
pub fn command(name: &str, input: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("the test binary has a path"));
    set_up(&mut command, name, input);
    command
}

/// Returns the same command under strace, which writes its output to `trace`.
pub fn traced(name: &str, input: &str, trace: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-s", "64", "-o"])
        .arg(trace)
        .args(options)
        .arg("--")
        .arg(env::current_exe().expect("the test binary has a path"));
    set_up(&mut command, name, input);
    command
}

fn set_up(command: &mut Command, name: &str, input: &str) {
    command
        .args([
            "--exact",
            name,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(INPUT, input)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
}

/// Starts `command`, or panics with the name of the missing program.
pub fn spawn(command: &mut Command) -> std::process::Child {
    let program = command.get_program().to_owned();
    command.spawn().unwrap_or_else(|error| {
        panic!(
            "cannot run {}: {error}; the tests need it",
            program.display()
        )
    })
}

/// Returns log options for tests, without the reserve.
pub fn options() -> SledLogOptions {
    SledLogOptions {
        node_id: 1,
        reserve_bytes: 0,
        recent_bytes_max: 4096,
        ..SledLogOptions::default()
    }
}

/// Returns the entry that every test expects at `index` in `term`.
pub fn record(term: u64, index: u64) -> LogRecord {
    let length = (index * 977 + term) % 9_000;
    let payload: Vec<u8> = (0..length)
        .map(|byte| (byte * 7 + index * 31 + term) as u8)
        .collect();
    LogRecord {
        position: LogPosition {
            term,
            leader: 1,
            index,
        },
        payload: Bytes::from(payload),
    }
}

/// Returns a completion and the receiver of its result.
pub fn completion() -> (Completion, Receiver<Result<(), StorageError>>) {
    let (sender, receiver) = channel();
    let done: Completion = Box::new(move |result| drop(sender.send(result)));
    (done, receiver)
}

/// Waits for a completion.
pub fn wait(receiver: &Receiver<Result<(), StorageError>>) -> Result<(), StorageError> {
    receiver
        .recv_timeout(DEADLINE)
        .expect("a completion is called before the deadline")
}

/// Copies a directory and everything in it.
pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a writable directory");
    for entry in fs::read_dir(from).expect("a readable directory") {
        let path = entry.expect("a readable directory").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_directory(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a readable file");
        }
    }
}
