//! Model of schedules and their ticks.

use triarch_table::command::reply::Refusal;
use triarch_table::command::{
    Overlap, PutSchedule, RequestId, SubmitJob, TickAction, TickSchedule,
};
use triarch_table::{Command, JobId, Reply, Table};

use super::dependency_graph::IN_A_CYCLE;
use super::{ApplyResult, Model, invalid};

#[derive(Debug)]
pub(super) struct ModelSchedule {
    put: PutSchedule,
    pub generation: u64,
    pub paused: bool,
    pub next_tick_ms: Option<u64>,
    last_tick_ms: Option<u64>,
    last_job: Option<JobId>,
    refused: bool,
    /// Numbers of fired, skipped and missed ticks.
    counts: [u64; 3],
}

impl Model {
    pub(super) fn put_schedule(&mut self, put: &PutSchedule) -> ApplyResult {
        let mut put = put.clone();
        (put.job.request_id, put.job.idempotency_key) = (None, None);
        let wrong = [
            ("name", put.name.is_empty() || put.name.len() > 170),
            ("cron", put.cron.is_empty()),
            ("timezone", put.timezone.is_empty()),
        ];
        if let Some((field, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
            return Err(invalid(*field));
        }
        let shape = self.validate_tasks(&put.job.tasks);
        let order = shape.and_then(|()| self.check_order(&put.job.tasks));
        order.map_err(|refusal| match refusal {
            Refusal::Invalid { field, .. } if field != IN_A_CYCLE => {
                invalid(format!("job.{field}"))
            }
            other => other,
        })?;
        let before = self.schedules.get(&put.name);
        let bound = u64::from(self.limits.schedules_max);
        if before.is_none() && self.schedules.len() as u64 >= bound {
            return Err(Refusal::TableFull {
                what: "schedules".into(),
                bound,
            });
        }
        let others = self.schedules.values().map(|schedule| &schedule.put);
        let others = others.filter(|other| other.name != put.name);
        let bytes: usize = others.chain([&put]).map(bytes_of).sum();
        let bound = self.limits.schedules_bytes_max;
        if bytes as u64 > bound {
            return Err(Refusal::TableFull {
                what: "bytes of the jobs of schedules".into(),
                bound,
            });
        }
        // If the times are the same again, the tick that the schedule waits for stays.
        let waited_for = before.filter(|before| {
            !before.paused && (&before.put.cron, &before.put.timezone) == (&put.cron, &put.timezone)
        });
        let waited_for = waited_for.and_then(|before| before.next_tick_ms);
        let next_tick_ms = waited_for.or(put.next_tick_ms).filter(|_| !put.paused);
        let (generation, paused) = (self.index, put.paused);
        let created = before.is_none();
        let schedule = self.schedules.entry(put.name.clone());
        let schedule = schedule.or_insert_with(|| ModelSchedule::new(put.clone()));
        schedule.put = put;
        (schedule.generation, schedule.paused) = (generation, paused);
        schedule.next_tick_ms = next_tick_ms;
        Ok(Reply::SchedulePut { created })
    }

    pub(super) fn delete_schedule(&mut self, name: &str) -> ApplyResult {
        match self.schedules.remove(name) {
            Some(_) => Ok(Reply::Done { tasks: 0 }),
            None => Err(Refusal::ScheduleNotFound(name.into())),
        }
    }

    pub(super) fn pause_schedule(&mut self, name: &str) -> ApplyResult {
        let schedule = self.schedule(name)?;
        (schedule.paused, schedule.next_tick_ms) = (true, None);
        Ok(Reply::Done { tasks: 0 })
    }

    pub(super) fn resume_schedule(
        &mut self,
        name: &str,
        generation: u64,
        next_tick_ms: Option<u64>,
    ) -> ApplyResult {
        let schedule = self.schedule(name)?;
        if schedule.generation != generation {
            return Err(Refusal::ScheduleReplaced(name.into()));
        }
        if schedule.paused {
            (schedule.paused, schedule.next_tick_ms) = (false, next_tick_ms);
        }
        Ok(Reply::Done { tasks: 0 })
    }

    pub(super) fn triggered(
        &mut self,
        name: &str,
        request_id: &Option<RequestId>,
    ) -> Result<SubmitJob, Refusal> {
        let mut job = self.schedule(name)?.put.job.clone();
        job.request_id.clone_from(request_id);
        Ok(job)
    }

    pub(super) fn tick(&mut self, tick: &TickSchedule) -> Reply {
        let mut tasks = 0;
        let Some(schedule) = self.schedules.get(&tick.name).filter(|schedule| {
            schedule.generation == tick.generation
                && schedule.next_tick_ms == Some(tick.tick_ms)
                && tick.tick_ms <= self.now_ms
                && tick
                    .next_tick_ms
                    .is_none_or(|next_ms| next_ms > tick.tick_ms)
        }) else {
            return Reply::Done { tasks };
        };
        let mut job = schedule.put.job.clone();
        job.idempotency_key = Some(format!("schedule:{}:{}", tick.name, utc(tick.tick_ms)));
        let last = schedule.last_job.and_then(|job| self.jobs.get(&job));
        let runs = last.is_some_and(|job| job.finished_ms.is_none());
        let stopped = runs && schedule.put.overlap == Overlap::Forbid;

        let (mut fired, mut skipped, mut missed) = (None, 0, 0);
        let mut refused = false;
        match tick.action {
            TickAction::Miss { ticks } => missed = ticks,
            TickAction::Fire if stopped => skipped = 1,
            TickAction::Fire => match self.apply_one(&Command::SubmitJob(job)) {
                Ok(Reply::Submitted {
                    job,
                    duplicate: false,
                    ..
                }) => {
                    fired = Some(job);
                    tasks = self.jobs[&job].tasks.len() as u64;
                }
                Ok(_) => skipped = 1,
                Err(_) => (missed, refused) = (1, true),
            },
        }
        let schedule = self.schedules.get_mut(&tick.name).expect("found");
        schedule.next_tick_ms = tick.next_tick_ms;
        schedule.last_job = fired.or(schedule.last_job);
        if tick.action == TickAction::Fire {
            schedule.last_tick_ms = Some(tick.tick_ms);
            schedule.refused = refused;
        }
        let more = [u64::from(fired.is_some()), skipped, missed];
        (0..3).for_each(|at| schedule.counts[at] += more[at]);
        Reply::Done { tasks }
    }

    fn schedule(&mut self, name: &str) -> Result<&mut ModelSchedule, Refusal> {
        let schedule = self.schedules.get_mut(name);
        schedule.ok_or_else(|| Refusal::ScheduleNotFound(name.into()))
    }

    pub(super) fn schedules_agree_with(&self, table: &Table) {
        let schedules = table.schedules(None, usize::MAX).items.into_iter();
        let schedules = schedules.map(|it| {
            let counts = [it.fired, it.skipped, it.missed];
            let refused = it.last_error.is_some();
            let ticks = (it.next_tick_ms, it.last_tick_ms);
            let is = (
                it.generation,
                it.paused,
                ticks,
                it.last_job,
                refused,
                counts,
            );
            (it.name.to_string(), is, SubmitJob::clone(&it.job))
        });
        let expected = self.schedules.iter().map(|(name, it)| {
            let ticks = (it.next_tick_ms, it.last_tick_ms);
            let is = (
                it.generation,
                it.paused,
                ticks,
                it.last_job,
                it.refused,
                it.counts,
            );
            (name.clone(), is, it.put.job.clone())
        });
        let expected: Vec<_> = expected.collect();
        assert_eq!(schedules.collect::<Vec<_>>(), expected);

        let ticks = table
            .ticks()
            .map(|(at_ms, schedule)| (at_ms, schedule.name.to_string()));
        let expected = self.schedules.iter();
        let mut expected: Vec<_> = expected
            .filter_map(|(name, schedule)| Some((schedule.next_tick_ms?, name.clone())))
            .collect();
        expected.sort();
        assert_eq!(ticks.collect::<Vec<_>>(), expected);
    }
}

impl ModelSchedule {
    fn new(put: PutSchedule) -> Self {
        Self {
            put,
            generation: 0,
            paused: false,
            next_tick_ms: None,
            last_tick_ms: None,
            last_job: None,
            refused: false,
            counts: [0; 3],
        }
    }
}

/// Returns the counted size of a schedule: payloads, the displayed text, and 512 bytes for each task.
fn bytes_of(put: &PutSchedule) -> usize {
    let tasks = put.job.tasks.iter();
    tasks.map(|task| task.payload.len() + 512).sum::<usize>() + put.job_text.len()
}

/// Formats a time as in keys of ticks. It supports the first days of 1970 only, in which all tests run.
fn utc(at_ms: u64) -> String {
    let (seconds, ms) = (at_ms / 1_000, at_ms % 1_000);
    let (day, hour) = (seconds / 86_400 + 1, seconds / 3_600 % 24);
    assert!(day <= 31, "{at_ms}");
    let (minute, second) = (seconds / 60 % 60, seconds % 60);
    let part = if ms > 0 {
        format!(".{ms:03}")
    } else {
        String::new()
    };
    format!("1970-01-{day:02}T{hour:02}:{minute:02}:{second:02}{part}Z")
}
