//! Schedule records: jobs that recur, and the next tick of each.
//!
//! The table knows neither cron nor time zones, whose data would have to be the same on every replica: it keeps both as text,
//! and the next tick as a number that the leader computed. What the table enforces is the order of ticks: only the very tick
//! that the schedule waits for can come next, so none comes twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::{CatchUp, Overlap, SubmitJob};
use crate::types::ids::JobId;

/// A schedule. See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name, which is what it is known by.
    pub name: Arc<str>,
    /// Log index at which it was last put. Ticks that were worked out from an earlier one do not count.
    pub generation: u64,
    /// When, in cron's words. Never read here.
    pub cron: Arc<str>,
    /// The clock on the wall that `cron` speaks of. Never read here.
    pub timezone: Arc<str>,
    /// What each tick submits; without keys of its own.
    pub job: Arc<SubmitJob>,
    /// Raw JSON text of the job as it was put, to be shown. Never read here.
    pub job_text: Bytes,
    /// What a tick does that finds the job of an earlier one unfinished.
    pub overlap: Overlap,
    /// What becomes of ticks whose time passed while nobody could act on them.
    pub catch_up: CatchUp,
    /// Whether ticks pass by unheeded.
    pub paused: bool,
    /// When it was first put, in Unix ms.
    pub created_ms: u64,
    /// The one tick that can come next, in Unix ms; `None` while paused, and when no more are to come.
    pub next_tick_ms: Option<u64>,
    /// The last tick that was acted on, whether or not that made a job.
    pub last_tick_ms: Option<u64>,
    /// The last job that a tick made; it may be forgotten by now.
    pub last_job: Option<JobId>,
    /// Why the last tick that was acted on was refused its job, if it was.
    pub last_error: Option<Arc<str>>,
    /// Ticks that made a job.
    pub fired: u64,
    /// Ticks that made none because the job of an earlier one was unfinished, or all of their tasks were there already.
    pub skipped: u64,
    /// Ticks that made none because they were too late, or because their job was refused.
    pub missed: u64,
}

/// What one task of a schedule's job takes besides its payload, roughly.
const TASK_OVERHEAD_BYTES: u64 = 512;

impl Schedule {
    /// Bytes it is counted with.
    pub(crate) fn bytes(&self) -> u64 {
        template_bytes(&self.job, &self.job_text)
    }
}

/// Bytes that a schedule of this job is counted with.
pub(crate) fn template_bytes(job: &SubmitJob, job_text: &Bytes) -> u64 {
    let tasks = job.tasks.iter();
    let payloads: u64 = tasks.map(|task| task.payload.len() as u64).sum();
    payloads + job_text.len() as u64 + TASK_OVERHEAD_BYTES * job.tasks.len() as u64
}

/// All schedules by name, and by when they are due.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Schedules {
    pub(crate) by_name: BTreeMap<Arc<str>, Arc<Schedule>>,
    /// Derived: next ticks, earliest first.
    pub(crate) due: BTreeSet<(u64, Arc<str>)>,
    /// Derived: what all of them are counted with.
    bytes: u64,
}

impl Schedules {
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Schedule>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Schedule>> {
        self.by_name.values()
    }

    /// Puts one in, in place of one of the same name.
    pub fn put(&mut self, schedule: Schedule) {
        self.remove(&schedule.name);
        self.bytes += schedule.bytes();
        if let Some(next_ms) = schedule.next_tick_ms {
            self.due.insert((next_ms, schedule.name.clone()));
        }
        self.by_name
            .insert(schedule.name.clone(), Arc::new(schedule));
    }

    /// Takes one out.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Schedule>> {
        let schedule = self.by_name.remove(name)?;
        self.bytes -= schedule.bytes();
        if let Some(next_ms) = schedule.next_tick_ms {
            self.due.remove(&(next_ms, schedule.name.clone()));
        }
        Some(schedule)
    }

    /// Whether it comes after all others, and then puts it in.
    pub fn try_push(&mut self, schedule: Schedule) -> bool {
        let last = self.by_name.last_key_value();
        let fits = last.is_none_or(|(name, _)| **name < *schedule.name);
        if fits {
            self.put(schedule);
        }
        fits
    }

    /// What is wrong, if anything.
    pub fn unsound(&self) -> Option<String> {
        let mut rebuilt = Schedules::default();
        for schedule in self.iter() {
            let name = &schedule.name;
            if schedule.paused && schedule.next_tick_ms.is_some() {
                return Some(format!("schedule {name} is paused and waits for a tick"));
            }
            if schedule.job.idempotency_key.is_some() || schedule.job.request_id.is_some() {
                return Some(format!("the job of schedule {name} has keys of its own"));
            }
            rebuilt.put(Schedule::clone(schedule));
        }
        (rebuilt != *self).then(|| "schedules and their ticks do not agree".to_owned())
    }
}
