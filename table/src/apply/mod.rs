//! Application of log entries: dispatches each command to its rule. The rule of every command is in a file of this
//! folder.

mod advance_time;
mod bulk;
mod cancel;
mod change_queue;
mod dependency_graph;
mod end_leases;
mod grant;
mod id_allocator;
mod pause_worker;
mod register_worker;
mod report;
mod restore_part;
mod retry_task;
mod schedule;
mod set_time_back;
mod stage_part;
mod submit_job;
mod worker_exit;

use id_allocator::IdAllocator;

use crate::command::Command;
use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Reply};
use crate::table::Table;
use crate::types::ids::Stamp;

impl Table {
    /// Applies one log entry: its commands in order, one reply for each. The changes are appended to `events`.
    ///
    /// # Panics
    ///
    /// Panics if the entry is not after the last one, because entries apply in order and once.
    pub fn apply(
        &mut self,
        stamp: Stamp,
        commands: Vec<Command>,
        events: &mut Vec<Event>,
    ) -> Vec<Reply> {
        assert!(
            stamp.index > self.last_index,
            "entry {} after entry {}",
            stamp.index,
            self.last_index
        );
        self.last_index = stamp.index;
        self.now_ms = self.now_ms.max(stamp.now_ms);
        #[cfg(feature = "mutations")]
        if mutated!(WallClockInApply) {
            self.now_ms = triarch_mutation::wall_clock_ms();
        }
        let mut ids = IdAllocator::at(self.id_index());
        let replies = commands.into_iter().map(|command| {
            self.apply_command(&mut ids, command, events)
                .unwrap_or_else(Reply::Refused)
        });
        replies.collect()
    }

    fn apply_command(
        &mut self,
        ids: &mut IdAllocator,
        command: Command,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        match command {
            Command::SubmitJob(submit) => self.submit_job(ids, submit, events),
            Command::CancelJob { job } => self.cancel_job(job, events),
            Command::CancelTask { task } => self.cancel_one(task, events),
            Command::RetryTask { task, request_id } => self.retry_task(task, request_id, events),
            Command::RegisterWorker(register) => self.register_worker(ids, register, events),
            Command::LeaveWorker { worker } => self.leave_worker(worker, events),
            Command::DrainWorker { worker } => self.drain_worker(worker, events),
            Command::LoseWorkers { workers } => Ok(self.lose_workers(&workers, events)),
            Command::Grant { grants } => Ok(self.grant(ids, &grants, events)),
            Command::EndLeases { leases } => Ok(self.end_leases(&leases, events)),
            Command::Report { worker, results } => Ok(self.report(worker, results, events)),
            Command::AdvanceTime => Ok(self.advance_time(events)),
            Command::ChangeQueue { queue, change } => self.change_queue(&queue, change, events),
            Command::PutSchedule(put) => self.put_schedule(ids, put, events),
            Command::DeleteSchedule { name } => self.delete_schedule(&name, events),
            Command::PauseSchedule { name } => self.pause_schedule(&name, events),
            Command::ResumeSchedule {
                name,
                generation,
                next_tick_ms,
            } => self.resume_schedule(&name, generation, next_tick_ms, events),
            Command::TriggerSchedule { name, request_id } => {
                self.trigger_schedule(ids, &name, request_id, events)
            }
            Command::TickSchedule(tick) => Ok(self.tick_schedule(ids, &tick, events)),
            Command::PauseWorker { worker } => self.pause_worker(worker, events),
            Command::ResumeWorker { worker } => self.resume_worker(worker, events),
            Command::CancelTasks {
                tasks,
                include_running,
            } => Ok(self.cancel_tasks(&tasks, include_running, events)),
            Command::RetryTasks { tasks } => Ok(self.retry_tasks(&tasks, events)),
            Command::StagePart(stage) => self.stage_part(ids, stage, events),
            Command::ForgetJobs { jobs } => Ok(self.forget_jobs(&jobs)),
            Command::RestorePart(part) => self.restore_part(ids, part, true, events),
            Command::RestorePartOfLevel2(part) => self.restore_part(ids, part, false, events),
            Command::GrantNext { demands } => Ok(self.grant_next(ids, &demands, events)),
            Command::SetTimeBack(set_back) => self.set_time_back(&set_back, events),
        }
    }
}
