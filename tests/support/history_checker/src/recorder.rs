//! Recorder: writes a history during a run.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::history::History;
use crate::record::{Header, Op, Outcome, Record, VERSION};

/// Appends records to a file or to memory. It is cheap to clone and usable from any thread. All clones write the same
/// history.
///
/// A record is written when its operation has ended. If the client of an operation is dropped, its [`Call`] is dropped
/// too and is recorded as unknown. So no operation that may have taken effect is missing.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    sink: Mutex<Sink>,
}

enum Sink {
    Memory(Vec<Record>),
    File {
        file: BufWriter<File>,
        records: u64,
        /// The first error. Nothing is written after it.
        failed: Option<std::io::Error>,
    },
}

/// An operation in flight.
#[must_use = "an operation that is dropped is recorded as unknown"]
pub struct Call {
    recorder: Recorder,
    record: Option<Record>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Recorder of {} records", self.count())
    }
}

impl Recorder {
    /// Creates a recorder to a new file, with the machine's monotonic clock. Histories of several processes on one
    /// machine can be checked together.
    pub fn to_file(path: &Path) -> std::io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        serde_json::to_writer(&mut file, &header())?;
        file.write_all(b"\n")?;
        let sink = Sink::File {
            file,
            records: 0,
            failed: None,
        };
        Ok(Self::new(Box::new(monotonic_ns), sink))
    }

    /// Creates a recorder to memory, with the machine's monotonic clock.
    pub fn in_memory() -> Self {
        Self::in_memory_by(monotonic_ns)
    }

    /// Creates a recorder to memory, with this clock: for simulated time.
    pub fn in_memory_by(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::new(Box::new(clock), Sink::Memory(Vec::new()))
    }

    fn new(clock: Box<dyn Fn() -> u64 + Send + Sync>, sink: Sink) -> Self {
        Self(Arc::new(Inner {
            clock,
            sink: Mutex::new(sink),
        }))
    }

    /// Returns the current time of this history's clock.
    pub fn now_ns(&self) -> u64 {
        (self.0.clock)()
    }

    /// Begins an operation that is about to be sent to this node (0: any node). Add the content of the answer by
    /// [`Call::op`], and end the call.
    pub fn invoke(&self, client: &str, node: u64, op: Op) -> Call {
        let now = self.now_ns();
        Call {
            recorder: self.clone(),
            record: Some(Record {
                client: client.to_owned(),
                node: (node != 0).then_some(node),
                invoke_ns: now,
                return_ns: now,
                outcome: Outcome::Unknown,
                index: None,
                why: None,
                op,
            }),
        }
    }

    /// Records an observation at this moment, which is no request.
    pub fn note(&self, client: &str, op: Op) {
        let mut call = self.invoke(client, 0, op);
        if let Some(record) = &mut call.record {
            record.outcome = Outcome::Ok;
        }
    }

    /// Records a fault. `effect` is the evidence that it took effect. A fault without evidence does not count.
    pub fn fault(&self, kind: &str, target: &str, effect: Option<&str>) {
        let op = Op::Fault {
            kind: kind.to_owned(),
            target: target.to_owned(),
            effect: effect.map(str::to_owned),
        };
        self.note("faults", op);
    }

    /// Records that the run expects at least this many faults of this kind.
    pub fn expect(&self, kind: &str, count: u64) {
        let kind = kind.to_owned();
        self.note("faults", Op::Expect { kind, count });
    }

    /// Records that the load has ended and the cluster has recovered. From now on every acknowledged task must be read
    /// in its terminal state.
    pub fn settled(&self) {
        self.note("harness", Op::Settled {});
    }

    /// Adds a complete record.
    pub fn append(&self, record: Record) {
        match &mut *self.sink() {
            Sink::Memory(records) => records.push(record),
            Sink::File {
                file,
                records,
                failed,
            } => {
                if failed.is_some() {
                    return;
                }
                *records += 1;
                let written = serde_json::to_writer(&mut *file, &record)
                    .map_err(std::io::Error::from)
                    .and_then(|()| file.write_all(b"\n"));
                *failed = written.err();
            }
        }
    }

    /// Returns the number of records.
    pub fn count(&self) -> u64 {
        match &*self.sink() {
            Sink::Memory(records) => records.len() as u64,
            Sink::File { records, .. } => *records,
        }
    }

    /// Flushes all records to the file. Also returns the error of any earlier record, because the history is then
    /// incomplete.
    pub fn flush(&self) -> std::io::Result<()> {
        match &mut *self.sink() {
            Sink::Memory(_) => Ok(()),
            Sink::File { file, failed, .. } => match failed.take() {
                Some(error) => Err(error),
                None => file.flush(),
            },
        }
    }

    /// Returns a copy of the history in memory. It is empty for a file, which [`History::read`] reads.
    pub fn history(&self) -> History {
        match &*self.sink() {
            Sink::Memory(records) => History::of(records.clone()),
            Sink::File { .. } => History::of(Vec::new()),
        }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        // A panic during a write leaves at most half a line, which the reader detects.
        self.0
            .sink
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Call {
    /// Returns the operation, to add the content of the answer.
    pub fn op(&mut self) -> &mut Op {
        let record = self.record.as_mut();
        &mut record.expect("there until it ends, which takes it").op
    }

    /// Ends the call with success, at this log index.
    pub fn ok(self, index: Option<u64>) {
        self.end(Outcome::Ok, index, None);
    }

    /// Ends the call with a refusal: nothing was done.
    pub fn fail(self, code: &str) {
        self.end(Outcome::Fail, None, Some(code));
    }

    /// Ends the call without an answer, or with one that guarantees nothing.
    pub fn unknown(self, why: &str) {
        self.end(Outcome::Unknown, None, Some(why));
    }

    /// Ends the call without a record: for a poll that received no tasks, for example.
    pub fn forget(mut self) {
        self.record = None;
    }

    fn end(mut self, outcome: Outcome, index: Option<u64>, why: Option<&str>) {
        if let Some(record) = &mut self.record {
            record.outcome = outcome;
            record.index = index;
            record.why = why.map(str::to_owned);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.return_ns = self.recorder.now_ns().max(record.invoke_ns);
            self.recorder.append(record);
        }
    }
}

/// Returns the first line of a history in this version of the format.
pub fn header() -> Value {
    let header = Header {
        history: VERSION,
        by: format!("triarch-check {}", env!("CARGO_PKG_VERSION")),
    };
    serde_json::to_value(header).expect("a header is plain data")
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel() -> Op {
        Op::CancelTask {
            task: "t1-0".to_owned(),
        }
    }

    #[test]
    fn an_operation_that_never_ends_is_unknown() {
        let recorder = Recorder::in_memory();
        drop(recorder.invoke("a", 1, cancel()));
        recorder.invoke("a", 2, cancel()).ok(Some(7));
        recorder.invoke("a", 3, cancel()).fail("already_finished");
        recorder.invoke("a", 3, cancel()).forget();
        let history = recorder.history();
        let outcomes: Vec<_> = history.records.iter().map(|one| one.outcome).collect();
        assert_eq!(outcomes, [Outcome::Unknown, Outcome::Ok, Outcome::Fail]);
        assert_eq!(history.records[1].index, Some(7));
    }

    #[test]
    fn written_records_are_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::to_file(&path).expect("a new file");
        recorder.invoke("a", 2, cancel()).ok(Some(7));
        recorder.fault("kill-9", "leader", Some("pid 5 is gone"));
        recorder.flush().expect("written");
        let history = History::read(&[path]).expect("a whole history");
        assert_eq!(history.records.len(), 2);
        assert_eq!(history.records[0].op, cancel());
        assert!(history.records[0].invoke_ns <= history.records[1].invoke_ns);
    }
}
