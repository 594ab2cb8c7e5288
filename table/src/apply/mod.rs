//! Applies log entries: finds the rule for each command. The rules stand one to a file below.

mod advance_time;
mod bulk;
mod cancel;
mod change_queue;
mod dependency_graph;
mod end_leases;
mod grant;
mod pause_worker;
mod register_worker;
mod report;
mod restore_part;
mod retry_task;
mod schedule;
mod stage_part;
mod submit_job;
mod worker_exit;

use crate::command::Command;
use crate::command::event::Event;
use crate::command::reply::{Refusal, Reply};
use crate::table::Table;
use crate::types::ids::{Stamp, Token};

/// The entry being applied, and how many ids of each kind it has made so far: positions count over the whole entry.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As ids count: see [`Table::here`].
    index: u64,
    jobs: u64,
    tasks: u64,
    workers: u64,
    leases: u64,
}

impl Entry {
    fn at(index: u64) -> Self {
        Self {
            index,
            jobs: 0,
            tasks: 0,
            workers: 0,
            leases: 0,
        }
    }

    /// The table became another one within this entry: what comes after makes its ids there.
    fn begin_again_at(&mut self, index: u64) {
        *self = Self::at(index);
    }

    /// The token for the next lease; `None` if the entry has granted all that one entry may.
    fn next_token(&mut self) -> Option<Token> {
        let index = match mutated!(TokenCounterReset) {
            true => self.index % 64,
            false => self.index,
        };
        let token = Token::at(index, self.leases)?;
        self.leases += 1;
        Some(token)
    }
}

/// What a rule answers; a refusal has changed nothing.
type Ruling = Result<Reply, Refusal>;

impl Table {
    /// Applies one log entry: its commands in order, one reply for each. What happened is appended to `events`.
    ///
    /// Panics if the entry is not after the last one: entries apply in order and once.
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
        let mut entry = Entry::at(self.here());
        let replies = commands.into_iter().map(|command| {
            self.apply_command(&mut entry, command, events)
                .unwrap_or_else(Reply::Refused)
        });
        replies.collect()
    }

    fn apply_command(
        &mut self,
        entry: &mut Entry,
        command: Command,
        events: &mut Vec<Event>,
    ) -> Ruling {
        match command {
            Command::SubmitJob(submit) => self.submit_job(entry, submit, events),
            Command::CancelJob { job } => self.cancel_job(job, events),
            Command::CancelTask { task } => self.cancel_one(task, events),
            Command::RetryTask { task, request_id } => self.retry_task(task, request_id, events),
            Command::RegisterWorker(register) => self.register_worker(entry, register, events),
            Command::LeaveWorker { worker } => self.leave_worker(worker, events),
            Command::DrainWorker { worker } => self.drain_worker(worker, events),
            Command::LoseWorkers { workers } => Ok(self.lose_workers(&workers, events)),
            Command::Grant { grants } => Ok(self.grant(entry, &grants, events)),
            Command::EndLeases { leases } => Ok(self.end_leases(&leases, events)),
            Command::Report { worker, results } => Ok(self.report(worker, results, events)),
            Command::AdvanceTime => Ok(self.advance_time(events)),
            Command::ChangeQueue { queue, change } => self.change_queue(&queue, change, events),
            Command::PutSchedule(put) => self.put_schedule(entry, put, events),
            Command::DeleteSchedule { name } => self.delete_schedule(&name, events),
            Command::PauseSchedule { name } => self.pause_schedule(&name, events),
            Command::ResumeSchedule {
                name,
                generation,
                next_tick_ms,
            } => self.resume_schedule(&name, generation, next_tick_ms, events),
            Command::TriggerSchedule { name, request_id } => {
                self.trigger_schedule(entry, &name, request_id, events)
            }
            Command::TickSchedule(tick) => Ok(self.tick_schedule(entry, &tick, events)),
            Command::PauseWorker { worker } => self.pause_worker(worker, events),
            Command::ResumeWorker { worker } => self.resume_worker(worker, events),
            Command::CancelTasks { tasks, running_too } => {
                Ok(self.cancel_tasks(&tasks, running_too, events))
            }
            Command::RetryTasks { tasks } => Ok(self.retry_tasks(&tasks, events)),
            Command::StagePart(stage) => self.stage_part(entry, stage, events),
            Command::ForgetJobs { jobs } => Ok(self.forget_jobs(&jobs)),
            Command::RestorePart(part) => self.restore_part(entry, part, events),
            Command::GrantNext { asks } => Ok(self.grant_next(entry, &asks, events)),
        }
    }
}
