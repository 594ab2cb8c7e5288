//! Model of a table whose time is set back.

use triarch_table::Reply;
use triarch_table::command::SetTimeBack;
use triarch_table::command::reply::Refusal;
use triarch_table::types::state::TaskState;

use super::{ApplyResult, Model, invalid};

impl Model {
    pub(super) fn set_time_back(&mut self, set_back: &SetTimeBack) -> ApplyResult {
        let (from_ms, to_ms) = (self.now_ms, set_back.to_ms);
        if to_ms >= from_ms {
            return Err(Refusal::NotAhead);
        }
        for (name, schedule) in self.schedules.iter().filter(|(_, it)| !it.paused) {
            let tick = set_back.ticks.iter().find(|tick| tick.schedule == **name);
            let tick = tick.filter(|tick| tick.generation == schedule.generation);
            let tick = tick.ok_or_else(|| Refusal::ScheduleReplaced(name.clone()))?;
            if tick.next_tick_ms.is_some_and(|at_ms| at_ms <= to_ms) {
                return Err(invalid("ticks"));
            }
        }
        for (name, schedule) in self.schedules.iter_mut().filter(|(_, it)| !it.paused) {
            let tick = set_back.ticks.iter().find(|tick| tick.schedule == **name);
            schedule.next_tick_ms = tick.and_then(|tick| tick.next_tick_ms);
        }
        let back_ms = from_ms - to_ms;
        let moved = |at_ms: u64| match at_ms > to_ms {
            true => at_ms.saturating_sub(back_ms),
            false => at_ms,
        };
        for task in self.tasks.values_mut() {
            task.until_ms = moved(task.until_ms);
            task.since_ms = moved(task.since_ms);
            task.expires_ms = task.expires_ms.map(moved);
            // A start that was named and has passed stays.
            if task.state == TaskState::Waiting && task.ready.0 > from_ms {
                task.ready.0 = moved(task.ready.0);
            }
        }
        for job in self.jobs.values_mut() {
            job.finished_ms = job.finished_ms.map(moved);
        }
        for worker in self.workers.values_mut() {
            worker.until_ms = moved(worker.until_ms);
            worker.gone_ms = moved(worker.gone_ms);
        }
        for queue in self.queues.values_mut() {
            let Some(rate) = queue.settings.rate else {
                continue;
            };
            let full_ns = queue.full_again_ns(1_000_000_000_000 / rate.per_s_milli);
            queue.full_ns = match full_ns > to_ms * 1_000_000 {
                true => full_ns.saturating_sub(back_ms * 1_000_000),
                false => full_ns,
            };
            queue.starts_ms.clear();
        }
        for staged in self.staged.values_mut() {
            staged.touched_ms = moved(staged.touched_ms);
        }
        for answered in &mut self.answered {
            answered.at_ms = moved(answered.at_ms);
        }
        for key in &mut self.retired_keys {
            key.at_ms = moved(key.at_ms);
        }
        self.now_ms = to_ms;
        Ok(Reply::Done { tasks: 0 })
    }
}
