//! Takes results. Each is judged by its token alone: it counts if the token is the task's current lease and the
//! reporter holds it. So a worker that was lost and comes back late is refused where its work went to another, and
//! a report that was accepted and is repeated is accepted again, with no effect.

use crate::command::event::Event;
use crate::command::reply::{Reply, Verdict};
use crate::command::{Outcome, TaskReport};
use crate::records::task::{AttemptEnd, Task};
use crate::rules::attempt::End;
use crate::table::Table;
use crate::types::ids::WorkerId;

impl Table {
    pub(super) fn report(
        &mut self,
        worker: WorkerId,
        results: Vec<TaskReport>,
        events: &mut Vec<Event>,
    ) -> Reply {
        let verdicts = results
            .into_iter()
            .map(|result| self.take_result(worker, result, events));
        Reply::Reported {
            verdicts: verdicts.collect(),
        }
    }

    fn take_result(
        &mut self,
        worker: WorkerId,
        result: TaskReport,
        events: &mut Vec<Event>,
    ) -> Verdict {
        let Some(task) = self.tasks.get(result.task) else {
            return Verdict::NotFound;
        };
        if task
            .lease()
            .is_some_and(|lease| lease.token == result.token && lease.worker == worker)
            || mutated!(StaleTokenAccepted) && task.lease().is_some()
        {
            let end = match result.outcome {
                Outcome::Succeeded { result } => End::Succeeded { result },
                Outcome::Failed { error, retryable } => End::Failed { error, retryable },
                Outcome::Returned => End::Returned,
            };
            self.end_attempt(result.task, end, events);
            Verdict::Accepted
        } else {
            judge_ended(task, worker, &result)
        }
    }
}

/// The verdict on a result whose lease has ended. What this very lease ended by decides: a report that was accepted
/// and is repeated is accepted again; a task that is over by that report, or by a cancel, is over; everything else
/// (lost, timed out, returned, another's lease, or one nobody remembers) is a lease that was not the reporter's.
fn judge_ended(task: &Task, worker: WorkerId, result: &TaskReport) -> Verdict {
    let ended = task
        .history
        .iter()
        .rev()
        .find(|attempt| attempt.token == result.token && attempt.worker == worker);
    let Some(ended) = ended else {
        return Verdict::StaleToken;
    };
    if mutated!(RepeatedReportRefused) {
        return Verdict::StaleToken;
    }
    match (&ended.end, &result.outcome) {
        (AttemptEnd::Succeeded, Outcome::Succeeded { .. })
        | (AttemptEnd::Failed { .. }, Outcome::Failed { .. })
        | (AttemptEnd::Returned, Outcome::Returned) => Verdict::Accepted,
        (
            AttemptEnd::Succeeded | AttemptEnd::Failed { .. } | AttemptEnd::Cancelled,
            Outcome::Succeeded { .. } | Outcome::Failed { .. } | Outcome::Returned,
        ) if task.state().is_terminal() => Verdict::AlreadyFinished,
        (
            AttemptEnd::Succeeded
            | AttemptEnd::Failed { .. }
            | AttemptEnd::TimedOut
            | AttemptEnd::Lost
            | AttemptEnd::LeaseExpired
            | AttemptEnd::Returned
            | AttemptEnd::Cancelled,
            Outcome::Succeeded { .. } | Outcome::Failed { .. } | Outcome::Returned,
        ) => Verdict::StaleToken,
    }
}
