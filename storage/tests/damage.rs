//! A damaged disk: one change in any file of a data directory. The directory then serves exactly what was acknowledged,
//! or is refused with the file's name, the damage and the next action. It never serves less, and never anything else.
//!
//! This test makes a limited number of changes. `scripts/damage.sh` makes as many as requested.

mod child_process;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use triarch_storage::testing::seeded_random::{SEED_VARIABLE, SeededRandom, seeds};
use triarch_storage::{
    DataDir, LogPosition, LogRecord, LogStore, SledLog, SledLogOptions, StorageError,
};

use child_process::{DEADLINE, completion, copy_directory, options, record, wait};

/// Number of places to damage.
const DAMAGES_VARIABLE: &str = "TRIARCH_DAMAGES";
const DAMAGES: u64 = 250;
/// Number of a single place of an earlier run, to replay it.
const ONLY_VARIABLE: &str = "TRIARCH_DAMAGE_ONLY";
/// Maximum number of failures that are printed in full.
const FAILURES_SHOWN: usize = 5;

const ENTRIES: u64 = 200;
const PURGED: u64 = 30;
const TRUNCATED_AFTER: u64 = 140;
const SNAPSHOT_BYTES: usize = 150_000;
const CLUSTER: &str = "c1";
/// Bytes that a device writes at once, and that the kernel does.
const BLOCKS: [u64; 2] = [512, 4096];

/// Returns everything that the log of these tests acknowledged.
fn expected() -> Vec<LogRecord> {
    let (first, second) = (
        PURGED + 1..TRUNCATED_AFTER + 1,
        TRUNCATED_AFTER + 1..ENTRIES,
    );
    first
        .map(|index| record(1, index))
        .chain(second.map(|index| record(2, index)))
        .collect()
}

fn position(term: u64, index: u64) -> LogPosition {
    record(term, index).position
}

fn payload() -> Vec<u8> {
    let mut random = SeededRandom::new(5);
    (0..SNAPSHOT_BYTES)
        .map(|_| random.next_u64() as u8)
        .collect()
}

fn log_options() -> SledLogOptions {
    SledLogOptions {
        reserve_bytes: 64 << 10,
        ..options()
    }
}

/// Makes the directory: appends in groups, votes in between, truncates and continues, writes a snapshot, purges,
/// closes. Leaves a copy of its state halfway in `old`.
fn write_directory(directory: &Path, old: &Path) -> String {
    let data_dir = DataDir::open(directory, 1).expect("an empty directory opens");
    data_dir
        .set_cluster(CLUSTER, serde_json::Value::Null)
        .expect("a good disk");
    let incarnation = data_dir.identity().incarnation.to_string();
    let log = data_dir
        .open_log(log_options())
        .expect("an empty log opens");
    let settle = |receivers: Vec<_>| {
        for receiver in receivers {
            wait(&receiver).expect("a healthy log acknowledges");
        }
    };
    let append = |term, range: std::ops::Range<u64>| {
        let mut receivers = Vec::new();
        for start in range.clone().step_by(10) {
            let (done, receiver) = completion();
            let end = (start + 10).min(range.end);
            let records = (start..end).map(|index| record(term, index)).collect();
            log.append(records, done).expect("a healthy log appends");
            receivers.push(receiver);
            let (done, receiver) = completion();
            log.save_vote(format!("vote {term} {start}").into(), done)
                .expect("a healthy log saves votes");
            receivers.push(receiver);
        }
        settle(receivers);
    };
    append(1, 0..TRUNCATED_AFTER / 2);
    copy_directory(directory, old);
    append(1, TRUNCATED_AFTER / 2..TRUNCATED_AFTER + 30);
    let (done, receiver) = completion();
    log.truncate_after(Some(position(1, TRUNCATED_AFTER)), done)
        .expect("a healthy log truncates");
    settle(vec![receiver]);
    append(2, TRUNCATED_AFTER + 1..ENTRIES);
    let snapshots = data_dir.snapshots().expect("an empty store opens");
    let mut writer = snapshots.create().expect("a good disk");
    writer.write_all(&payload()).expect("a good disk");
    writer.commit("meta".into()).expect("a good disk");
    let (done, receiver) = completion();
    log.purge(position(1, PURGED), done)
        .expect("a healthy log purges");
    settle(vec![receiver]);
    log.close().expect("a healthy log closes");
    incarnation
}

/// Opens the directory in a separate process, because sled may do anything. Exits with 0 if everything is there and 3
/// if it is refused. Anything else is a bug.
#[test]
#[ignore = "a child of other tests"]
fn child_opens() {
    let Some(input) = child_process::input() else {
        return;
    };
    let (incarnation, directory) = input.split_once(' ').expect("two words");
    let directory = Path::new(directory);
    let error = match open_and_compare(directory, incarnation) {
        Ok(()) => std::process::exit(0),
        Err(error) => error,
    };
    println!("\n@{error}");
    let StorageError::Damaged { path, what, advice } = error else {
        panic!("damage is told as something else: {error:?}");
    };
    assert!(
        path.starts_with(directory) && path != directory && !what.is_empty(),
        "it is not said what is damaged, and how: {} {what:?}",
        path.display()
    );
    for command in [
        "triarch server --id",
        "--join",
        "triarch cluster replace 1 ",
    ] {
        assert!(advice.contains(command), "no word of {command}: {advice}");
    }
    std::process::exit(3);
}

fn open_and_compare(directory: &Path, incarnation: &str) -> Result<(), StorageError> {
    let data_dir = DataDir::open(directory, 1)?;
    let identity = data_dir.identity();
    assert_eq!(identity.incarnation.to_string(), incarnation);
    let cluster = identity.cluster.map(|cluster| cluster.cluster_id);
    assert_eq!(cluster.as_deref(), Some(CLUSTER));
    let log = data_dir.open_log(log_options())?;
    let snapshots = data_dir.snapshots()?;

    assert_eq!(log.state().purged, Some(position(1, PURGED)));
    let held = log.read(0..u64::MAX, usize::MAX).expect("readable");
    assert!(held == expected(), "{} entries came back", held.len());
    let last_vote = format!("vote 2 {}", TRUNCATED_AFTER + 1 + 50);
    assert_eq!(log.vote(), Some(last_vote.into()));
    log.close().expect("a healthy log closes");
    let snapshot = snapshots.current().expect("there is a snapshot");
    assert_eq!(snapshot.meta(), "meta");
    let mut found = Vec::new();
    snapshot
        .reader()
        .read_to_end(&mut found)
        .expect("it was verified");
    assert!(found == payload(), "the snapshot has another content");
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Intact,
    Refused,
}

/// Returns the outcome, or a description of what is wrong with it.
fn open_in_child(directory: &Path, incarnation: &str) -> Result<Outcome, String> {
    let mut child = child_process::spawn(
        child_process::command(
            "child_opens",
            &format!("{incarnation} {}", directory.display()),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped()),
    );
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("a child");
            return Err("opening it hangs".into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().expect("a child");
    match output.status.code() {
        Some(0) => Ok(Outcome::Intact),
        Some(3) => Ok(Outcome::Refused),
        Some(_) | None => Err(format!(
            "{}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Changes the file at random and returns a description. `old` is its content at an earlier time, if it existed.
fn damage(path: &Path, old: Option<Vec<u8>>, random: &mut SeededRandom) -> String {
    let mut bytes = fs::read(path).expect("a readable file");
    let length = bytes.len() as u64;
    let at = random.below(length) as usize;
    let block = BLOCKS[random.below(2) as usize];
    // A range as a device knows it, cut at the end of the file.
    let place = |random: &mut SeededRandom| {
        let begin = random.below(length.div_ceil(block)) * block;
        begin as usize..(begin + block).min(length) as usize
    };
    let what = match random.below(10) {
        0..=2 => {
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        3 => {
            let end = (at + 1 + random.below(8_192) as usize).min(bytes.len());
            bytes[at..end].fill(0);
            format!("bytes {at}..{end} zeroed")
        }
        4 => {
            let range = place(random);
            bytes[range.clone()].fill(0);
            format!("the block at {range:?} zeroed")
        }
        5 => {
            let range = place(random);
            for byte in &mut bytes[range.clone()] {
                *byte = random.next_u64() as u8;
            }
            format!("the block at {range:?} made noise")
        }
        6 => {
            bytes.truncate(at);
            format!("cut to {at} bytes")
        }
        7 => {
            let (one, other) = (place(random), place(random));
            let held = bytes[one.clone()].to_vec();
            let shared = one.len().min(other.len());
            bytes.copy_within(other.start..other.start + shared, one.start);
            bytes[other.start..other.start + shared].copy_from_slice(&held[..shared]);
            format!("the blocks at {one:?} and {other:?} swapped")
        }
        8 => {
            let (from, to) = (place(random), place(random));
            let shared = from.len().min(to.len());
            bytes.copy_within(from.start..from.start + shared, to.start);
            format!("the block at {from:?} written to {to:?}")
        }
        _ => {
            // A lost write.
            let range = place(random);
            match old.as_ref().and_then(|old| old.get(range.clone())) {
                Some(old) => {
                    bytes[range.clone()].copy_from_slice(old);
                    format!("the block at {range:?} as it was before")
                }
                None => {
                    bytes[at] = !bytes[at];
                    format!("byte {at} inverted")
                }
            }
        }
    };
    fs::write(path, bytes).expect("a writable file");
    what
}

/// A directory to damage: its state at the end, its state halfway, and its incarnation.
struct Pristine {
    directory: PathBuf,
    old: PathBuf,
    incarnation: String,
}

impl Pristine {
    fn make(root: &Path) -> Self {
        let (directory, old) = (root.join("pristine"), root.join("old"));
        let incarnation = write_directory(&directory, &old);
        Pristine {
            directory,
            old,
            incarnation,
        }
    }

    fn open(&self, directory: &Path) -> Result<Outcome, String> {
        open_in_child(directory, &self.incarnation)
    }

    /// Damages a copy in one place and opens it. Returns the kind of file and the outcome, or a description of what is
    /// wrong.
    fn damaged(
        &self,
        directory: &Path,
        random: &mut SeededRandom,
    ) -> Result<(String, Outcome), String> {
        if directory.exists() {
            fs::remove_dir_all(directory).expect("a writable directory");
        }
        copy_directory(&self.directory, directory);
        let files = files(directory);
        // The database holds nearly everything, so it gets half of the damage.
        let file = match random.below(2) {
            0 => directory.join("log/sled/db"),
            _ => files[random.below(files.len() as u64) as usize].clone(),
        };
        let name = file.strip_prefix(directory).expect("it is in there");
        let old = fs::read(self.old.join(name)).ok();
        let before = fs::read(&file).expect("a readable file");
        let what = format!("{}: {}", name.display(), damage(&file, old, random));
        let unchanged = fs::read(&file).expect("a readable file") == before;
        let outcome = self
            .open(directory)
            .map_err(|error| format!("{what}: {error}"))?;
        match outcome {
            Outcome::Refused if unchanged => {
                return Err(format!("{what}: refused, and nothing was changed"));
            }
            // Changes made by the first try must not make the second one pass.
            Outcome::Refused if self.open(directory)? != Outcome::Refused => {
                return Err(format!(
                    "{what}: refused once, and served at the second try"
                ));
            }
            Outcome::Refused | Outcome::Intact => {}
        }
        let kind = name.to_string_lossy();
        let kind = match kind.split_once("snap.") {
            Some((sled, _)) => format!("{sled}snap.*"),
            None => kind.into_owned(),
        };
        Ok((kind, outcome))
    }
}

#[test]
fn a_damaged_directory_is_intact_or_refused() {
    let seed = seeds(1)[0];
    let read = |name| std::env::var(name).map(|text| text.parse::<u64>().expect("a number"));
    let count = read(DAMAGES_VARIABLE).unwrap_or(DAMAGES);
    let only = read(ONLY_VARIABLE).ok();
    let root = tempfile::tempdir().expect("a temporary directory");
    let pristine = Pristine::make(root.path());
    assert_eq!(pristine.open(&pristine.directory), Ok(Outcome::Intact));

    let next = AtomicU64::new(only.unwrap_or(0));
    let end = only.map_or(count, |only| only + 1);
    let counts: Mutex<BTreeMap<(String, Outcome), u64>> = Mutex::default();
    let failures: Mutex<Vec<String>> = Mutex::default();
    let work = |worker: usize| {
        let directory = root.path().join(format!("worker-{worker}"));
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= end {
                return;
            }
            // Each place has a seed of its own, so that its number identifies it.
            let mut random = SeededRandom::new(seed.wrapping_add(number));
            match pristine.damaged(&directory, &mut random) {
                Ok(outcome) => {
                    let mut counts = counts.lock().expect("no worker panics here");
                    *counts.entry(outcome).or_default() += 1;
                }
                Err(what) => failures
                    .lock()
                    .expect("no worker panics here")
                    .push(format!(
                        "{SEED_VARIABLE}={seed} {ONLY_VARIABLE}={number}: {what}"
                    )),
            }
        }
    };
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for worker in 0..workers {
            let work = &work;
            scope.spawn(move || work(worker));
        }
    });

    let counts = counts.into_inner().expect("no worker panics here");
    let failures = failures.into_inner().expect("no worker panics here");
    eprintln!("replay with {SEED_VARIABLE}={seed} {DAMAGES_VARIABLE}={count}");
    for ((file, outcome), count) in &counts {
        eprintln!("{count:>6}  {outcome:?}  {file}");
    }
    let of = |wanted| {
        let some = counts.iter().filter(|((_, outcome), _)| *outcome == wanted);
        some.map(|(_, count)| count).sum::<u64>()
    };
    eprintln!(
        "{} places damaged: {} intact, {} refused, {} went wrong",
        end - only.unwrap_or(0),
        of(Outcome::Intact),
        of(Outcome::Refused),
        failures.len()
    );
    for failure in failures.iter().take(FAILURES_SHOWN) {
        eprintln!("{failure}");
    }
    assert!(failures.is_empty(), "damage went unnoticed, see above");
    assert!(
        only.is_some() || of(Outcome::Refused) > count / 10,
        "the damage hardly ever hit anything"
    );
}

#[test]
fn a_missing_file_is_refused() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let pristine = Pristine::make(root.path());
    for name in [
        "identity.json",
        "log/mark",
        "log/sled/db",
        "log/sled",
        "log",
    ] {
        let directory = root.path().join("damaged");
        copy_directory(&pristine.directory, &directory);
        let path = directory.join(name);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("a writable directory");
        } else {
            fs::remove_file(path).expect("a writable directory");
        }
        for _ in 0..2 {
            assert_eq!(pristine.open(&directory), Ok(Outcome::Refused), "{name}");
        }
        fs::remove_dir_all(&directory).expect("a writable directory");
    }
}

/// One file of an earlier time among the current ones. The loss of acknowledged data is detected, or nothing is lost.
#[test]
fn an_older_file_is_refused_or_takes_nothing_back() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let pristine = Pristine::make(root.path());
    for (name, expected) in [
        ("log/sled/db", Outcome::Refused),
        ("log/mark", Outcome::Intact),
        ("identity.json", Outcome::Intact),
    ] {
        let directory = root.path().join("damaged");
        copy_directory(&pristine.directory, &directory);
        fs::copy(pristine.old.join(name), directory.join(name)).expect("a readable file");
        for _ in 0..2 {
            assert_eq!(pristine.open(&directory), Ok(expected), "{name}");
        }
        fs::remove_dir_all(&directory).expect("a writable directory");
    }
}

/// The whole database as of an earlier time: consistent in itself, but outdated.
#[test]
fn an_older_database_is_refused() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = root.path().join("log");
    let old = root.path().join("old");
    let append = |range: std::ops::Range<u64>| {
        let log = SledLog::open(&directory, &options()).expect("an intact log opens");
        let (done, receiver) = completion();
        let records = range.map(|index| record(1, index)).collect();
        log.append(records, done).expect("a healthy log appends");
        wait(&receiver).expect("a healthy log acknowledges");
        log.close().expect("a healthy log closes");
    };
    let vote = |vote: &'static str| {
        let log = SledLog::open(&directory, &options()).expect("an intact log opens");
        let (done, receiver) = completion();
        log.save_vote(vote.into(), done)
            .expect("a healthy log saves votes");
        wait(&receiver).expect("a healthy log acknowledges");
        log.close().expect("a healthy log closes");
    };
    let restore = || {
        fs::remove_dir_all(directory.join("sled")).expect("a writable directory");
        copy_directory(&old.join("sled"), &directory.join("sled"));
    };
    append(0..10);
    vote("for 1");
    copy_directory(&directory, &old);
    vote("for 2");
    restore();
    let refusal = SledLog::open(&directory, &options()).map(|_| ());
    assert!(
        matches!(&refusal, Err(StorageError::Damaged { what, .. }) if what.contains("vote")),
        "{refusal:?}"
    );
    fs::remove_dir_all(&directory).expect("a writable directory");
    copy_directory(&old, &directory);
    append(10..11);
    restore();
    let refusal = SledLog::open(&directory, &options()).map(|_| ());
    assert!(
        matches!(&refusal, Err(StorageError::Damaged { what, .. }) if what.contains("entry 10")),
        "{refusal:?}"
    );
}
