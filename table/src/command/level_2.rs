//! Parts of commands that programs of level 1 do not understand. They are never proposed to a cluster of that level.

use crate::command::later_parts::conditions_of;
use crate::command::{Command, INTERVAL_PREFIX, ReportedOutcome};

impl Command {
    /// Returns the first part of the command that programs of level 1 do not understand, if it has one.
    pub fn part_of_level_2(&self) -> Option<String> {
        let condition = conditions_of(self.tasks()).into_iter().next();
        let condition = condition.map(|at| format!("tasks[{}].after[{}].when", at.task, at.after));
        match self {
            Command::Report { results, .. } => results
                .iter()
                .position(|result| {
                    matches!(result.outcome, ReportedOutcome::FailedRetryAfter { .. })
                })
                .map(|at| format!("results[{at}].retry_after_ms")),
            Command::PutSchedule(put) if !put.job.after_jobs.is_empty() => {
                Some("job.after_jobs".to_owned())
            }
            Command::PutSchedule(put) => match put.cron.starts_with(INTERVAL_PREFIX) {
                true => Some("every_ms".to_owned()),
                false => condition.map(|field| format!("job.{field}")),
            },
            Command::SubmitJob(submit) if !submit.after_jobs.is_empty() => {
                Some("after_jobs".to_owned())
            }
            Command::SubmitJob(_) | Command::StagePart(_) => condition,
            Command::SetTimeBack(_) => Some("the new time".to_owned()),
            Command::RestorePartOfLevel2(_) => Some("the backup".to_owned()),
            Command::CancelJob { .. }
            | Command::CancelTask { .. }
            | Command::RetryTask { .. }
            | Command::RegisterWorker(_)
            | Command::LeaveWorker { .. }
            | Command::DrainWorker { .. }
            | Command::LoseWorkers { .. }
            | Command::Grant { .. }
            | Command::EndLeases { .. }
            | Command::AdvanceTime
            | Command::ChangeQueue { .. }
            | Command::DeleteSchedule { .. }
            | Command::PauseSchedule { .. }
            | Command::ResumeSchedule { .. }
            | Command::TriggerSchedule { .. }
            | Command::TickSchedule(_)
            | Command::PauseWorker { .. }
            | Command::ResumeWorker { .. }
            | Command::CancelTasks { .. }
            | Command::RetryTasks { .. }
            | Command::ForgetJobs { .. }
            | Command::RestorePart(_)
            | Command::GrantNext { .. } => None,
        }
    }
}
