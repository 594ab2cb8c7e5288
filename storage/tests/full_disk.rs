//! A log on a file system that others fill: no pending write fails, writes without space wait, and nothing is lost.
//!
//! The file systems are small ones in memory, mounted by the test, which needs root. Without root the tests print that
//! they are skipped, and pass.

mod child_process;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use triarch_storage::{
    Completion, LogPosition, LogRecord, LogStore, SledLog, SledLogOptions, SpaceLevel, StorageError,
};

const DEADLINE: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// A mounted tmpfs, unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
    _root: tempfile::TempDir,
}

impl SmallDisk {
    /// Returns `None` and prints why, where it cannot be mounted.
    fn mount(mib: u64) -> Option<Self> {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("disk");
        fs::create_dir(&path).expect("a directory can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&path)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk { path, _root: root }),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                eprintln!(
                    "skipped: no small disk can be mounted here: {}",
                    said.trim()
                );
                None
            }
            Err(error) => {
                eprintln!("skipped: no small disk can be mounted here: {error}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Writes until there is no space.
    fn fill(&self) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("a file can be made");
        let block = vec![1; 64 << 10];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&block[..4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(&self.path)
                .status();
        }
    }
}

type Ack = mpsc::Receiver<Result<(), StorageError>>;

fn completion() -> (Completion, Ack) {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| {
        let _ = sender.send(result);
    });
    (done, receiver)
}

fn record(index: u64) -> LogRecord {
    LogRecord {
        position: LogPosition {
            term: 1,
            leader: 1,
            index,
        },
        payload: vec![index as u8; 1_000].into(),
    }
}

fn append(log: &SledLog, index: u64) -> Ack {
    let (done, ack) = completion();
    log.append(vec![record(index)], done).expect("the log runs");
    ack
}

#[track_caller]
fn assert_acknowledged(ack: &Ack) {
    ack.recv_timeout(DEADLINE)
        .expect("an answer")
        .expect("it is durable");
}

#[track_caller]
fn wait_for_level(log: &SledLog, level: SpaceLevel) {
    let begun = Instant::now();
    while log.space().status().level != level {
        assert!(
            begun.elapsed() < DEADLINE,
            "not {level:?} but {:?}",
            log.space().status()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn options() -> SledLogOptions {
    SledLogOptions {
        reserve_bytes: 8 * MIB,
        ..child_process::options()
    }
}

fn reserve(directory: &Path) -> bool {
    directory.join("reserve").exists()
}

#[test]
fn queued_writes_are_finished_with_the_reserve_and_later_ones_wait_for_space() {
    let Some(disk) = SmallDisk::mount(64) else {
        return;
    };
    let directory = disk.path.join("log");
    let log = SledLog::open(&directory, &options()).expect("an empty log opens");
    for index in 0..50 {
        assert_acknowledged(&append(&log, index));
    }
    assert_eq!(log.space().status().level, SpaceLevel::Ample);

    disk.fill();
    wait_for_level(&log, SpaceLevel::Low);
    assert!(!log.space().has_room_for(1));
    assert!(reserve(&directory), "nothing has needed it yet");
    // A caller that did not check the space, or checked it a moment before.
    let mut end = 50;
    while reserve(&directory) {
        assert_acknowledged(&append(&log, end));
        end += 1;
        assert!(end < 50_000, "the reserve is never released");
    }

    disk.fill();
    let mut waiting = Vec::new();
    let begun = Instant::now();
    while log.space().status().level != SpaceLevel::Full || waiting.is_empty() {
        assert!(begun.elapsed() < DEADLINE, "{:?}", log.space().status());
        let ack = append(&log, end);
        end += 1;
        if ack.recv_timeout(Duration::from_millis(300)).is_err() {
            waiting.push(ack);
        }
    }
    let (done, voted) = completion();
    log.save_vote("a vote".into(), done).expect("the log runs");
    assert!(voted.recv_timeout(Duration::from_millis(500)).is_err());
    let held = log.read(0..u64::MAX, usize::MAX).expect("readable");
    assert_eq!(held.len() as u64, end, "reads go on");

    disk.free();
    for ack in &waiting {
        assert_acknowledged(ack);
    }
    assert_acknowledged(&voted);
    wait_for_level(&log, SpaceLevel::Ample);
    let begun = Instant::now();
    while !reserve(&directory) {
        assert!(begun.elapsed() < DEADLINE, "the reserve is not taken back");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_acknowledged(&append(&log, end));
    log.close().expect("a healthy log closes");

    let log = SledLog::open(&directory, &options()).expect("an intact log opens");
    let held = log.read(0..u64::MAX, usize::MAX).expect("readable");
    assert_eq!(held, (0..=end).map(record).collect::<Vec<_>>());
    assert_eq!(log.vote(), Some("a vote".into()));
}

#[test]
fn a_log_that_waits_for_space_can_be_closed_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::mount(64) else {
        return;
    };
    let directory = disk.path.join("log");
    let log = SledLog::open(&directory, &options()).expect("an empty log opens");
    let mut acked = 0;
    let waiting = loop {
        disk.fill();
        let ack = append(&log, acked);
        if ack.recv_timeout(Duration::from_millis(300)).is_err() {
            break ack;
        }
        acked += 1;
        assert!(acked < 50_000, "it is never full");
    };
    assert!(log.close().is_err());
    let ack = waiting.recv_timeout(DEADLINE).expect("an answer");
    assert!(
        matches!(
            ack,
            Err(StorageError::Io {
                disk_full: true,
                ..
            })
        ),
        "{ack:?}"
    );
    drop(log);
    disk.free();
    // Opened from a copy, as another process would: a log that failed keeps the lock of its file until its process
    // ends.
    let found = tempfile::tempdir().expect("a temporary directory");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&directory, &found.path().join("log")])
        .status();
    assert!(copied.expect("cp can be run").success());
    let log = SledLog::open(&found.path().join("log"), &options()).expect("an intact log opens");
    let held = log.read(0..u64::MAX, usize::MAX).expect("readable");
    assert!(held.len() as u64 >= acked, "{} of {acked}", held.len());
}
