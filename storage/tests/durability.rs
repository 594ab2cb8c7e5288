//! Durability of acknowledgements:
//!
//! - An acknowledgement follows an fdatasync.
//! - A failed fdatasync stops the log for good.
//! - `kill -9` loses nothing that was acknowledged.

mod child_process;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use triarch_storage::testing::seeded_random::{SEED_VARIABLE, SeededRandom, seeds};
use triarch_storage::{LogPosition, LogStore, SledLog, SledLogOptions, StorageError};

use child_process::trace::{Call, calls, find_marker, print_marker};
use child_process::{DEADLINE, completion, options, record, wait};

const TRACED_APPENDS: u64 = 20;

/// Appends one entry at a time. Prints a marker when it requests one and, on the sync thread, when it is acknowledged.
#[test]
#[ignore = "a child of other tests"]
fn child_appends() {
    let Some(directory) = child_process::input() else {
        return;
    };
    let log = SledLog::open(Path::new(&directory), &options()).expect("an empty log opens");
    for index in 0..TRACED_APPENDS {
        let (done, receiver) = completion();
        print_marker(&format!("append {index}"));
        log.append(
            vec![record(1, index)],
            Box::new(move |result| {
                if result.is_ok() {
                    print_marker(&format!("ack {index}"));
                }
                done(result);
            }),
        )
        .expect("a healthy log appends");
        wait(&receiver).expect("a healthy log acknowledges");
    }
    log.close().expect("a healthy log closes");
}

fn is_on_db(call: &Call) -> bool {
    call.arguments.contains("/sled/db>")
}

#[test]
fn an_acknowledged_append_was_preceded_by_an_fdatasync() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = root.path().join("log");
    let trace_path = root.path().join("trace");
    let status = child_process::spawn(
        child_process::traced(
            "child_appends",
            &directory.display().to_string(),
            &trace_path,
            &["-e", "trace=write,pwrite64,fdatasync,fsync,sync_file_range"],
        )
        .stdout(Stdio::null()),
    )
    .wait()
    .expect("the child ends");
    assert!(status.success(), "{status}");

    let calls = calls(&trace_path);
    for index in 0..TRACED_APPENDS {
        let asked = find_marker(&calls, &format!("append {index}"));
        let acked = find_marker(&calls, &format!("ack {index}"));
        let written = calls
            .iter()
            .filter(|call| call.name == "pwrite64" && is_on_db(call))
            .filter(|call| call.begun > asked && call.ended < acked)
            .map(|call| call.ended)
            .max();
        let written = written.unwrap_or_else(|| panic!("append {index} was not written"));
        let synced = calls.iter().any(|call| {
            call.name == "fdatasync"
                && is_on_db(call)
                && call.result == "0"
                && call.begun > written
                && call.ended < acked
        });
        assert!(
            synced,
            "append {index} was acknowledged without an fdatasync of what was written for it"
        );
    }
}

#[test]
#[ignore = "a child of other tests"]
fn child_truncates() {
    let Some(directory) = child_process::input() else {
        return;
    };
    let log = SledLog::open(Path::new(&directory), &options()).expect("an empty log opens");
    let (done, receiver) = completion();
    let records = (0..10).map(|index| record(1, index)).collect();
    log.append(records, done).expect("a healthy log appends");
    wait(&receiver).expect("a healthy log acknowledges");
    print_marker("truncate");
    let (done, receiver) = completion();
    log.truncate_after(Some(record(1, 4).position), done)
        .expect("a healthy log truncates");
    wait(&receiver).expect("a healthy log acknowledges");
    print_marker("truncated");
    log.close().expect("a healthy log closes");
}

#[test]
fn the_mark_is_lowered_durably_before_entries_are_removed() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = root.path().join("log");
    let trace_path = root.path().join("trace");
    let status = child_process::spawn(
        child_process::traced(
            "child_truncates",
            &directory.display().to_string(),
            &trace_path,
            &["-e", "trace=write,pwrite64,fdatasync,fsync"],
        )
        .stdout(Stdio::null()),
    )
    .wait()
    .expect("the child ends");
    assert!(status.success(), "{status}");

    let calls = calls(&trace_path);
    let asked = find_marker(&calls, "truncate");
    let done = find_marker(&calls, "truncated");
    let during = || {
        calls
            .iter()
            .filter(|call| call.begun > asked && call.ended < done)
    };
    let lowered = during()
        .find(|call| call.name == "fdatasync" && call.arguments.contains("/mark>"))
        .expect("the mark is lowered and synced");
    let removed = during()
        .find(|call| call.name == "pwrite64" && is_on_db(call))
        .expect("the removal is written");
    assert!(
        lowered.ended < removed.begun,
        "entries were removed while the mark still claimed them"
    );
}

/// The number of the write from which on there is no space, counted on each thread.
const FULL_FROM_WRITE: u32 = 60;

#[test]
#[ignore = "a child of other tests"]
fn child_fills_the_disk() {
    let Some(directory) = child_process::input() else {
        return;
    };
    let directory = Path::new(&directory);
    let reserve = directory.join("reserve");
    let log = SledLog::open(
        directory,
        &SledLogOptions {
            reserve_bytes: 1 << 20,
            ..options()
        },
    )
    .expect("an empty log opens");
    assert!(reserve.exists());
    for index in 0.. {
        let (done, receiver) = completion();
        log.append(vec![record(1, index)], done)
            .expect("it has not failed yet");
        match wait(&receiver) {
            Ok(()) => print_marker(&format!("ack {}", index + 1)),
            Err(error) => {
                assert!(
                    matches!(
                        error,
                        StorageError::Io {
                            disk_full: true,
                            ..
                        }
                    ),
                    "{error:?}"
                );
                break;
            }
        }
    }
    assert!(!reserve.exists(), "the reserve is given up");
    assert!(matches!(log.close(), Err(StorageError::Stopped(_))));
}

#[test]
fn a_full_disk_stops_the_log_and_costs_nothing() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = root.path().join("log");
    let inject = format!("inject=pwrite64:error=ENOSPC:when={FULL_FROM_WRITE}+");
    let output = child_process::traced(
        "child_fills_the_disk",
        &directory.display().to_string(),
        &root.path().join("trace"),
        &["-e", "trace=pwrite64", "-e", &inject],
    )
    .output()
    .expect("strace can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let acked = said
        .lines()
        .filter_map(|line| line.strip_prefix("@ack "))
        .filter_map(|index| index.parse::<usize>().ok())
        .max()
        .expect("something was acknowledged");
    let log = SledLog::open(&directory, &options()).expect("an intact log opens");
    let held = log.read(0..u64::MAX, usize::MAX).expect("readable");
    assert!(held.len() >= acked);
}

/// The number of the sync thread's fdatasync that is made to fail.
const FAILING_SYNC: u64 = 7;

#[test]
#[ignore = "a child of other tests"]
fn child_meets_a_failing_sync() {
    let Some(directory) = child_process::input() else {
        return;
    };
    let log = SledLog::open(Path::new(&directory), &options()).expect("an empty log opens");
    for index in 0..FAILING_SYNC - 1 {
        let (done, receiver) = completion();
        log.append(vec![record(1, index)], done)
            .expect("a healthy log appends");
        wait(&receiver).expect("a healthy log acknowledges");
    }
    let (done, receiver) = completion();
    log.append(vec![record(1, FAILING_SYNC - 1)], done)
        .expect("it has not failed yet");
    let error = wait(&receiver).expect_err("the sync fails");
    assert!(
        matches!(&error, StorageError::Io { action: "sync", path, disk_full: false, .. } if path.ends_with("sled/db")),
        "{error:?}"
    );
    let refused = [
        log.append(vec![record(1, FAILING_SYNC)], Box::new(|_| ())),
        log.save_vote("vote".into(), Box::new(|_| ())),
        log.truncate_after(None, Box::new(|_| ())),
        log.purge(record(1, 1).position, Box::new(|_| ())),
        log.save_committed(None),
        log.read(0..1, 1).map(|_| ()),
        log.close(),
    ];
    for outcome in refused {
        assert!(
            matches!(outcome, Err(StorageError::Stopped(_))),
            "{outcome:?}"
        );
    }
    drop(log);
    print_marker("failed as it should");
}

#[test]
fn a_failing_fsync_is_the_end_and_is_not_retried() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = root.path().join("log");
    let trace_path = root.path().join("trace");
    let inject = format!("inject=fdatasync:error=EIO:when={FAILING_SYNC}");
    let output = child_process::traced(
        "child_meets_a_failing_sync",
        &directory.display().to_string(),
        &trace_path,
        &["-e", "trace=write,pwrite64,fdatasync,fsync", "-e", &inject],
    )
    .output()
    .expect("strace can be run");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );

    let calls = calls(&trace_path);
    find_marker(&calls, "failed as it should");
    let failed = calls
        .iter()
        .find(|call| call.name == "fdatasync" && call.result.contains("EIO"))
        .expect("the trace shows the failure");
    assert!(is_on_db(failed), "the injected failure hit another file");
    let touched_later = calls.iter().find(|call| {
        call.begun > failed.ended
            && ["pwrite64", "fdatasync", "fsync"].contains(&call.name.as_str())
            && (is_on_db(call) || call.arguments.contains("/mark>"))
    });
    assert!(
        touched_later.is_none(),
        "after a failed fsync the log went on with {}",
        touched_later.map_or("", |call| &call.name)
    );
    // Entries acknowledged before are there.
    let log = SledLog::open(&directory, &options()).expect("an intact log opens");
    let held = log.read(0..u64::MAX, usize::MAX).expect("readable");
    assert!(held.len() as u64 >= FAILING_SYNC - 1);
}

/// Appends until it is killed, in pairs that overlap, and prints each acknowledgement. Now and then it truncates its
/// end, purges its beginning, or saves a vote.
#[test]
#[ignore = "a child of other tests"]
fn child_writes_until_killed() {
    let Some(input) = child_process::input() else {
        return;
    };
    let (term, directory) = input.split_once(' ').expect("a term and a directory");
    let term: u64 = term.parse().expect("a term");
    let mut random = SeededRandom::new(term);
    let log = SledLog::open(Path::new(directory), &options()).expect("an intact log opens");
    let mut end = log.state().last.map_or(0, |last| last.index + 1);
    let mut receivers = Vec::new();
    loop {
        let (done, receiver) = completion();
        let count = 1 + random.below(6);
        let records = (end..end + count)
            .map(|index| record(term, index))
            .collect();
        end += count;
        log.append(
            records,
            Box::new(move |result| {
                if result.is_ok() {
                    print_marker(&format!("ack {end}"));
                }
                done(result);
            }),
        )
        .expect("a healthy log appends");
        receivers.push(receiver);
        if random.below(40) == 0 && end > 400 {
            let upto = log
                .read(end - 300..end, 1)
                .expect("readable")
                .first()
                .map(|record| record.position);
            log.purge(upto.expect("it is held"), Box::new(|_| ()))
                .expect("a healthy log purges");
        }
        log.save_vote(end.to_string().into(), Box::new(|_| ()))
            .expect("a healthy log saves votes");
        if receivers.len() == 2 {
            wait(&receivers.remove(0)).expect("a healthy log acknowledges");
        }
    }
}

#[test]
fn a_kill_loses_nothing_acknowledged() {
    let seed = seeds(1)[0];
    eprintln!("replay with {SEED_VARIABLE}={seed}");
    let mut random = SeededRandom::new(seed);
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = root.path().join("log");
    let begun = Instant::now();
    for term in 1..=12 {
        let mut child = child_process::spawn(
            child_process::command(
                "child_writes_until_killed",
                &format!("{term} {}", directory.display()),
            )
            .stdout(Stdio::piped()),
        );
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut acked = 0;
        let kill_after = 1 + random.below(150);
        let mut heard = 0;
        let mut note = |line: &str| {
            if let Some(end) = line.strip_prefix("@ack ") {
                acked = end.parse().expect("a number");
                heard += 1;
            }
            heard
        };
        for line in &mut lines {
            if note(&line.expect("readable")) >= kill_after {
                break;
            }
            assert!(begun.elapsed() < DEADLINE, "the child hangs");
        }
        child.kill().expect("the child can be killed");
        // Acknowledgements printed before the kill count too.
        for line in lines {
            note(&line.expect("readable"));
        }
        child.wait().expect("the child is dead");

        let log = SledLog::open(&directory, &options()).expect("an intact log opens");
        let end = log.state().last.map_or(0, |last| last.index + 1);
        assert!(
            end >= acked,
            "the log ends at {end}, and {acked} were acknowledged"
        );
        let held = log.read(0..u64::MAX, usize::MAX).expect("readable");
        for found in &held {
            let LogPosition { term, index, .. } = found.position;
            assert_eq!(*found, record(term, index));
        }
        let vote: u64 = std::str::from_utf8(&log.vote().expect("there is a vote"))
            .ok()
            .and_then(|vote| vote.parse().ok())
            .expect("a number");
        assert!(vote + 12 >= acked, "the vote {vote} is older than {acked}");
        // The next leader truncates some of the entries that no other node acknowledged.
        let kept = held[held.len() - 1 - random.below(20.min(held.len() as u64)) as usize].position;
        let (done, receiver) = completion();
        log.truncate_after(Some(kept), done)
            .expect("a healthy log truncates");
        wait(&receiver).expect("a healthy log acknowledges");
        drop(log);
        let log = SledLog::open(&directory, &options()).expect("an intact log opens");
        assert_eq!(log.state().last, Some(kept));
    }
}
