//! Correction of a table whose time is ahead: after most of the masters' clocks were ahead once, `now_ms` is set back.
//!
//! One rule holds for every instant in the records. An instant after the new time moves back by the difference between
//! the two times; an earlier one stays. Stamps of the wrong years thereby become right, and ages and remaining times
//! are kept: of delays, back-offs, expiries, retention, deduplication, quarantines, rates and ageing in queues.
//!
//! Two kinds of instants follow rules of their own:
//!
//! - The next tick of a schedule lies on the calendar. The leader computes it, and the table takes it. A tick whose job
//!   exists, or whose key is still remembered, makes no second job when its time comes again.
//! - The earliest start of a waiting task is a time that its submitter named. It stays if the old time had passed it.
//!
//! # Invariants
//!
//! - No record is from the future afterwards.
//! - The command changes everything or, refused, nothing.

use std::collections::BTreeMap;

use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::command::validate::invalid;
use crate::command::{NextTick, SetTimeBack};
use crate::records::schedule::Schedule;
use crate::records::task::{Life, Task};
use crate::records::worker::{Worker, WorkerLife};
use crate::table::Table;
use crate::types::queue_options::ns;

impl Table {
    pub(super) fn set_time_back(
        &mut self,
        set_back: &SetTimeBack,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        let shift = Shift {
            from_ms: self.now_ms,
            to_ms: set_back.to_ms,
        };
        if shift.to_ms >= shift.from_ms {
            return Err(Refusal::NotAhead);
        }
        let schedules = self.reset_schedules(set_back, shift)?;
        self.now_ms = shift.to_ms;
        self.jobs.change_all(|job| {
            shift.apply(&mut job.created_ms);
            job.finished_ms.iter_mut().for_each(|at| shift.apply(at));
        });
        self.tasks.change_all(|task| shift.apply_to_task(task));
        self.workers
            .change_all(|worker| shift.apply_to_worker(worker));
        self.answered_requests.change_times(|at| shift.apply(at));
        self.retired_keys.change_times(|at| shift.apply(at));
        for staged in self.staged_jobs.values_mut() {
            shift.apply(&mut staged.touched_ms);
        }
        if let Some(pending_restore) = &mut self.pending_restore {
            shift.apply(&mut pending_restore.touched_ms);
        }
        for queue in self.queues.values_mut() {
            shift.apply_ns(&mut queue.theoretical_arrival_ns);
        }
        for schedule in schedules {
            self.schedules.put(schedule);
        }
        self.rebuild_index();
        events.push(Event::TimeSetBack {
            from_ms: shift.from_ms,
            to_ms: shift.to_ms,
        });
        Ok(Reply::Done { tasks: 0 })
    }

    /// Returns all schedules with their new next ticks.
    ///
    /// # Errors
    ///
    /// Fails unless the command has a tick after the new time for exactly the schedules that are not paused.
    fn reset_schedules(
        &self,
        set_back: &SetTimeBack,
        shift: Shift,
    ) -> Result<Vec<Schedule>, Refusal> {
        let given = set_back.ticks.iter();
        let given: BTreeMap<&str, &NextTick> =
            given.map(|tick| (tick.schedule.as_str(), tick)).collect();
        let reset = self.schedules.iter().map(|schedule| {
            let mut reset = Schedule::clone(schedule);
            shift.apply(&mut reset.created_ms);
            if !schedule.paused {
                let replaced = || Refusal::ScheduleReplaced(schedule.name.to_string());
                let tick = given.get(&*schedule.name).ok_or_else(replaced)?;
                if tick.generation != schedule.generation {
                    return Err(replaced());
                }
                if tick.next_tick_ms.is_some_and(|at_ms| at_ms <= shift.to_ms) {
                    return Err(invalid("ticks", "must be after the new time"));
                }
                reset.next_tick_ms = tick.next_tick_ms;
            }
            Ok(reset)
        });
        reset.collect()
    }
}

/// Change of the table's time.
#[derive(Debug, Clone, Copy)]
struct Shift {
    from_ms: u64,
    to_ms: u64,
}

impl Shift {
    fn apply(self, at_ms: &mut u64) {
        if *at_ms > self.to_ms {
            *at_ms = at_ms.saturating_sub(self.from_ms - self.to_ms);
        }
    }

    fn apply_ns(self, at_ns: &mut u64) {
        if *at_ns > ns(self.to_ms) {
            *at_ns = at_ns.saturating_sub(ns(self.from_ms - self.to_ms));
        }
    }

    fn apply_to_task(self, task: &mut Task) {
        self.apply(&mut task.created_ms);
        task.expires_at_ms
            .iter_mut()
            .for_each(|at_ms| self.apply(at_ms));
        match &mut task.life {
            Life::Waiting { not_before_ms, .. } => {
                if *not_before_ms > self.from_ms {
                    self.apply(not_before_ms);
                }
            }
            Life::Delayed { .. } if mutated!(DelaysKeptInFuture) => {}
            Life::Delayed { until_ms } => self.apply(until_ms),
            Life::Queued { position } => self.apply(&mut position.since_ms),
            Life::Running {
                started_ms,
                position,
                ..
            } => {
                self.apply(started_ms);
                self.apply(&mut position.since_ms);
            }
            Life::Succeeded { finished_ms, .. }
            | Life::Failed { finished_ms, .. }
            | Life::Cancelled { finished_ms, .. }
            | Life::Expired { finished_ms } => self.apply(finished_ms),
        }
        for attempt in &mut task.history {
            self.apply(&mut attempt.started_ms);
            self.apply(&mut attempt.ended_ms);
        }
    }

    fn apply_to_worker(self, worker: &mut Worker) {
        self.apply(&mut worker.registered_ms);
        match &mut worker.life {
            WorkerLife::Quarantined { until_ms, .. } => self.apply(until_ms),
            WorkerLife::Lost { at_ms } | WorkerLife::Left { at_ms } => self.apply(at_ms),
            WorkerLife::Live
            | WorkerLife::Draining
            | WorkerLife::Paused
            | WorkerLife::Probation { .. } => {}
        }
    }
}
