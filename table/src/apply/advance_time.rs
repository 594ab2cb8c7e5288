//! Time-triggered transitions: elapsed delays and back-offs, expired tasks, probation, retention.
//!
//! One command touches a bounded number of tasks, so that no entry delays the others for long. While more is due,
//! [`Table::next_timer_ms`] returns a time that is not in the future.

use crate::command::event::Event;
use crate::command::reply::Reply;
use crate::records::task::Life;
use crate::table::Table;
use crate::types::ids::TaskId;

/// The next timer that is due.
enum Due {
    Expiry(TaskId),
    Delay(TaskId),
}

impl Table {
    pub(super) fn advance_time(&mut self, events: &mut Vec<Event>) -> Reply {
        let steps_max = u64::from(self.limits.advance_steps_max);
        let mut tasks = 0;
        while tasks < steps_max
            && let Some(due) = self.next_due()
        {
            let before = events.len();
            match due {
                Due::Expiry(task) => self.expire(task, events),
                Due::Delay(task) => self.make_ready(task, events),
            }
            tasks += changed_tasks(&events[before..]);
        }
        while let Some(&(until_ms, worker)) = self.index.quarantines.first()
            && until_ms <= self.now_ms
        {
            self.put_on_probation(worker, events);
        }
        self.forget(steps_max.saturating_sub(tasks));
        Reply::Done { tasks }
    }

    /// Returns the due timer with the earliest time; at the same time an expiry first.
    fn next_due(&self) -> Option<Due> {
        let delay = self
            .index
            .delays
            .first()
            .filter(|(at_ms, _)| *at_ms <= self.now_ms);
        let expiry = self
            .index
            .expiries
            .first()
            .filter(|(at_ms, _)| *at_ms <= self.now_ms);
        match (expiry, delay) {
            (Some(&(expires_ms, task)), Some(&(ready_ms, _))) if expires_ms <= ready_ms => {
                Some(Due::Expiry(task))
            }
            (_, Some(&(_, task))) => Some(Due::Delay(task)),
            (Some(&(_, task)), None) => Some(Due::Expiry(task)),
            (None, None) => None,
        }
    }

    fn expire(&mut self, task: TaskId, events: &mut Vec<Event>) {
        let finished_ms = self.now_ms;
        self.change_task(task, events, |task| {
            task.life = Life::Expired { finished_ms }
        });
    }

    fn make_ready(&mut self, task: TaskId, events: &mut Vec<Event>) {
        let position = self.next_position();
        self.change_task(task, events, |task| task.life = Life::Queued { position });
    }

    /// Forgets records beyond their age or number. A job is forgotten as a whole.
    fn forget(&mut self, steps_max: u64) {
        let now_ms = self.now_ms;
        let old = |at_ms: u64, age_ms: u64| at_ms.saturating_add(age_ms) <= now_ms;
        let mut steps = 0;
        while steps < steps_max
            && let Some(&(finished_ms, job)) = self.index.finished_jobs.first()
            && (self.too_many_finished() || old(finished_ms, self.limits.finished_age_ms))
        {
            steps += self.jobs.get(job).map_or(0, |job| u64::from(job.tasks));
            self.forget_job(job);
        }
        while steps < steps_max
            && let Some((at_ms, queue)) = self.index.queue_order.retention_due.first()
            && *at_ms <= now_ms
        {
            let queue = self.index.queue(queue);
            let job = queue.and_then(|queue| queue.finished.first());
            let &(_, job) = job.expect("a queue with jobs to forget has them");
            steps += self.jobs.get(job).map_or(0, |job| u64::from(job.tasks));
            self.forget_job(job);
        }
        while steps < steps_max
            && let Some(&(gone_ms, _)) = self.index.gone_workers.first()
            && old(gone_ms, self.limits.gone_workers_age_ms)
        {
            steps += 1;
            self.forget_oldest_worker();
        }
        self.staged_jobs
            .retain(|_, staged| !old(staged.touched_ms, self.limits.staged_age_ms));
        self.pending_restore
            .take_if(|pending_restore| old(pending_restore.touched_ms, self.limits.staged_age_ms));
        while steps < steps_max
            && let Some(at_ms) = self.answered_requests.oldest_ms()
            && old(at_ms, self.limits.requests_age_ms)
        {
            steps += 1;
            self.answered_requests.evict_oldest();
        }
        while steps < steps_max
            && let Some(at_ms) = self.retired_keys.oldest_ms()
            && old(at_ms, self.limits.keys_age_ms)
        {
            steps += 1;
            self.retired_keys.evict_oldest();
        }
    }
}

/// Counts the changed tasks from the events. A task that expires may cancel its whole job; those tasks count too.
fn changed_tasks(events: &[Event]) -> u64 {
    events
        .iter()
        .filter(|event| matches!(event, Event::TaskChanged { .. }))
        .count() as u64
}
