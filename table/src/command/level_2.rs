//! Parts of commands that programs of level 1 do not understand. They are never proposed to a cluster of that level.

use crate::command::{Command, INTERVAL_PREFIX, ReportedOutcome};

impl Command {
    /// Returns the first part of the command that programs of level 1 do not understand, if it has one.
    pub fn part_of_level_2(&self) -> Option<String> {
        match self {
            Command::Report { results, .. } => results
                .iter()
                .position(|result| {
                    matches!(result.outcome, ReportedOutcome::FailedRetryAfter { .. })
                })
                .map(|at| format!("results[{at}].retry_after_ms")),
            Command::PutSchedule(put) => put
                .cron
                .starts_with(INTERVAL_PREFIX)
                .then(|| "every_ms".to_owned()),
            Command::SetTimeBack(_) => Some("the new time".to_owned()),
            Command::SubmitJob(_)
            | Command::CancelJob { .. }
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
            | Command::StagePart(_)
            | Command::ForgetJobs { .. }
            | Command::RestorePart(_)
            | Command::GrantNext { .. } => None,
        }
    }
}
