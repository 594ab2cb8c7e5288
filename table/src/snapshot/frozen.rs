//! Frozen view of a table, as records and as a digest.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::Serialize;

use crate::command::later_parts::conditions_of;
use crate::command::{NewTask, RestorePart};
use crate::records::dedup::{AnsweredRequest, RetiredKey};
use crate::records::job::Job;
use crate::records::paged::Paged;
use crate::records::pending_restore::PendingRestore;
use crate::records::queue::Queue;
use crate::records::schedule::Schedules;
use crate::records::staged_job::StagedJob;
use crate::records::task::Task;
use crate::records::worker::Worker;
use crate::snapshot::digest::Digest;
use crate::snapshot::format::{Record, TaskRecord, WHOLE, encoded};
use crate::table::Table;
use crate::types::limits::Limits;

/// Version of the computation of [`Frozen::digest`]. It must be raised with every change of the digest of equal tables.
pub const DIGEST_FORMAT: u32 = 1;

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
        self.small_collections(&mut add);
        let mut buffer = Vec::new();
        for sum in [
            self.workers.sum(|it| value(it, &mut buffer)),
            self.answered_requests.sum(|it| value(it, &mut buffer)),
            self.retired_keys.sum(|it| value(it, &mut buffer)),
            self.jobs.sum(|job| match &*job.after_jobs {
                [] => value(job, &mut buffer),
                after_jobs => value(&(job, after_jobs), &mut buffer),
            }),
            self.tasks.sum(|task| {
                let shared = (&*task.spec.class, &*task.spec.policy);
                let record = (TaskRecord::of(task, 0, 0), shared);
                match task.conditions() {
                    [] => value(&record, &mut buffer),
                    conditions => value(&(record, conditions), &mut buffer),
                }
            }),
        ] {
            digest.add(&sum.to_le_bytes());
        }
        digest.value()
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
    fn small_collections<'a>(&'a self, each: &mut dyn FnMut(Record<'a>)) {
        for queue in self.queues.values() {
            each(Record::Queue(Cow::Borrowed(queue)));
        }
        for staged in self.staged_jobs.values() {
            each(Record::Staged(Cow::Borrowed(staged)));
            for (&part, received) in &staged.received {
                submitted_conditions(part, &received.tasks, each);
            }
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
            submitted_conditions(WHOLE, &schedule.job.tasks, each);
        }
    }

    /// Calls `each` with every record but the end, and its bytes.
    pub(super) fn records(
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
        self.small_collections(&mut |record| {
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
            if !job.after_jobs.is_empty() {
                put(Record::AfterJobs(Cow::Borrowed(&job.after_jobs)))?;
            }
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
                if !task.conditions().is_empty() {
                    put(Record::Conditions(Cow::Borrowed(task.conditions())))?;
                }
            }
        }
        Ok(())
    }
}

/// Calls `each` with the conditions of submitted tasks that are not the default, if there are any.
fn submitted_conditions<'a>(part: u32, tasks: &[NewTask], each: &mut dyn FnMut(Record<'a>)) {
    let conditions = conditions_of(tasks);
    if !conditions.is_empty() {
        each(Record::SubmittedConditions { part, conditions });
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

/// Returns the number of a value in order of first appearance, and whether this is its first.
fn numbered<'a, T: Ord>(numbers: &mut BTreeMap<&'a T, u32>, value: &'a T) -> (u32, bool) {
    let next = numbers.len() as u32;
    let number = *numbers.entry(value).or_insert(next);
    (number, number == next)
}
