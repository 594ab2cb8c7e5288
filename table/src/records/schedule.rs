//! Schedule records: jobs that recur, and the next tick of each.
//!
//! The table knows neither cron nor time zones, whose data would have to be the same on every replica. It keeps both as
//! text, and the next tick as a number that the leader computed. The table enforces the order of ticks. Only the very
//! tick that the schedule waits for can come next, so none fires twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::dependency::PlacedCondition;
use crate::command::later_parts::put_conditions;
use crate::command::{CatchUp, Overlap, SubmitJob};
use crate::types::ids::JobId;

/// A schedule. See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Name of the schedule, which identifies it.
    pub name: Arc<str>,
    /// Log index at which it was last put. Ticks that were computed from an earlier generation are ignored.
    pub generation: u64,
    /// Cron expression, or an interval after [`INTERVAL_PREFIX`](crate::command::INTERVAL_PREFIX); never parsed here.
    pub cron: Arc<str>,
    /// Time zone of the cron expression; never parsed here.
    pub timezone: Arc<str>,
    /// The job that each tick submits; without keys of its own.
    pub job: Arc<SubmitJob>,
    /// Raw JSON text of the job as it was put, for display; never parsed here.
    pub job_text: Bytes,
    /// Whether a tick fires while the job of an earlier one is unfinished.
    pub overlap: Overlap,
    /// Handling of ticks whose time passed while no leader could act on them.
    pub catch_up: CatchUp,
    /// Whether the schedule is paused, so that its ticks have no effect.
    pub paused: bool,
    /// Time at which it was first put, in Unix ms.
    pub created_ms: u64,
    /// The one tick that can come next, in Unix ms; `None` while paused, and when there are no more ticks.
    pub next_tick_ms: Option<u64>,
    /// The last tick that was handled in time, in Unix ms, whether or not it made a job.
    pub last_tick_ms: Option<u64>,
    /// The last job that a tick made; it may be forgotten by now.
    pub last_job: Option<JobId>,
    /// Why the job of the last handled tick was refused, if it was.
    pub last_error: Option<Arc<str>>,
    /// Number of ticks that made a job.
    pub fired: u64,
    /// Number of ticks that made none, because an earlier job was unfinished or all of their tasks existed already.
    pub skipped: u64,
    /// Number of ticks that made none, because they were too late or because their job was refused.
    pub missed: u64,
}

/// Estimated overhead of one task of a schedule's job, in bytes, in addition to its payload.
const TASK_OVERHEAD_BYTES: u64 = 512;

impl Schedule {
    /// Returns its size as the limits count it, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        template_bytes(&self.job, &self.job_text)
    }
}

/// Returns the size of a schedule of this job as the limits count it, in bytes.
pub(crate) fn template_bytes(job: &SubmitJob, job_text: &Bytes) -> u64 {
    let tasks = job.tasks.iter();
    let payloads: u64 = tasks.map(|task| task.payload.len() as u64).sum();
    payloads + job_text.len() as u64 + TASK_OVERHEAD_BYTES * job.tasks.len() as u64
}

/// All schedules by name, and by due time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Schedules {
    pub(crate) by_name: BTreeMap<Arc<str>, Arc<Schedule>>,
    /// Next ticks, earliest first; derived from the schedules.
    pub(crate) due: BTreeSet<(u64, Arc<str>)>,
    /// Size of all schedules as the limits count it; derived from the schedules.
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

    /// Inserts a schedule; replaces the one of the same name.
    pub fn put(&mut self, schedule: Schedule) {
        self.remove(&schedule.name);
        self.bytes += schedule.bytes();
        if let Some(next_ms) = schedule.next_tick_ms {
            self.due.insert((next_ms, schedule.name.clone()));
        }
        self.by_name
            .insert(schedule.name.clone(), Arc::new(schedule));
    }

    /// Puts the conditions of dependencies into the job of a schedule that was just read. Returns whether they fit.
    pub fn put_conditions(&mut self, name: &str, conditions: &[PlacedCondition]) -> bool {
        let schedule = self.by_name.get_mut(name).and_then(Arc::get_mut);
        let job = schedule.and_then(|schedule| Arc::get_mut(&mut schedule.job));
        job.is_some_and(|job| put_conditions(&mut job.tasks, conditions))
    }

    /// Removes a schedule.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Schedule>> {
        let schedule = self.by_name.remove(name)?;
        self.bytes -= schedule.bytes();
        if let Some(next_ms) = schedule.next_tick_ms {
            self.due.remove(&(next_ms, schedule.name.clone()));
        }
        Some(schedule)
    }

    /// Inserts a schedule if its name is after all others; returns whether it did.
    pub fn try_push(&mut self, schedule: Schedule) -> bool {
        let last = self.by_name.last_key_value();
        let fits = last.is_none_or(|(name, _)| **name < *schedule.name);
        if fits {
            self.put(schedule);
        }
        fits
    }

    /// Returns the first violation of the invariants, if any.
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
