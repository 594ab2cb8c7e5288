//! Reads a table from a stream.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use crate::command::later_parts::put_conditions;
use crate::command::{DependencyCondition, RestorePart};
use crate::records::pending_restore::PendingRestore;
use crate::records::task::{Class, Policy, Task, TaskSpec};
use crate::snapshot::digest::Digest;
use crate::snapshot::error::SnapshotError;
use crate::snapshot::format::{MAGIC, RECORD_BYTES_MAX, Record, VERSION, WHOLE};
use crate::table::Table;
use crate::types::ids::{JobId, TaskId};

impl Table {
    /// Stages a part of a pending restore; returns whether it fits with those before.
    fn take_restored_part(&mut self, part: RestorePart, touched_ms: u64) -> bool {
        let pending_restore = self.pending_restore.get_or_insert_with(|| PendingRestore {
            backup: Arc::from(&*part.backup),
            parts: part.parts,
            touched_ms,
            received: BTreeMap::new(),
        });
        *pending_restore.backup == *part.backup
            && pending_restore.parts == part.parts
            && pending_restore.touched_ms == touched_ms
            && pending_restore
                .received
                .insert(part.part, part.bytes)
                .is_none()
    }

    /// Reads the table that [`super::Frozen::write`] wrote. It does not read past the end of the snapshot.
    ///
    /// # Errors
    ///
    /// Returns a [`SnapshotError`] unless the stream is a complete and sound table.
    pub fn read(from: &mut dyn Read) -> Result<Table, SnapshotError> {
        Self::read_any(from).map(|read| read.table)
    }

    /// Reads a table as [`Table::read`] does, and whether programs of level 1 can read it too.
    pub(crate) fn read_any(from: &mut dyn Read) -> Result<ReadTable, SnapshotError> {
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
            has_later_records: false,
        };
        let mut table = read_records(&mut reader)?;
        table
            .unsound()
            .map_or(Ok(()), |problem| Err(SnapshotError::Unsound(problem)))?;
        table.rebuild_index();
        Ok(ReadTable {
            table,
            is_of_level_1: !reader.has_later_records,
        })
    }
}

/// A table that was read.
pub(crate) struct ReadTable {
    /// The table.
    pub table: Table,
    /// Whether programs of level 1 can read it too.
    pub is_of_level_1: bool,
}

struct Reader<'a> {
    from: &'a mut dyn Read,
    digest: Digest,
    number: u64,
    buffer: Vec<u8>,
    /// Whether there were records that programs of level 1 do not know.
    has_later_records: bool,
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

/// The record that conditions belong to.
enum LastRecord {
    Job(JobId),
    Task(TaskId),
    Staged(Arc<str>),
    Schedule(Arc<str>),
    Other,
}

impl LastRecord {
    fn of(record: &Record<'_>) -> Self {
        match record {
            Record::Job(job) => LastRecord::Job(job.id),
            Record::Task(task) => LastRecord::Task(task.id),
            Record::Staged(staged) => LastRecord::Staged(staged.key.clone()),
            Record::Schedule(schedule) => LastRecord::Schedule(schedule.name.clone()),
            _ => LastRecord::Other,
        }
    }
}

/// Gives a task that was just read the conditions of its dependencies. Returns whether they fit.
fn take_conditions(task: &mut Task, conditions: Vec<DependencyCondition>) -> bool {
    let Some(constraints) = Arc::get_mut(&mut task.spec).and_then(|spec| spec.constraints.as_mut())
    else {
        return false;
    };
    constraints.conditions = conditions.into_boxed_slice();
    !constraints.conditions.is_empty() && constraints.conditions.len() == constraints.after.len()
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
    let mut last = LastRecord::Other;
    loop {
        let record = reader.next()?;
        let before = std::mem::replace(&mut last, LastRecord::of(&record));
        let fits = match record {
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
                let task = Task {
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
                };
                if task.is_not_needed()
                    && let Some(job) = table.jobs.get_mut(task.job)
                {
                    job.not_needed += 1;
                }
                table.tasks.try_push(task)
            }
            Record::Conditions(conditions) => {
                reader.has_later_records = true;
                let task = match before {
                    LastRecord::Task(task) => table.tasks.get_mut(task),
                    _ => None,
                };
                task.is_some_and(|task| take_conditions(task, conditions.into_owned()))
            }
            Record::AfterJobs(after_jobs) => {
                reader.has_later_records = true;
                let job = match before {
                    LastRecord::Job(job) => table.jobs.get_mut(job),
                    _ => None,
                };
                !after_jobs.is_empty()
                    && job.is_some_and(|job| {
                        job.after_jobs = after_jobs.into_owned().into_boxed_slice();
                        true
                    })
            }
            Record::SubmittedConditions { part, conditions } => {
                reader.has_later_records = true;
                last = before;
                match &last {
                    LastRecord::Staged(key) if part != WHOLE => table
                        .staged_jobs
                        .get_mut(&**key)
                        .and_then(|staged| staged.received.get_mut(&part))
                        .and_then(|received| Arc::get_mut(&mut received.tasks))
                        .is_some_and(|tasks| put_conditions(tasks, &conditions)),
                    LastRecord::Schedule(name) if part == WHOLE => {
                        table.schedules.put_conditions(name, &conditions)
                    }
                    _ => false,
                }
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
