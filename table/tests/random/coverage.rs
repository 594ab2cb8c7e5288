//! Coverage of a run: counts of the cases it met. A run that has not met all required cases has not tested them.

use std::collections::BTreeMap;

use triarch_table::command::reply::{Refusal, ReportDecision};
use triarch_table::types::state::{TaskState, WorkerState};
use triarch_table::{Command, Event, Reply, Table, Task};

/// The number of times that each case was met.
#[derive(Default)]
pub struct Coverage(BTreeMap<String, u64>);

/// Names of all commands except `RestorePart`, which `restore_elsewhere` covers.
const COMMANDS: [&str; 27] = [
    "SubmitJob",
    "CancelJob",
    "CancelTask",
    "RetryTask",
    "RegisterWorker",
    "LeaveWorker",
    "DrainWorker",
    "LoseWorkers",
    "Grant",
    "GrantNext",
    "EndLeases",
    "Report",
    "AdvanceTime",
    "ChangeQueue",
    "PutSchedule",
    "DeleteSchedule",
    "PauseSchedule",
    "ResumeSchedule",
    "TriggerSchedule",
    "TickSchedule",
    "PauseWorker",
    "ResumeWorker",
    "CancelTasks",
    "RetryTasks",
    "ForgetJobs",
    "StagePart",
    "SetTimeBack",
];

fn name(command: &Command) -> &'static str {
    match command {
        Command::SubmitJob(_) => "SubmitJob",
        Command::CancelJob { .. } => "CancelJob",
        Command::CancelTask { .. } => "CancelTask",
        Command::RetryTask { .. } => "RetryTask",
        Command::RegisterWorker(_) => "RegisterWorker",
        Command::LeaveWorker { .. } => "LeaveWorker",
        Command::DrainWorker { .. } => "DrainWorker",
        Command::LoseWorkers { .. } => "LoseWorkers",
        Command::Grant { .. } => "Grant",
        Command::GrantNext { .. } => "GrantNext",
        Command::EndLeases { .. } => "EndLeases",
        Command::Report { .. } => "Report",
        Command::AdvanceTime => "AdvanceTime",
        Command::ChangeQueue { .. } => "ChangeQueue",
        Command::PutSchedule(_) => "PutSchedule",
        Command::DeleteSchedule { .. } => "DeleteSchedule",
        Command::PauseSchedule { .. } => "PauseSchedule",
        Command::ResumeSchedule { .. } => "ResumeSchedule",
        Command::TriggerSchedule { .. } => "TriggerSchedule",
        Command::TickSchedule(_) => "TickSchedule",
        Command::PauseWorker { .. } => "PauseWorker",
        Command::ResumeWorker { .. } => "ResumeWorker",
        Command::CancelTasks { .. } => "CancelTasks",
        Command::RetryTasks { .. } => "RetryTasks",
        Command::ForgetJobs { .. } => "ForgetJobs",
        Command::StagePart(_) => "StagePart",
        Command::RestorePart(_) | Command::RestorePartOfLevel2(_) => "RestorePart",
        Command::SetTimeBack(_) => "SetTimeBack",
    }
}

/// Returns whether a command is never refused as a whole. Such a command skips the parts that do not hold, which may be
/// all.
fn takes_what_holds(command: &Command) -> bool {
    match command {
        Command::LoseWorkers { .. }
        | Command::Grant { .. }
        | Command::GrantNext { .. }
        | Command::EndLeases { .. }
        | Command::Report { .. }
        | Command::AdvanceTime
        | Command::TickSchedule(_)
        | Command::CancelTasks { .. }
        | Command::RetryTasks { .. }
        | Command::ForgetJobs { .. } => true,
        Command::SubmitJob(_)
        | Command::CancelJob { .. }
        | Command::CancelTask { .. }
        | Command::RetryTask { .. }
        | Command::RegisterWorker(_)
        | Command::LeaveWorker { .. }
        | Command::DrainWorker { .. }
        | Command::ChangeQueue { .. }
        | Command::PutSchedule(_)
        | Command::DeleteSchedule { .. }
        | Command::PauseSchedule { .. }
        | Command::ResumeSchedule { .. }
        | Command::TriggerSchedule { .. }
        | Command::PauseWorker { .. }
        | Command::ResumeWorker { .. }
        | Command::StagePart(_)
        | Command::RestorePart(_)
        | Command::RestorePartOfLevel2(_)
        | Command::SetTimeBack(_) => false,
    }
}

/// All other cases that a run must meet.
const OTHERS: [&str; 47] = [
    "attempt cancelled",
    "attempt failed",
    "attempt lease_expired",
    "attempt lost",
    "attempt returned",
    "attempt succeeded",
    "attempt timed_out",
    "duplicate submission",
    "forgotten job",
    "forgotten worker",
    "refusal DependencyEnded",
    "refusal HandlerUnfinished",
    "refusal Invalid",
    "refusal JobFinished",
    "refusal JobNotFound",
    "refusal KeyConflict",
    "refusal NotNeeded",
    "part of a job that is not whole",
    "refusal NotAhead",
    "refusal PartConflict",
    "refusal QueueFull",
    "refusal ResultPromised",
    "refusal ScheduleNotFound",
    "refusal ScheduleReplaced",
    "refusal TableFull bytes of jobs of which parts are missing",
    "refusal TableFull bytes of payloads and results",
    "refusal TableFull bytes of the jobs of schedules",
    "refusal TableFull jobs of which parts are missing",
    "refusal TableFull different combinations",
    "refusal TableFull queues",
    "refusal TableFull schedules",
    "refusal TableFull tasks",
    "refusal TableFull workers",
    "refusal TaskNotFound",
    "refusal UniqueKeyTaken",
    "refusal UnknownWorker",
    "refusal WorkerDraining",
    "refusal WorkerNameTaken",
    "refusal WrongState",
    "replica read from a snapshot",
    "task that is not needed",
    "tick that made a job",
    "tick that made none",
    "verdict accepted",
    "verdict already_finished",
    "verdict not_found",
    "verdict stale_token",
];

impl Coverage {
    pub fn met(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    pub fn command(&mut self, command: &Command, reply: &Reply) {
        let name = name(command);
        let outcome = match reply {
            Reply::Refused(_) => "refused",
            Reply::Done { tasks: 0 } if takes_what_holds(command) => "without effect",
            Reply::Granted { leases } if leases.is_empty() => "without effect",
            Reply::Reported { decisions } if !decisions.contains(&ReportDecision::Accepted) => {
                "without effect"
            }
            Reply::Submitted { .. }
            | Reply::Registered { .. }
            | Reply::Granted { .. }
            | Reply::Reported { .. }
            | Reply::Done { .. }
            | Reply::SchedulePut { .. }
            | Reply::Restoring { .. }
            | Reply::Restored { .. }
            | Reply::Staged { .. } => "accepted",
        };
        self.met(format!("command {name} {outcome}"));
        match reply {
            Reply::Submitted {
                duplicate: true, ..
            } => self.met("duplicate submission"),
            Reply::Reported { decisions } => {
                for decision in decisions {
                    self.met(match decision {
                        ReportDecision::Accepted => "verdict accepted",
                        ReportDecision::StaleToken => "verdict stale_token",
                        ReportDecision::AlreadyFinished => "verdict already_finished",
                        ReportDecision::NotFound => "verdict not_found",
                    });
                }
            }
            Reply::Refused(Refusal::TableFull { what, .. }) => {
                let what = what.split(" of kind").next().unwrap_or(what);
                self.met(format!("refusal TableFull {what}"));
            }
            Reply::Refused(refusal) => {
                let text = format!("{refusal:?}");
                let name = text.split(|c: char| !c.is_alphanumeric()).next();
                self.met(format!("refusal {}", name.unwrap_or_default()));
            }
            Reply::Submitted { .. }
            | Reply::Registered { .. }
            | Reply::Granted { .. }
            | Reply::Done { .. }
            | Reply::SchedulePut { .. }
            | Reply::Restoring { .. }
            | Reply::Restored { .. } => {}
            Reply::Staged { .. } => self.met("part of a job that is not whole"),
        }
    }

    pub fn event(&mut self, event: &Event, table: &Table) {
        match event {
            Event::TaskChanged { task, to, .. } => {
                self.met(format!("task {}", to.as_str()));
                if table.task(*task).is_some_and(Task::is_not_needed) {
                    self.met("task that is not needed");
                }
            }
            Event::LeaseEnded { task, token, .. } => {
                let history = table.task(*task).map(|task| &task.history);
                let mut history = history.into_iter().flatten();
                if let Some(ended) = history.find(|attempt| attempt.token == *token) {
                    self.met(format!("attempt {}", ended.end.as_str()));
                }
            }
            Event::ScheduleTicked { job, .. } => self.met(match job {
                Some(_) => "tick that made a job",
                None => "tick that made none",
            }),
            Event::WorkerRegistered { .. } => self.worker(WorkerState::Live),
            Event::WorkerDraining { .. } => self.worker(WorkerState::Draining),
            Event::WorkerChanged { to, .. } => self.worker(*to),
            Event::WorkerGone { lost: true, .. } => self.worker(WorkerState::Lost),
            Event::WorkerGone { lost: false, .. } => self.worker(WorkerState::Left),
            Event::JobSubmitted { .. }
            | Event::LeaseGranted { .. }
            | Event::JobFinished { .. }
            | Event::QueueChanged { .. }
            | Event::ScheduleChanged { .. }
            | Event::Restored
            | Event::TimeSetBack { .. } => {}
        }
    }

    fn worker(&mut self, state: WorkerState) {
        self.met(format!("worker {}", state.as_str()));
    }

    /// Returns every case that was met or is required, with its count.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let accepted = COMMANDS.map(|name| format!("command {name} accepted"));
        let tasks = TaskState::ALL.map(|state| format!("task {}", state.as_str()));
        let workers = WorkerState::ALL.map(|state| format!("worker {}", state.as_str()));
        let all = accepted.into_iter().chain(tasks).chain(workers);
        let all = all.chain(OTHERS.map(str::to_owned));
        let mut counts: BTreeMap<String, u64> = all.map(|what| (what, 0)).collect();
        counts.extend(self.0.clone());
        counts
    }

    pub fn add(&mut self, other: &Coverage) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }
}
