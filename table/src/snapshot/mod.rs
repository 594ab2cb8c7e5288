//! Snapshot format: the whole table as a stream of bytes, to be stored in a file or sent to another node.
//!
//! The stream is a magic number, a version byte, and records. Each record is a length (`u32`, little-endian) and that
//! many bytes of postcard. The last one is [`Record::End`] with a digest over all others.
//!
//! # Invariants
//!
//! - The order of records depends on the state alone, so equal tables give equal bytes.
//! - Only state is written; secondary indexes are rebuilt.
//! - Variants and fields are only ever appended, under a new version, as with commands.
//! - Writing streams from a frozen view while later entries apply; reading streams into a new table. Neither holds more
//!   than one record in addition to the table itself.
//! - A stream that does not read as a sound table is refused, and never taken for a smaller one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::RestorePart;
use crate::records::dedup::{AnsweredRequest, RetiredKey};
use crate::records::job::Job;
use crate::records::paged::Paged;
use crate::records::pending_restore::PendingRestore;
use crate::records::queue::Queue;
use crate::records::schedule::{Schedule, Schedules};
use crate::records::staged_job::StagedJob;
use crate::records::task::{Attempt, Class, Life, Policy, Task, TaskConstraints, TaskSpec};
use crate::records::worker::Worker;
use crate::snapshot::digest::Digest;
use crate::table::Table;
use crate::types::ids::{JobId, TaskId};
use crate::types::limits::Limits;

pub(crate) mod digest;
#[cfg(test)]
mod tests;

const MAGIC: &[u8; 8] = b"TRITABLE";

/// The version this code writes.
pub const VERSION: u8 = 1;

/// Version of the computation of [`Frozen::digest`]. It must be raised with every change of the digest of equal tables.
pub const DIGEST_FORMAT: u32 = 1;

/// Most bytes of one record. No record comes near it, so a length beyond it is damage.
const RECORD_BYTES_MAX: u32 = 256 << 20;

/// Reason why a stream is not a table.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The stream cannot be read, or ends too early.
    #[error("cannot read the snapshot: {0}")]
    Io(#[from] io::Error),
    /// The stream does not begin with the magic number.
    #[error("this is not a snapshot of a task table")]
    NotASnapshot,
    /// A newer version of the program wrote the stream.
    #[error(
        "snapshot format {0} is not known here (newest known: {VERSION}): this node runs older code than the cluster"
    )]
    UnknownVersion(u8),
    /// A record does not decode.
    #[error("record {number} of the snapshot is damaged: {problem}")]
    Malformed {
        /// Its number, from 0.
        number: u64,
        /// The problem with it.
        problem: String,
    },
    /// The digest does not match the records.
    #[error("the snapshot is damaged: its digest is {found:016x}, not {expected:016x}")]
    Digest {
        /// The digest in the stream.
        expected: u64,
        /// The digest of the records that were read.
        found: u64,
    },
    /// The records do not make a sound table.
    #[error("the snapshot contradicts itself: {0}")]
    Unsound(String),
}

#[derive(Debug, Serialize, Deserialize)]
enum Record<'a> {
    Head {
        limits: Cow<'a, Limits>,
        last_position: u64,
        virtual_time: u64,
        id_offset: u64,
        restored: Option<Cow<'a, str>>,
    },
    Clock {
        now_ms: u64,
        last_index: u64,
    },
    Queue(Cow<'a, Queue>),
    Staged(Cow<'a, StagedJob>),
    RestorePart {
        part: Cow<'a, RestorePart>,
        touched_ms: u64,
    },
    Worker(Cow<'a, Worker>),
    AnsweredRequest(Cow<'a, AnsweredRequest>),
    RetiredKey(Cow<'a, RetiredKey>),
    Schedule(Cow<'a, Schedule>),
    /// A scheduling class. Classes are numbered from 0 in order of appearance, which is before the first task that
    /// refers to them.
    Class(Cow<'a, Class>),
    /// A policy, numbered as classes are.
    Policy(Cow<'a, Policy>),
    /// A job. Its tasks follow in order.
    Job(Cow<'a, Job>),
    Task(TaskRecord<'a>),
    End {
        digest: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct TaskRecord<'a> {
    id: TaskId,
    job: JobId,
    created_ms: u64,
    class: u32,
    policy: u32,
    key: Option<Cow<'a, str>>,
    payload: Cow<'a, Bytes>,
    constraints: Option<Cow<'a, TaskConstraints>>,
    life: Cow<'a, Life>,
    expires_at_ms: Option<u64>,
    attempt: u32,
    failures: u32,
    losses: u32,
    history: Cow<'a, [Attempt]>,
}

/// Frozen view: later applies do not change it.
#[derive(Debug)]
pub struct Frozen {
    limits: Limits,
    last_position: u64,
    virtual_time: u64,
    id_offset: u64,
    restored: Option<Arc<str>>,
    pending_restore: Option<PendingRestore>,
    queues: BTreeMap<Arc<str>, Queue>,
    staged_jobs: BTreeMap<Arc<str>, StagedJob>,
    now_ms: u64,
    last_index: u64,
    workers: Paged<Worker>,
    answered_requests: Paged<AnsweredRequest>,
    retired_keys: Paged<RetiredKey>,
    jobs: Paged<Job>,
    tasks: Paged<Task>,
    schedules: Schedules,
}

impl Table {
    /// Returns a frozen view of the current state. The cost is a reference count per page of records, not a copy.
    pub fn freeze(&self) -> Frozen {
        Frozen {
            limits: self.limits.clone(),
            last_position: self.last_position,
            virtual_time: self.virtual_time,
            id_offset: self.id_offset,
            restored: self.restored.clone(),
            pending_restore: self.pending_restore.clone(),
            queues: self.queues.clone(),
            staged_jobs: self.staged_jobs.clone(),
            now_ms: self.now_ms,
            last_index: self.last_index,
            workers: self.workers.clone(),
            answered_requests: self.answered_requests.records().clone(),
            retired_keys: self.retired_keys.records().clone(),
            jobs: self.jobs.clone(),
            tasks: self.tasks.clone(),
            schedules: self.schedules.clone(),
        }
    }

    /// Returns a digest over the whole state but its time and its position in the log, which every entry moves. Equal
    /// states have equal digests on every replica. It reads the records of all pages that changed since the last
    /// digest. [`Frozen::digest`] does so while later entries apply.
    pub fn digest(&self) -> u64 {
        self.freeze().digest()
    }

    /// Stages a part of a pending restore; returns whether it fits with those before.
    fn take_restored_part(&mut self, came: RestorePart, touched_ms: u64) -> bool {
        let pending_restore = self.pending_restore.get_or_insert_with(|| PendingRestore {
            backup: Arc::from(&*came.backup),
            parts: came.parts,
            touched_ms,
            received: BTreeMap::new(),
        });
        *pending_restore.backup == *came.backup
            && pending_restore.parts == came.parts
            && pending_restore.touched_ms == touched_ms
            && pending_restore
                .received
                .insert(came.part, came.bytes)
                .is_none()
    }

    /// Reads the table that [`Frozen::write`] wrote. It does not read past the end of the snapshot.
    ///
    /// # Errors
    ///
    /// Returns a [`SnapshotError`] unless the stream is a complete and sound table.
    pub fn read(from: &mut dyn Read) -> Result<Table, SnapshotError> {
        let mut magic = [0; MAGIC.len() + 1];
        from.read_exact(&mut magic)?;
        let [magic @ .., version] = magic;
        if magic != *MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        if version != VERSION {
            return Err(SnapshotError::UnknownVersion(version));
        }
        let mut reader = Reader {
            from,
            digest: Digest::new(),
            number: 0,
            buffer: Vec::new(),
        };
        let mut table = read_records(&mut reader)?;
        table
            .unsound()
            .map_or(Ok(()), |problem| Err(SnapshotError::Unsound(problem)))?;
        table.rebuild_index();
        Ok(table)
    }
}

impl Frozen {
    /// Returns the log index of the last entry in this view.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Returns the digest; see [`Table::digest`].
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        let mut buffer = Vec::new();
        let mut add = |record: Record<'_>| digest.add(plain(&record, &mut buffer));
        add(self.head());
        self.few(&mut add);
        let mut buffer = Vec::new();
        for sum in [
            self.workers.sum(|it| value(it, &mut buffer)),
            self.answered_requests.sum(|it| value(it, &mut buffer)),
            self.retired_keys.sum(|it| value(it, &mut buffer)),
            self.jobs.sum(|it| value(it, &mut buffer)),
            self.tasks.sum(|task| {
                let shared = (&*task.spec.class, &*task.spec.policy);
                value(&(TaskRecord::of(task, 0, 0), shared), &mut buffer)
            }),
        ] {
            digest.add(&sum.to_le_bytes());
        }
        digest.value()
    }

    /// Streams the view. The caller must flush and sync the destination.
    pub fn write(self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 18, out);
        out.write_all(MAGIC)?;
        out.write_all(&[VERSION])?;
        let mut digest = Digest::new();
        let mut put = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len())
                .ok()
                .filter(|&length| length <= RECORD_BYTES_MAX);
            let length =
                length.ok_or_else(|| io::Error::other("a record is too long for a snapshot"))?;
            out.write_all(&length.to_le_bytes())?;
            out.write_all(bytes)
        };
        self.records(&mut |_, bytes| {
            digest.add(bytes);
            put(bytes)
        })?;
        put(&encoded(
            &Record::End {
                digest: digest.value(),
            },
            Vec::new(),
        )?)?;
        out.flush()
    }

    fn head(&self) -> Record<'_> {
        Record::Head {
            limits: Cow::Borrowed(&self.limits),
            last_position: self.last_position,
            virtual_time: self.virtual_time,
            id_offset: self.id_offset,
            restored: self.restored.as_deref().map(Cow::Borrowed),
        }
    }

    /// Calls `each` with every record of the small collections: queues, staged jobs, restore parts and schedules.
    fn few<'a>(&'a self, each: &mut dyn FnMut(Record<'a>)) {
        for queue in self.queues.values() {
            each(Record::Queue(Cow::Borrowed(queue)));
        }
        for staged in self.staged_jobs.values() {
            each(Record::Staged(Cow::Borrowed(staged)));
        }
        if let Some(pending_restore) = &self.pending_restore {
            for (&part, bytes) in &pending_restore.received {
                each(Record::RestorePart {
                    part: Cow::Owned(RestorePart {
                        backup: pending_restore.backup.to_string(),
                        part,
                        parts: pending_restore.parts,
                        bytes: bytes.clone(),
                    }),
                    touched_ms: pending_restore.touched_ms,
                });
            }
        }
        let forgotten = mutated!(SchedulesLeftOutOfSnapshot);
        for schedule in self.schedules.iter().filter(|_| !forgotten) {
            each(Record::Schedule(Cow::Borrowed(schedule)));
        }
    }

    /// Calls `each` with every record but the end, and its bytes.
    fn records(
        &self,
        each: &mut dyn FnMut(&Record<'_>, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut put = |record: Record<'_>| -> io::Result<()> {
            buffer.clear();
            buffer = encoded(&record, std::mem::take(&mut buffer))?;
            each(&record, &buffer)
        };
        put(self.head())?;
        put(Record::Clock {
            now_ms: self.now_ms,
            last_index: self.last_index,
        })?;
        let mut outcome = Ok(());
        self.few(&mut |record| {
            if outcome.is_ok() {
                outcome = put(record);
            }
        });
        outcome?;
        for worker in self.workers.iter() {
            put(Record::Worker(Cow::Borrowed(worker)))?;
        }
        let forgotten = mutated!(AnswersLeftOutOfSnapshot);
        for answered in self.answered_requests.iter().filter(|_| !forgotten) {
            put(Record::AnsweredRequest(Cow::Borrowed(answered)))?;
        }
        let forgotten = mutated!(OldKeysLeftOutOfSnapshot);
        for retired_key in self.retired_keys.iter().filter(|_| !forgotten) {
            put(Record::RetiredKey(Cow::Borrowed(retired_key)))?;
        }
        let mut classes = BTreeMap::new();
        let mut policies = BTreeMap::new();
        let mut tasks = self.tasks.iter();
        for job in self.jobs.iter() {
            put(Record::Job(Cow::Borrowed(job)))?;
            for task in tasks.by_ref().take(job.tasks as usize) {
                let (class, new) = numbered(&mut classes, &*task.spec.class);
                if new {
                    put(Record::Class(Cow::Borrowed(&task.spec.class)))?;
                }
                let (policy, new) = numbered(&mut policies, &*task.spec.policy);
                if new {
                    put(Record::Policy(Cow::Borrowed(&task.spec.policy)))?;
                }
                put(Record::Task(TaskRecord::of(task, class, policy)))?;
            }
        }
        Ok(())
    }
}

impl<'a> TaskRecord<'a> {
    fn of(task: &'a Task, class: u32, policy: u32) -> Self {
        Self {
            id: task.id,
            job: task.job,
            created_ms: task.created_ms,
            class,
            policy,
            key: task.key().map(Cow::Borrowed),
            payload: Cow::Borrowed(&task.spec.payload),
            constraints: task.spec.constraints.as_deref().map(Cow::Borrowed),
            life: Cow::Borrowed(&task.life),
            expires_at_ms: task.expires_at_ms,
            attempt: task.attempt,
            failures: task.failures,
            losses: task.losses,
            history: Cow::Borrowed(&task.history),
        }
    }
}

/// Encodes a value for the digest.
fn plain<'a, T: Serialize>(value: &T, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    buffer.clear();
    *buffer = postcard::to_extend(value, std::mem::take(buffer))
        .expect("records hold nothing that postcard cannot write");
    buffer
}

/// Returns the digest of one value alone.
fn value<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> u64 {
    let mut digest = Digest::new();
    digest.add(plain(value, buffer));
    digest.value()
}

fn encoded(record: &Record<'_>, buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    postcard::to_extend(record, buffer).map_err(io::Error::other)
}

/// Returns the number of a value in order of first appearance, and whether this is its first.
fn numbered<'a, T: Ord>(numbers: &mut BTreeMap<&'a T, u32>, value: &'a T) -> (u32, bool) {
    let next = numbers.len() as u32;
    let number = *numbers.entry(value).or_insert(next);
    (number, number == next)
}

/// Returns these records as a snapshot under a matching digest. Only so do the records of a fuzzer get past the digest.
///
/// Records are lengths and bytes; a record that is too short for its length ends them.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn sealed(mut records: &[u8]) -> Vec<u8> {
    let mut digest = Digest::new();
    let mut bytes = Vec::from(MAGIC);
    bytes.push(VERSION);
    while let Some((length, rest)) = records.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((record, rest)) = rest.split_at_checked(length) else {
            break;
        };
        digest.add(record);
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(record);
        records = rest;
    }
    let digest = digest.value();
    let end = encoded(&Record::End { digest }, Vec::new()).expect("memory takes everything");
    bytes.extend_from_slice(&(end.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&end);
    bytes
}

struct Reader<'a> {
    from: &'a mut dyn Read,
    digest: Digest,
    number: u64,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<Record<'static>, SnapshotError> {
        let mut length = [0; 4];
        self.from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > RECORD_BYTES_MAX {
            return Err(self.malformed(format!("it claims to be {length} bytes long")));
        }
        self.buffer.clear();
        // The buffer grows with the bytes that are really there, not with the length that the record claims.
        let found = (&mut *self.from)
            .take(u64::from(length))
            .read_to_end(&mut self.buffer)?;
        if found < length as usize {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let (record, rest) = postcard::take_from_bytes(&self.buffer)
            .map_err(|error| self.malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(self.malformed(format!("{} bytes follow its end", rest.len())));
        }
        if !matches!(record, Record::End { .. }) {
            self.digest.add(&self.buffer);
        }
        self.number += 1;
        Ok(record)
    }

    fn malformed(&self, problem: String) -> SnapshotError {
        SnapshotError::Malformed {
            number: self.number,
            problem,
        }
    }

    fn unexpected(&self) -> SnapshotError {
        let problem = "it does not belong in this place".to_owned();
        SnapshotError::Malformed {
            number: self.number.saturating_sub(1),
            problem,
        }
    }
}

/// Reads a table with all of its records and no index. It is complete, but not yet known to be sound.
fn read_records(reader: &mut Reader<'_>) -> Result<Table, SnapshotError> {
    let Record::Head {
        limits,
        last_position,
        virtual_time,
        id_offset,
        restored,
    } = reader.next()?
    else {
        return Err(reader.unexpected());
    };
    let Record::Clock { now_ms, last_index } = reader.next()? else {
        return Err(reader.unexpected());
    };
    let mut table = Table::new(limits.into_owned());
    (table.last_position, table.virtual_time, table.id_offset) =
        (last_position, virtual_time, id_offset);
    table.restored = restored.map(Arc::from);
    (table.now_ms, table.last_index) = (now_ms, last_index);
    let mut classes: Vec<Arc<Class>> = Vec::new();
    let mut policies: Vec<Arc<Policy>> = Vec::new();
    loop {
        let fits = match reader.next()? {
            Record::Head { .. } | Record::Clock { .. } => false,
            Record::Queue(queue) => {
                let queue = queue.into_owned();
                table.queues.insert(queue.name.clone(), queue).is_none()
            }
            Record::Staged(staged) => {
                let staged = staged.into_owned();
                table
                    .staged_jobs
                    .insert(staged.key.clone(), staged)
                    .is_none()
            }
            Record::RestorePart { part, touched_ms } => {
                table.take_restored_part(part.into_owned(), touched_ms)
            }
            Record::Worker(worker) => table.workers.try_push(worker.into_owned()),
            Record::AnsweredRequest(answered) => {
                table.answered_requests.try_push(answered.into_owned())
            }
            Record::RetiredKey(retired_key) => {
                table.retired_keys.try_push(retired_key.into_owned())
            }
            Record::Schedule(schedule) => table.schedules.try_push(schedule.into_owned()),
            Record::Class(class) => {
                classes.push(Arc::new(class.into_owned()));
                true
            }
            Record::Policy(policy) => {
                policies.push(Arc::new(policy.into_owned()));
                true
            }
            Record::Job(job) => {
                let mut job = job.into_owned();
                if let Some((shared, _)) = table.queues.get_key_value(&job.queue) {
                    job.queue = shared.clone();
                }
                table.jobs.try_push(job)
            }
            Record::Task(record) => {
                let class = classes.get(record.class as usize).cloned();
                let policy = policies.get(record.policy as usize).cloned();
                let (Some(class), Some(policy)) = (class, policy) else {
                    return Err(reader.unexpected());
                };
                table.tasks.try_push(Task {
                    id: record.id,
                    job: record.job,
                    created_ms: record.created_ms,
                    spec: Arc::new(TaskSpec {
                        class,
                        policy,
                        key: record.key.map(|key| key.into_owned().into_boxed_str()),
                        payload: record.payload.into_owned(),
                        constraints: record
                            .constraints
                            .map(|constraints| Box::new(constraints.into_owned())),
                    }),
                    life: record.life.into_owned(),
                    expires_at_ms: record.expires_at_ms,
                    attempt: record.attempt,
                    failures: record.failures,
                    losses: record.losses,
                    history: record.history.into_owned(),
                })
            }
            Record::End { digest: expected } => {
                let found = reader.digest.value();
                return if found == expected {
                    Ok(table)
                } else {
                    Err(SnapshotError::Digest { expected, found })
                };
            }
        };
        if !fits {
            return Err(reader.unexpected());
        }
    }
}
