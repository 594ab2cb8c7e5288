//! Takes results. Each is judged by its token alone: it counts if the token is the task's current lease and the
//! reporter holds it. So a worker that was lost and comes back late is refused where its work went to another, and
//! a report that was accepted and is repeated is accepted again, with no effect.

use crate::command::{Outcome, Reply, TaskReport, Verdict};
use crate::event::Event;
use crate::ids::WorkerId;
use crate::lease::End;
use crate::table::Table;
use crate::task::{AttemptEnd, Task};

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
        {
            let end = match result.outcome {
                Outcome::Succeeded { result } => End::Succeeded { result },
                Outcome::Failed { error, retryable } => End::Failed { error, retryable },
                Outcome::Returned => End::Returned,
            };
            self.end_attempt(result.task, end, events);
            Verdict::Accepted
        } else if was_accepted(task, worker, &result) {
            Verdict::Accepted
        } else if task.state().is_terminal() {
            Verdict::AlreadyFinished
        } else {
            Verdict::StaleToken
        }
    }
}

/// Whether this worker reported the same kind of outcome under the same lease before.
fn was_accepted(task: &Task, worker: WorkerId, result: &TaskReport) -> bool {
    let ended = task
        .history
        .iter()
        .rev()
        .find(|attempt| attempt.token == result.token);
    ended.is_some_and(|attempt| {
        attempt.worker == worker
            && match (&attempt.end, &result.outcome) {
                (AttemptEnd::Succeeded, Outcome::Succeeded { .. })
                | (AttemptEnd::Failed { .. }, Outcome::Failed { .. })
                | (AttemptEnd::Returned, Outcome::Returned) => true,
                (
                    AttemptEnd::Succeeded
                    | AttemptEnd::Failed { .. }
                    | AttemptEnd::TimedOut
                    | AttemptEnd::Lost
                    | AttemptEnd::LeaseExpired
                    | AttemptEnd::Returned
                    | AttemptEnd::Cancelled,
                    Outcome::Succeeded { .. } | Outcome::Failed { .. } | Outcome::Returned,
                ) => false,
            }
    })
}
