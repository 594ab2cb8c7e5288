//! Task transitions: the single path by which a task changes state.
//!
//! # Invariants
//!
//! - The secondary indexes, the counts of the job and the events stay in step with the task.

use crate::command::event::Event;
use crate::records::task::Task;
use crate::rules::dependency_effect::DependencyEffect;
use crate::table::Table;
use crate::types::ids::TaskId;

impl Table {
    /// Changes a task and propagates the effect on other tasks of the job. Every change of a task goes through here, so
    /// the indexes, its job and the events stay in step.
    pub(crate) fn change_task(
        &mut self,
        id: TaskId,
        events: &mut Vec<Event>,
        change: impl FnOnce(&mut Task),
    ) {
        if let Some(first) = self.change_task_only(id, events, change) {
            self.propagate(first, events);
        }
    }

    /// As [`Table::change_task`], but returns the effect on other tasks instead of propagating it.
    pub(crate) fn change_task_only(
        &mut self,
        id: TaskId,
        events: &mut Vec<Event>,
        change: impl FnOnce(&mut Task),
    ) -> Option<DependencyEffect> {
        let task = self.tasks.get_mut(id).expect("the caller found it");
        let (state_before, bytes_before) = (task.state(), task.bytes());
        let not_needed_before = task.is_not_needed();
        self.index.drop_task(task);
        change(task);
        self.index.add_task(task);
        let (state, bytes, job_id) = (task.state(), task.bytes(), task.job);
        let not_needed = task.is_not_needed();

        let job = self.jobs.get_mut(job_id).expect("a task's job is there");
        self.index.reopen_job(job);
        job.counts.remove(state_before);
        job.counts.add(state);
        job.bytes = job.bytes - bytes_before + bytes;
        job.not_needed = job.not_needed - u32::from(not_needed_before) + u32::from(not_needed);
        let was_finished = job.finished_ms.is_some();
        let is_finished = job.counts.unfinished() == 0;
        if was_finished != is_finished {
            job.finished_ms = is_finished.then_some(self.now_ms);
        }
        let (job_state, on_failure) = (job.state(), job.on_failure);
        self.index.finish_job(job);

        if state_before != state {
            events.push(Event::TaskChanged {
                task: id,
                job: job_id,
                to: state,
            });
        }
        if is_finished && !was_finished {
            events.push(Event::JobFinished {
                job: job_id,
                state: job_state,
            });
        }
        if is_finished {
            let is_awaited = self.index.jobs_waiting_for(job_id).next().is_some();
            return (!was_finished && is_awaited).then_some(DependencyEffect::JobEnded(job_id));
        }
        DependencyEffect::of(id, state_before, state, on_failure)
    }
}
