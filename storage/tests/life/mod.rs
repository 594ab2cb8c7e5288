//! The scripted life of a data directory: what is asked of it, and what it may hold if it ends at any moment.
//!
//! A life is made by a seed: appends of entries of one chunk and of many, votes, truncations, snapshots written and
//! received with the purges they allow, over several processes. Whoever lives it says of each deed when it is asked for and
//! when it is done; [`Life::check`] says whether what is found afterwards may be.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::Receiver;

use triarch_storage::testing::seeded_random::Random;
use triarch_storage::{
    Completion, DataDir, LogPosition, LogStore, SledLogOptions, SnapshotStore, StorageError,
};

use crate::child::{self, completion, record, wait};

/// Processes a life takes.
pub const CHAPTERS: usize = 3;
const DEEDS_PER_CHAPTER: usize = 26;
const NODE: u64 = 1;
const CLUSTER: &str = "c1";

/// One thing asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Entries `first..end` of this term.
    Append { term: u64, first: u64, end: u64 },
    /// The next vote.
    Vote(u64),
    /// Nothing after this entry.
    Truncate { after: u64 },
    /// A snapshot of everything up to here, written or received.
    Snapshot { upto: LogPosition, received: bool },
    /// What a snapshot stands for goes.
    Purge { upto: LogPosition },
}

/// What the log holds at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Holds {
    purged: Option<LogPosition>,
    /// Terms by index.
    entries: BTreeMap<u64, u64>,
    vote: u64,
}

impl Holds {
    fn next_index(&self) -> u64 {
        let held = self.entries.last_key_value().map(|(index, _)| *index);
        held.or(self.purged.map(|purged| purged.index))
            .map_or(0, |last| last + 1)
    }

    /// Every state on the way from before the deed to after it, both included.
    fn through(&self, deed: Deed) -> Vec<Holds> {
        let mut states = vec![self.clone()];
        let mut now = self.clone();
        match deed {
            Deed::Append { term, first, end } => {
                for index in first..end {
                    now.entries.insert(index, term);
                    states.push(now.clone());
                }
            }
            Deed::Vote(vote) => {
                now.vote = vote;
                states.push(now);
            }
            Deed::Truncate { after } => {
                while now.next_index() > after + 1 {
                    now.entries.pop_last();
                    states.push(now.clone());
                }
            }
            Deed::Snapshot { .. } => {}
            Deed::Purge { upto } => {
                now.purged = Some(upto);
                now.entries.retain(|index, _| *index > upto.index);
                states.push(now);
            }
        }
        states
    }

    fn after(&self, deed: Deed) -> Holds {
        self.through(deed).pop().expect("a state at least")
    }
}

/// What one process was heard to say before it ended.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// Its directory's incarnation.
    pub incarnation: Option<String>,
    /// It had noted its cluster.
    pub clustered: bool,
    /// The last deed that it set about.
    pub asked: Option<usize>,
    /// The last deed to the log of which it knew that it is done, and with it all before.
    pub done: Option<usize>,
    /// The same of snapshots, which do not wait for the log.
    pub snapped: Option<usize>,
}

impl Said {
    /// Puts together what was said.
    pub fn hear(&mut self, output: &str) {
        for line in output.lines() {
            let Some((word, rest)) = line.strip_prefix('@').and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            match word {
                "incarnation" => self.incarnation = Some(rest.to_string()),
                "clustered" => self.clustered = true,
                "asked" => self.asked = self.asked.max(rest.parse().ok()),
                "done" => self.done = self.done.max(rest.parse().ok()),
                "snapped" => self.snapped = self.snapped.max(rest.parse().ok()),
                _ => panic!("{line:?} is not what a life says"),
            }
        }
    }
}

/// See the [module](self).
pub struct Life {
    deeds: Vec<Deed>,
}

impl Life {
    /// The same seed makes the same life.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut deeds = Vec::new();
        let mut holds = Holds::default();
        let mut term = 1;
        let mut snapshot = None;
        while deeds.len() < CHAPTERS * DEEDS_PER_CHAPTER {
            let next = holds.next_index();
            let held = holds.entries.len() as u64;
            let deed = match random.below(10) {
                0 | 1 => Deed::Vote(holds.vote + 1),
                2 if held > 4 => Deed::Truncate {
                    after: next - 2 - random.below(held.min(8) - 1),
                },
                3 if held > 8 => {
                    let index = next - 1 - random.below(4);
                    let upto = position(holds.entries[&index], index);
                    if snapshot.is_none_or(|latest: LogPosition| latest.index < index) {
                        snapshot = Some(upto);
                        deeds.push(Deed::Snapshot {
                            upto,
                            received: false,
                        });
                    }
                    Deed::Vote(holds.vote + 1)
                }
                4 if holds.purged < snapshot => Deed::Purge {
                    upto: snapshot.expect("it is more than nothing"),
                },
                5 if random.below(3) == 0 => {
                    // Far ahead of the log, as a follower gets it that was away: then the log begins anew.
                    let upto = position(term, next + 5);
                    snapshot = Some(upto);
                    deeds.push(Deed::Snapshot {
                        upto,
                        received: true,
                    });
                    Deed::Purge { upto }
                }
                _ => {
                    term += random.below(2);
                    Deed::Append {
                        term,
                        first: next,
                        end: next + 1 + random.below(5),
                    }
                }
            };
            // What is in a snapshot is never taken back.
            if let Deed::Truncate { after } = deed
                && snapshot.is_some_and(|latest| after < latest.index)
            {
                continue;
            }
            holds = holds.after(deed);
            deeds.push(deed);
        }
        Life { deeds }
    }

    /// The deeds of one chapter, by their numbers.
    fn chapter(&self, chapter: usize) -> std::ops::Range<usize> {
        let begin = chapter * DEEDS_PER_CHAPTER;
        match chapter + 1 {
            CHAPTERS => begin..self.deeds.len(),
            _ => begin..begin + DEEDS_PER_CHAPTER,
        }
    }

    /// Lives one chapter in `directory`, saying everything by `say`. The first and the last close in good order; the one
    /// between just ends.
    pub fn live(&self, chapter: usize, directory: &Path, say: fn(&str)) {
        let data_dir = DataDir::open(directory, NODE).expect("a good directory opens");
        say(&format!("incarnation {}", data_dir.identity().incarnation));
        let log = data_dir.open_log(options()).expect("a good log opens");
        let snapshots = data_dir.snapshots().expect("good snapshots open");
        data_dir
            .set_cluster(CLUSTER, serde_json::Value::Null)
            .expect("the cluster can be noted");
        say("clustered yes");

        let mut waiting: Vec<Receiver<Result<(), StorageError>>> = Vec::new();
        for number in self.chapter(chapter) {
            say(&format!("asked {number}"));
            let (done, receiver) = completion();
            let done: Completion = Box::new(move |result| {
                if result.is_ok() {
                    say(&format!("done {number}"));
                }
                done(result);
            });
            match self.deeds[number] {
                Deed::Append { term, first, end } => {
                    let records = (first..end).map(|index| record(term, index)).collect();
                    log.append(records, done).expect("a good log appends");
                }
                Deed::Vote(vote) => log
                    .save_vote(vote.to_string().into(), done)
                    .expect("a good log saves votes"),
                Deed::Truncate { after } => {
                    let last = log.read(after..after + 1, 1).expect("readable");
                    let last = last.first().map(|record| record.position);
                    log.truncate_after(last.or(log.state().purged), done)
                        .expect("a good log truncates");
                }
                Deed::Snapshot { upto, received } => {
                    take_snapshot(&snapshots, upto, received);
                    // A committed marker rides along with whatever is synced next.
                    if !received {
                        log.save_committed(Some(upto)).expect("a good log");
                    }
                    say(&format!("snapped {number}"));
                    continue;
                }
                Deed::Purge { upto } => {
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
        if chapter != 1 {
            log.close().expect("a good log closes");
        }
        std::process::exit(0);
    }

    /// Whether `directory`, in whose life this was said, holds what it may, and can be used on. Gives what is wrong.
    pub fn check(&self, directory: &Path, chapter: usize, said: &Said) -> Result<(), String> {
        let refused = |what: &str, error: StorageError| format!("the {what} is refused: {error}");
        let data_dir = DataDir::open(directory, NODE).map_err(|e| refused("directory", e))?;
        let identity = data_dir.identity();
        if let Some(incarnation) = &said.incarnation
            && *incarnation != identity.incarnation.to_string()
        {
            return Err("the directory has become another one".into());
        }
        let cluster = identity.cluster.map(|cluster| cluster.cluster_id);
        if said.clustered && cluster.as_deref() != Some(CLUSTER) {
            return Err(format!("the cluster is {cluster:?}"));
        }
        let log = data_dir
            .open_log(options())
            .map_err(|e| refused("log", e))?;
        let snapshots = data_dir.snapshots().map_err(|e| refused("snapshot", e))?;

        let begin = self.chapter(chapter).start;
        let count = |last: Option<usize>| last.map_or(begin, |last| last + 1);
        let asked = count(said.asked);
        let purged = self.check_log(&log, count(said.done), asked)?;
        let snapshot = self.check_snapshot(&snapshots, count(said.snapped), asked)?;
        if purged > snapshot {
            return Err(format!(
                "the log is purged up to {purged:?}, and there is a snapshot up to {snapshot:?}"
            ));
        }
        go_on(&data_dir, log)
    }

    fn check_log(
        &self,
        log: &dyn LogStore,
        done: usize,
        asked: usize,
    ) -> Result<Option<LogPosition>, String> {
        let mut found = Holds {
            purged: log.state().purged,
            ..Holds::default()
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
        let mut now = self.deeds[..done]
            .iter()
            .fold(Holds::default(), |holds, deed| holds.after(*deed));
        let mut allowed = vec![now.clone()];
        for deed in &self.deeds[done..asked] {
            allowed.extend(now.through(*deed));
            now = now.after(*deed);
        }
        if !allowed.contains(&found) {
            return Err(format!(
                "{done} deeds are done and {asked} asked for; the log may be one of {}, and is {}",
                allowed.iter().map(tell).collect::<Vec<_>>().join(", "),
                tell(&found)
            ));
        }
        Ok(found.purged)
    }

    fn check_snapshot(
        &self,
        snapshots: &SnapshotStore,
        done: usize,
        asked: usize,
    ) -> Result<Option<LogPosition>, String> {
        let of = |deed: &Deed| match deed {
            Deed::Snapshot { upto, .. } => Some(*upto),
            Deed::Append { .. } | Deed::Vote(_) | Deed::Truncate { .. } | Deed::Purge { .. } => {
                None
            }
        };
        let acknowledged = self.deeds[..done].iter().rev().find_map(of);
        let mut allowed = vec![acknowledged];
        allowed.extend(self.deeds[done..asked].iter().filter_map(of).map(Some));
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

/// What was recovered is also a log that can be written to, and keeps that.
fn go_on(data_dir: &DataDir, log: impl LogStore) -> Result<(), String> {
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
        // Its frame is made by a store of its own, as another node would.
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
    let mut random = Random::new(upto.index);
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
        ..child::options()
    }
}

fn tell(holds: &Holds) -> String {
    let entries = holds
        .entries
        .iter()
        .map(|(index, term)| format!("{index}/{term}"))
        .collect::<Vec<_>>();
    format!(
        "[purged {:?}, entries {}, vote {}]",
        holds.purged.map(|purged| purged.index),
        entries.join(" "),
        holds.vote
    )
}
