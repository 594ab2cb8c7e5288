//! Commands on schedules: put, delete, pause, resume, trigger, and ticks. Each tick happens at most once.
//!
//! The leader computes and proposes ticks. A proposal may be outdated when it applies (the leader died, or the schedule
//! was changed, paused or put again). So a tick counts only if it is the very one that its schedule waits for. Other
//! ticks are ignored and are no error.

use std::sync::Arc;

use super::id_allocator::IdAllocator;
use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::command::{Overlap, PutSchedule, RequestId, SubmitJob, TickAction, TickSchedule};
use crate::records::schedule::{Schedule, template_bytes};
use crate::table::Table;
use crate::types::ids::{IDS_PER_ENTRY_MAX, JobId};

/// Length of a tick's job key without the name of its schedule, in bytes: `schedule:` and `:2026-11-23T10:00:00Z`.
const TICK_KEY_OVERHEAD_BYTES: u32 = 30;

/// Outcome of a tick.
enum TickOutcome {
    Fired(JobId),
    Skipped,
    Refused(Arc<str>),
    Missed { ticks: u64 },
}

impl Table {
    pub(super) fn put_schedule(
        &mut self,
        ids: &IdAllocator,
        put: PutSchedule,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        let before = self.schedules.get(&put.name).cloned();
        self.check_schedule(&put, before.as_deref())?;
        let created = before.is_none();
        // A schedule that is put again unchanged must not lose a tick that is due already.
        let same_ticks = |before: &Schedule| {
            !before.paused && *before.cron == *put.cron && *before.timezone == *put.timezone
        };
        let next_tick_ms = match before.as_deref() {
            _ if put.paused => None,
            Some(before) if same_ticks(before) => before.next_tick_ms.or(put.next_tick_ms),
            Some(_) | None => put.next_tick_ms,
        };
        let name: Arc<str> = match &before {
            Some(before) => before.name.clone(),
            None => Arc::from(put.name),
        };
        let before = before.as_deref();
        self.schedules.put(Schedule {
            name: name.clone(),
            generation: ids.index,
            cron: Arc::from(put.cron),
            timezone: Arc::from(put.timezone),
            job: Arc::new(SubmitJob {
                request_id: None,
                idempotency_key: None,
                ..put.job
            }),
            job_text: put.job_text,
            overlap: put.overlap,
            catch_up: put.catch_up,
            paused: put.paused,
            created_ms: before.map_or(self.now_ms, |before| before.created_ms),
            next_tick_ms,
            last_tick_ms: before.and_then(|before| before.last_tick_ms),
            last_job: before.and_then(|before| before.last_job),
            last_error: before.and_then(|before| before.last_error.clone()),
            fired: before.map_or(0, |before| before.fired),
            skipped: before.map_or(0, |before| before.skipped),
            missed: before.map_or(0, |before| before.missed),
        });
        events.push(Event::ScheduleChanged { name });
        Ok(Reply::SchedulePut { created })
    }

    fn check_schedule(&self, put: &PutSchedule, before: Option<&Schedule>) -> Result<(), Refusal> {
        let name_bytes_max = self
            .limits
            .name_bytes_max
            .saturating_sub(TICK_KEY_OVERHEAD_BYTES);
        let texts = [
            ("name", &put.name, name_bytes_max),
            ("cron", &put.cron, self.limits.name_bytes_max),
            ("timezone", &put.timezone, self.limits.name_bytes_max),
        ];
        for (field, text, most) in texts {
            if text.is_empty() || text.len() > most as usize {
                return Err(Refusal::Invalid {
                    field: field.to_owned(),
                    problem: format!("must be 1 to {most} bytes, not {}", text.len()),
                });
            }
        }
        if !put.job.after_jobs.is_empty() {
            return Err(Refusal::Invalid {
                field: "job.after_jobs".to_owned(),
                problem: "must be omitted: the job of a schedule comes after no other job"
                    .to_owned(),
            });
        }
        self.limits
            .check_submission(&put.job)
            .and_then(|()| self.dependency_order(&put.job.tasks))
            .map_err(|refusal| match refusal {
                Refusal::Invalid { field, problem } => Refusal::Invalid {
                    field: format!("job.{field}"),
                    problem,
                },
                other => other,
            })?;
        let bound = u64::from(self.limits.schedules_max);
        if before.is_none() && self.schedules.len() as u64 >= bound {
            return Err(Refusal::TableFull {
                what: "schedules".to_owned(),
                bound,
            });
        }
        let bound = self.limits.schedules_bytes_max;
        let others = self.schedules.bytes() - before.map_or(0, Schedule::bytes);
        if others.saturating_add(template_bytes(&put.job, &put.job_text)) > bound {
            return Err(Refusal::TableFull {
                what: "bytes of the jobs of schedules".to_owned(),
                bound,
            });
        }
        Ok(())
    }

    pub(super) fn delete_schedule(&mut self, name: &str, events: &mut Vec<Event>) -> ApplyResult {
        let removed = self.schedules.remove(name);
        let schedule = removed.ok_or_else(|| Refusal::ScheduleNotFound(name.to_owned()))?;
        let name = schedule.name.clone();
        events.push(Event::ScheduleChanged { name });
        Ok(Reply::Done { tasks: 0 })
    }

    pub(super) fn pause_schedule(&mut self, name: &str, events: &mut Vec<Event>) -> ApplyResult {
        let schedule = self.found_schedule(name)?;
        if !schedule.paused {
            self.change_schedule(&schedule, events, |schedule| {
                schedule.paused = true;
                schedule.next_tick_ms = None;
            });
        }
        Ok(Reply::Done { tasks: 0 })
    }

    pub(super) fn resume_schedule(
        &mut self,
        name: &str,
        generation: u64,
        next_tick_ms: Option<u64>,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        let schedule = self.found_schedule(name)?;
        if schedule.generation != generation {
            return Err(Refusal::ScheduleReplaced(name.to_owned()));
        }
        if schedule.paused {
            self.change_schedule(&schedule, events, |schedule| {
                schedule.paused = false;
                schedule.next_tick_ms = next_tick_ms;
            });
        }
        Ok(Reply::Done { tasks: 0 })
    }

    /// Makes a job on request, outside of the ticks. The ticks neither count it nor check it for overlap.
    pub(super) fn trigger_schedule(
        &mut self,
        ids: &mut IdAllocator,
        name: &str,
        request_id: Option<RequestId>,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        let schedule = self.found_schedule(name)?;
        let job = SubmitJob {
            request_id,
            ..SubmitJob::clone(&schedule.job)
        };
        self.submit_job(ids, job, events)
    }

    pub(super) fn tick_schedule(
        &mut self,
        ids: &mut IdAllocator,
        tick: &TickSchedule,
        events: &mut Vec<Event>,
    ) -> Reply {
        const IGNORED: Reply = Reply::Done { tasks: 0 };
        let expected = self.schedules.get(&tick.name).cloned();
        let Some(schedule) = expected.filter(|schedule| {
            schedule.generation == tick.generation
                && (schedule.next_tick_ms == Some(tick.tick_ms) || mutated!(TickFiresTwice))
        }) else {
            return IGNORED;
        };
        let goes_on = tick.next_tick_ms.is_none_or(|next| next > tick.tick_ms);
        if tick.tick_ms > self.now_ms || !goes_on {
            return IGNORED;
        }
        let ticked = match tick.action {
            TickAction::Miss { ticks } => TickOutcome::Missed { ticks },
            TickAction::Fire if self.overlaps(&schedule) => TickOutcome::Skipped,
            TickAction::Fire => {
                // The ids of this entry are used up, which says nothing about the job. The tick stays due for a later
                // entry.
                if ids.tasks + schedule.job.tasks.len() as u64 > IDS_PER_ENTRY_MAX {
                    return IGNORED;
                }
                self.fire(ids, &schedule, tick.tick_ms, events)
            }
        };
        let made = match &ticked {
            TickOutcome::Fired(job) => self.jobs.get(*job),
            TickOutcome::Skipped | TickOutcome::Refused(_) | TickOutcome::Missed { .. } => None,
        };
        let (job, tasks) = made.map_or((None, 0), |job| (Some(job.id), u64::from(job.tasks)));
        let mut changed = Schedule::clone(&schedule);
        changed.next_tick_ms = tick.next_tick_ms;
        changed.count(tick.tick_ms, ticked);
        self.schedules.put(changed);
        events.push(Event::ScheduleTicked {
            name: schedule.name.clone(),
            tick_ms: tick.tick_ms,
            job,
        });
        Reply::Done { tasks }
    }

    /// Returns whether the unfinished job of an earlier tick forbids this one.
    fn overlaps(&self, schedule: &Schedule) -> bool {
        match schedule.overlap {
            Overlap::Allow => false,
            Overlap::Forbid => schedule
                .last_job
                .and_then(|job| self.jobs.get(job))
                .is_some_and(|job| job.finished_ms.is_none()),
        }
    }

    fn fire(
        &mut self,
        ids: &mut IdAllocator,
        schedule: &Schedule,
        tick_ms: u64,
        events: &mut Vec<Event>,
    ) -> TickOutcome {
        let key = format!("schedule:{}:{}", schedule.name, Utc(tick_ms));
        let job = SubmitJob {
            idempotency_key: Some(key).filter(|_| !mutated!(TickFiresTwice)),
            ..SubmitJob::clone(&schedule.job)
        };
        match self.submit_job(ids, job, events) {
            Ok(Reply::Submitted {
                job,
                duplicate: false,
                ..
            }) => TickOutcome::Fired(job),
            // All of its tasks were deduplicated: their unique keys belong to unfinished tasks.
            Ok(Reply::Submitted {
                duplicate: true, ..
            }) => TickOutcome::Skipped,
            Ok(
                other @ (Reply::Staged { .. }
                | Reply::Registered { .. }
                | Reply::Granted { .. }
                | Reply::Reported { .. }
                | Reply::Done { .. }
                | Reply::Refused(_)
                | Reply::SchedulePut { .. }
                | Reply::Restoring { .. }
                | Reply::Restored { .. }),
            ) => panic!("a submission was answered by {other:?}"),
            Err(refusal) => TickOutcome::Refused(Arc::from(refusal.to_string())),
        }
    }

    fn found_schedule(&self, name: &str) -> Result<Arc<Schedule>, Refusal> {
        let found = self.schedules.get(name).cloned();
        found.ok_or_else(|| Refusal::ScheduleNotFound(name.to_owned()))
    }

    fn change_schedule(
        &mut self,
        schedule: &Schedule,
        events: &mut Vec<Event>,
        change: impl FnOnce(&mut Schedule),
    ) {
        let mut changed = schedule.clone();
        change(&mut changed);
        self.schedules.put(changed);
        events.push(Event::ScheduleChanged {
            name: schedule.name.clone(),
        });
    }
}

impl Schedule {
    fn count(&mut self, tick_ms: u64, ticked: TickOutcome) {
        match ticked {
            TickOutcome::Missed { ticks } => {
                self.missed = self.missed.saturating_add(ticks);
                return;
            }
            TickOutcome::Fired(job) => {
                self.fired += 1;
                self.last_job = Some(job);
                self.last_error = None;
            }
            TickOutcome::Skipped => {
                self.skipped += 1;
                self.last_error = None;
            }
            TickOutcome::Refused(why) => {
                self.missed = self.missed.saturating_add(1);
                self.last_error = Some(why);
            }
        }
        self.last_tick_ms = Some(tick_ms);
    }
}

/// Unix ms in RFC 3339, in UTC, to the second; to the millisecond if there is a fraction.
struct Utc(u64);

impl std::fmt::Display for Utc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, ms) = (self.0 / 1_000, self.0 % 1_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Days are counted in eras of 400 years that begin on 1 March, so that a leap day is the last of its year.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let from_march = (5 * day + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let year = era * 400 + year + u64::from(month <= 2);
        let day = day - (153 * from_march + 2) / 5 + 1;
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        if ms > 0 {
            write!(f, ".{ms:03}")?;
        }
        f.write_str("Z")
    }
}

#[cfg(test)]
mod tests {
    use super::Utc;

    #[test]
    fn ticks_are_shown_in_the_usual_notation_of_times() {
        for (ms, said) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (951_868_800_000, "2000-03-01T00:00:00Z"),
            (1_764_000_000_000, "2025-11-24T16:00:00Z"),
            (1_767_225_599_000, "2025-12-31T23:59:59Z"),
            (1_767_225_600_001, "2026-01-01T00:00:00.001Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Utc(ms).to_string(), said);
        }
        let _ = Utc(u64::MAX).to_string();
    }
}
