//! A seeded workload on a data directory, and the states that the directory may be in when the workload ends at any
//! moment.
//!
//! The seed chooses the operations over several processes: appends of entries of one chunk and of many, votes,
//! truncations, and snapshots. Snapshots are written or received, with the purges that they allow. The process that
//! runs the workload reports each operation when it is requested and when it is done. [`Workload::check`] decides
//! whether the contents found afterwards are allowed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::Receiver;

use triarch_storage::testing::seeded_random::SeededRandom;
use triarch_storage::{
    Completion, DataDir, LogPosition, LogStore, SledLogOptions, SnapshotStore, StorageError,
};

use crate::child_process::{self, completion, record, wait};

/// Number of processes in which a workload runs.
pub const PROCESSES: usize = 3;
const OPERATIONS_PER_PROCESS: usize = 26;
const NODE: u64 = 1;
const CLUSTER: &str = "c1";

/// One operation requested of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Entries `first..end` of this term.
    Append { term: u64, first: u64, end: u64 },
    /// The next vote.
    Vote(u64),
    /// Removes everything after this entry.
    Truncate { after: u64 },
    /// A snapshot of everything up to here, written or received.
    Snapshot { upto: LogPosition, received: bool },
    /// Purges what the snapshot covers.
    Purge { upto: LogPosition },
}

/// The contents of the log at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct LogContents {
    purged: Option<LogPosition>,
    /// Terms by index.
    entries: BTreeMap<u64, u64>,
    vote: u64,
}

impl LogContents {
    fn next_index(&self) -> u64 {
        let held = self.entries.last_key_value().map(|(index, _)| *index);
        held.or(self.purged.map(|purged| purged.index))
            .map_or(0, |last| last + 1)
    }

    /// Returns every state from before the operation to after it, both included.
    fn states_through(&self, operation: Operation) -> Vec<LogContents> {
        let mut states = vec![self.clone()];
        let mut now = self.clone();
        match operation {
            Operation::Append { term, first, end } => {
                for index in first..end {
                    now.entries.insert(index, term);
                    states.push(now.clone());
                }
            }
            Operation::Vote(vote) => {
                now.vote = vote;
                states.push(now);
            }
            Operation::Truncate { after } => {
                while now.next_index() > after + 1 {
                    now.entries.pop_last();
                    states.push(now.clone());
                }
            }
            Operation::Snapshot { .. } => {}
            Operation::Purge { upto } => {
                now.purged = Some(upto);
                now.entries.retain(|index, _| *index > upto.index);
                states.push(now);
            }
        }
        states
    }

    fn after(&self, operation: Operation) -> LogContents {
        self.states_through(operation)
            .pop()
            .expect("a state at least")
    }
}

/// The progress one process reported before it ended.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The incarnation of its directory.
    pub incarnation: Option<String>,
    /// Whether it had stored its cluster.
    pub clustered: bool,
    /// The last operation that it requested.
    pub requested: Option<usize>,
    /// The last log operation that it knew to be done, and with it all before.
    pub done: Option<usize>,
    /// The same for snapshots, which do not wait for the log.
    pub snapshotted: Option<usize>,
}

impl Progress {
    /// Collects the progress from the output of a process.
    pub fn parse(&mut self, output: &str) {
        for line in output.lines() {
            let Some((word, rest)) = line.strip_prefix('@').and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            match word {
                "incarnation" => self.incarnation = Some(rest.to_string()),
                "clustered" => self.clustered = true,
                "requested" => self.requested = self.requested.max(rest.parse().ok()),
                "done" => self.done = self.done.max(rest.parse().ok()),
                "snapshotted" => self.snapshotted = self.snapshotted.max(rest.parse().ok()),
                _ => panic!("{line:?} is not a line of the workload"),
            }
        }
    }
}

/// A seeded sequence of operations.
pub struct Workload {
    operations: Vec<Operation>,
}

impl Workload {
    /// Creates a workload. The same seed makes the same workload.
    pub fn new(seed: u64) -> Self {
        let mut random = SeededRandom::new(seed);
        let mut operations = Vec::new();
        let mut contents = LogContents::default();
        let mut term = 1;
        let mut snapshot = None;
        while operations.len() < PROCESSES * OPERATIONS_PER_PROCESS {
            let next = contents.next_index();
            let held = contents.entries.len() as u64;
            let operation = match random.below(10) {
                0 | 1 => Operation::Vote(contents.vote + 1),
                2 if held > 4 => Operation::Truncate {
                    after: next - 2 - random.below(held.min(8) - 1),
                },
                3 if held > 8 => {
                    let index = next - 1 - random.below(4);
                    let upto = position(contents.entries[&index], index);
                    if snapshot.is_none_or(|latest: LogPosition| latest.index < index) {
                        snapshot = Some(upto);
                        operations.push(Operation::Snapshot {
                            upto,
                            received: false,
                        });
                    }
                    Operation::Vote(contents.vote + 1)
                }
                4 if contents.purged < snapshot => Operation::Purge {
                    upto: snapshot.expect("it is more than nothing"),
                },
                5 if random.below(3) == 0 => {
                    // Far ahead of the log, as a follower that was away receives it: then the log begins again.
                    let upto = position(term, next + 5);
                    snapshot = Some(upto);
                    operations.push(Operation::Snapshot {
                        upto,
                        received: true,
                    });
                    Operation::Purge { upto }
                }
                _ => {
                    term += random.below(2);
                    Operation::Append {
                        term,
                        first: next,
                        end: next + 1 + random.below(5),
                    }
                }
            };
            // Entries covered by a snapshot are never truncated.
            if let Operation::Truncate { after } = operation
                && snapshot.is_some_and(|latest| after < latest.index)
            {
                continue;
            }
            contents = contents.after(operation);
            operations.push(operation);
        }
        Workload { operations }
    }

    /// Returns the numbers of the operations of one process.
    fn process(&self, process: usize) -> std::ops::Range<usize> {
        let begin = process * OPERATIONS_PER_PROCESS;
        match process + 1 {
            PROCESSES => begin..self.operations.len(),
            _ => begin..begin + OPERATIONS_PER_PROCESS,
        }
    }

    /// Runs the part of one process in `directory` and reports its progress with `report`. The first and the last
    /// process close in good order; the one between just ends.
    pub fn run(&self, process: usize, directory: &Path, report: fn(&str)) {
        let data_dir = DataDir::open(directory, NODE).expect("a good directory opens");
        report(&format!("incarnation {}", data_dir.identity().incarnation));
        let log = data_dir.open_log(options()).expect("a good log opens");
        let snapshots = data_dir.snapshots().expect("good snapshots open");
        data_dir
            .set_cluster(CLUSTER, serde_json::Value::Null)
            .expect("the cluster can be noted");
        report("clustered yes");

        let mut waiting: Vec<Receiver<Result<(), StorageError>>> = Vec::new();
        for number in self.process(process) {
            report(&format!("requested {number}"));
            let (done, receiver) = completion();
            let done: Completion = Box::new(move |result| {
                if result.is_ok() {
                    report(&format!("done {number}"));
                }
                done(result);
            });
            match self.operations[number] {
                Operation::Append { term, first, end } => {
                    let records = (first..end).map(|index| record(term, index)).collect();
                    log.append(records, done).expect("a good log appends");
                }
                Operation::Vote(vote) => log
                    .save_vote(vote.to_string().into(), done)
                    .expect("a good log saves votes"),
                Operation::Truncate { after } => {
                    let last = log.read(after..after + 1, 1).expect("readable");
                    let last = last.first().map(|record| record.position);
                    log.truncate_after(last.or(log.state().purged), done)
                        .expect("a good log truncates");
                }
                Operation::Snapshot { upto, received } => {
                    take_snapshot(&snapshots, upto, received);
                    // The committed position becomes durable with the next sync.
                    if !received {
                        log.save_committed(Some(upto)).expect("a good log");
                    }
                    report(&format!("snapshotted {number}"));
                    continue;
                }
                Operation::Purge { upto } => {
                    log.purge(upto, done).expect("a good log purges");
                }
            }
            waiting.push(receiver);
            if waiting.len() == 2 {
                wait(&waiting.remove(0)).expect("a good disk");
            }
        }
        for receiver in waiting {
            wait(&receiver).expect("a good disk");
        }
        if process != 1 {
            log.close().expect("a good log closes");
        }
        std::process::exit(0);
    }

    /// Checks that `directory`, after this progress, holds allowed contents and is usable. Returns what is wrong.
    pub fn check(
        &self,
        directory: &Path,
        process: usize,
        progress: &Progress,
    ) -> Result<(), String> {
        let refused = |what: &str, error: StorageError| format!("the {what} is refused: {error}");
        let data_dir = DataDir::open(directory, NODE).map_err(|e| refused("directory", e))?;
        let identity = data_dir.identity();
        if let Some(incarnation) = &progress.incarnation
            && *incarnation != identity.incarnation.to_string()
        {
            return Err("the directory has become another one".into());
        }
        let cluster = identity.cluster.map(|cluster| cluster.cluster_id);
        if progress.clustered && cluster.as_deref() != Some(CLUSTER) {
            return Err(format!("the cluster is {cluster:?}"));
        }
        let log = data_dir
            .open_log(options())
            .map_err(|e| refused("log", e))?;
        let snapshots = data_dir.snapshots().map_err(|e| refused("snapshot", e))?;

        let begin = self.process(process).start;
        let count = |last: Option<usize>| last.map_or(begin, |last| last + 1);
        let requested = count(progress.requested);
        let purged = self.check_log(&log, count(progress.done), requested)?;
        let snapshot = self.check_snapshot(&snapshots, count(progress.snapshotted), requested)?;
        if purged > snapshot {
            return Err(format!(
                "the log is purged up to {purged:?}, and there is a snapshot up to {snapshot:?}"
            ));
        }
        check_usable(&data_dir, log)
    }

    fn check_log(
        &self,
        log: &dyn LogStore,
        done: usize,
        requested: usize,
    ) -> Result<Option<LogPosition>, String> {
        let mut found = LogContents {
            purged: log.state().purged,
            ..LogContents::default()
        };
        if let Some(vote) = log.vote() {
            let vote = std::str::from_utf8(&vote).ok();
            found.vote = vote
                .and_then(|vote| vote.parse().ok())
                .ok_or("the vote is not one that was given")?;
        }
        for held in log
            .read(0..u64::MAX, usize::MAX)
            .map_err(|e| e.to_string())?
        {
            let LogPosition { term, index, .. } = held.position;
            if held != record(term, index) {
                return Err(format!("entry {index} is not what was written"));
            }
            found.entries.insert(index, term);
        }
        let mut now = self.operations[..done]
            .iter()
            .fold(LogContents::default(), |contents, operation| {
                contents.after(*operation)
            });
        let mut allowed = vec![now.clone()];
        for operation in &self.operations[done..requested] {
            allowed.extend(now.states_through(*operation));
            now = now.after(*operation);
        }
        if !allowed.contains(&found) {
            return Err(format!(
                "{done} operations are done and {requested} requested for; the log may be one of {}, and is {}",
                allowed.iter().map(describe).collect::<Vec<_>>().join(", "),
                describe(&found)
            ));
        }
        Ok(found.purged)
    }

    fn check_snapshot(
        &self,
        snapshots: &SnapshotStore,
        done: usize,
        requested: usize,
    ) -> Result<Option<LogPosition>, String> {
        let of = |operation: &Operation| match operation {
            Operation::Snapshot { upto, .. } => Some(*upto),
            Operation::Append { .. }
            | Operation::Vote(_)
            | Operation::Truncate { .. }
            | Operation::Purge { .. } => None,
        };
        let acknowledged = self.operations[..done].iter().rev().find_map(of);
        let mut allowed = vec![acknowledged];
        allowed.extend(
            self.operations[done..requested]
                .iter()
                .filter_map(of)
                .map(Some),
        );
        let current = snapshots.current();
        let upto = allowed.iter().copied().find(|upto| {
            current.as_ref().map(|file| file.meta().to_vec())
                == upto.map(|upto| meta(upto).into_bytes())
        });
        let Some(upto) = upto else {
            return Err(format!(
                "the snapshot may be one of {allowed:?}, and is {:?}",
                current.map(|file| String::from_utf8_lossy(file.meta()).into_owned())
            ));
        };
        if let (Some(file), Some(upto)) = (current, upto) {
            let mut found = Vec::new();
            let read = file.reader().read_to_end(&mut found);
            if read.is_err() || found != payload(upto) {
                return Err(format!("the snapshot up to {upto:?} has another content"));
            }
        }
        Ok(upto)
    }
}

/// Checks that the recovered log accepts writes and keeps them.
fn check_usable(data_dir: &DataDir, log: impl LogStore) -> Result<(), String> {
    let state = log.state();
    let next = record(1_000, state.last.map_or(0, |last| last.index + 1));
    let (done, appended) = completion();
    log.append(vec![next.clone()], done)
        .map_err(|e| e.to_string())?;
    let (done, voted) = completion();
    log.save_vote("1000".into(), done)
        .map_err(|e| e.to_string())?;
    for receiver in [appended, voted] {
        wait(&receiver).map_err(|e| e.to_string())?;
    }
    drop(log);
    let log = data_dir
        .open_log(options())
        .map_err(|error| format!("the log is refused after it was written to: {error}"))?;
    if log.state().last != Some(next.position) || log.vote() != Some("1000".into()) {
        return Err("what was written after the recovery is gone".into());
    }
    log.close().map_err(|e| e.to_string())
}

fn take_snapshot(snapshots: &SnapshotStore, upto: LogPosition, received: bool) {
    if received {
        // A store of its own makes the file, as another node would.
        let other = tempfile::tempdir().expect("a temporary directory");
        let theirs = SnapshotStore::open(other.path(), 2).expect("an empty store opens");
        let file = write_snapshot(&theirs, upto);
        let mut incoming = snapshots.receive().expect("a good disk");
        while incoming.received() < file.len() {
            let part = file.read_at(incoming.received(), 50_000).expect("readable");
            incoming
                .write_at(incoming.received(), &part)
                .expect("a good disk");
        }
        incoming.commit().expect("a good disk");
    } else {
        write_snapshot(snapshots, upto);
    }
}

fn write_snapshot(snapshots: &SnapshotStore, upto: LogPosition) -> triarch_storage::SnapshotFile {
    let mut writer = snapshots.create().expect("a good disk");
    writer.write_all(&payload(upto)).expect("a good disk");
    writer.commit(meta(upto).into()).expect("a good disk")
}

fn meta(upto: LogPosition) -> String {
    format!("{}-{}", upto.term, upto.index)
}

fn payload(upto: LogPosition) -> Vec<u8> {
    let mut random = SeededRandom::new(upto.index);
    (0..70_000 + upto.index * 100)
        .map(|_| random.next_u64() as u8)
        .collect()
}

fn position(term: u64, index: u64) -> LogPosition {
    LogPosition {
        term,
        ..record(term, index).position
    }
}

fn options() -> SledLogOptions {
    SledLogOptions {
        reserve_bytes: 64 << 10,
        ..child_process::options()
    }
}

fn describe(contents: &LogContents) -> String {
    let entries = contents
        .entries
        .iter()
        .map(|(index, term)| format!("{index}/{term}"))
        .collect::<Vec<_>>();
    format!(
        "[purged {:?}, entries {}, vote {}]",
        contents.purged.map(|purged| purged.index),
        entries.join(" "),
        contents.vote
    )
}
