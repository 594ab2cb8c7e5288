//! Command `Report`: accepts or refuses the results of attempts that a worker reports, fenced by token. A result is
//! accepted if its token is that of the task's current lease and the reporting worker holds that lease. The late report
//! of a lost worker is refused, because another worker may run the task by then. A repeated report of an accepted
//! result is accepted again and changes nothing.

use crate::command::event::Event;
use crate::command::reply::{Reply, ReportDecision};
use crate::command::{ReportedOutcome, TaskReport};
use crate::records::task::{AttemptEnd, Task};
use crate::rules::attempt::{AttemptOutcome, Retry};
use crate::table::Table;
use crate::types::ids::WorkerId;

impl Table {
    pub(super) fn report(
        &mut self,
        worker: WorkerId,
        results: Vec<TaskReport>,
        events: &mut Vec<Event>,
    ) -> Reply {
        let decisions = results
            .into_iter()
            .map(|result| self.apply_report(worker, result, events));
        Reply::Reported {
            decisions: decisions.collect(),
        }
    }

    fn apply_report(
        &mut self,
        worker: WorkerId,
        result: TaskReport,
        events: &mut Vec<Event>,
    ) -> ReportDecision {
        let Some(task) = self.tasks.get(result.task) else {
            return ReportDecision::NotFound;
        };
        if task
            .lease()
            .is_some_and(|lease| lease.token == result.token && lease.worker == worker)
            || mutated!(StaleTokenAccepted) && task.lease().is_some()
        {
            let outcome = match result.outcome {
                ReportedOutcome::Succeeded { result } => AttemptOutcome::Succeeded { result },
                ReportedOutcome::Failed { error, retryable } => AttemptOutcome::Failed {
                    error,
                    retry: if retryable {
                        Retry::AfterBackoff
                    } else {
                        Retry::Never
                    },
                },
                ReportedOutcome::FailedRetryAfter {
                    error,
                    retry_after_ms,
                } => AttemptOutcome::Failed {
                    error,
                    retry: Retry::AfterMs(retry_after_ms),
                },
                ReportedOutcome::Returned => AttemptOutcome::Returned,
            };
            self.end_attempt(result.task, outcome, events);
            ReportDecision::Accepted
        } else {
            decision_on_ended_lease(task, worker, &result)
        }
    }
}

/// Returns the decision on a result whose lease has ended. It depends on the end of that lease in the task's history:
///
/// - A repeated report of the same outcome is accepted again.
/// - If the task is over by another outcome reported under this lease, or by a cancellation, the decision is
///   `AlreadyFinished`.
/// - In every other case the decision is `StaleToken`: the lease was lost, timed out or was returned, it belonged to
///   another worker, or the history no longer contains it.
fn decision_on_ended_lease(task: &Task, worker: WorkerId, result: &TaskReport) -> ReportDecision {
    let ended = task
        .history
        .iter()
        .rev()
        .find(|attempt| attempt.token == result.token && attempt.worker == worker);
    let Some(ended) = ended else {
        return ReportDecision::StaleToken;
    };
    if mutated!(RepeatedReportRefused) {
        return ReportDecision::StaleToken;
    }
    match (&ended.end, &result.outcome) {
        (AttemptEnd::Succeeded, ReportedOutcome::Succeeded { .. })
        | (
            AttemptEnd::Failed { .. },
            ReportedOutcome::Failed { .. } | ReportedOutcome::FailedRetryAfter { .. },
        )
        | (AttemptEnd::Returned, ReportedOutcome::Returned) => ReportDecision::Accepted,
        (
            AttemptEnd::Succeeded | AttemptEnd::Failed { .. } | AttemptEnd::Cancelled,
            ReportedOutcome::Succeeded { .. }
            | ReportedOutcome::Failed { .. }
            | ReportedOutcome::FailedRetryAfter { .. }
            | ReportedOutcome::Returned,
        ) if task.state().is_terminal() => ReportDecision::AlreadyFinished,
        (
            AttemptEnd::Succeeded
            | AttemptEnd::Failed { .. }
            | AttemptEnd::TimedOut
            | AttemptEnd::Lost
            | AttemptEnd::LeaseExpired
            | AttemptEnd::Returned
            | AttemptEnd::Cancelled,
            ReportedOutcome::Succeeded { .. }
            | ReportedOutcome::Failed { .. }
            | ReportedOutcome::FailedRetryAfter { .. }
            | ReportedOutcome::Returned,
        ) => ReportDecision::StaleToken,
    }
}
