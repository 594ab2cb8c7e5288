//! Cancellation of one task, or of the unfinished tasks of a job. If a cancellation and a result race, the first in the
//! log wins. Cancelling again has no effect.

use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::records::task::CancelCause;
use crate::table::Table;
use crate::types::ids::{JobId, TaskId};
use crate::types::state::TaskState;

impl Table {
    pub(super) fn cancel_one(&mut self, id: TaskId, events: &mut Vec<Event>) -> ApplyResult {
        let state = self.tasks.get(id).ok_or(Refusal::TaskNotFound(id))?.state();
        if state.is_terminal() && state != TaskState::Cancelled {
            return Err(Refusal::WrongState {
                task: id,
                state: state.as_str().to_owned(),
            });
        }
        Ok(Reply::Done {
            tasks: u64::from(self.cancel_task(id, CancelCause::Asked, events)),
        })
    }

    pub(super) fn cancel_job(&mut self, id: JobId, events: &mut Vec<Event>) -> ApplyResult {
        let job = self.jobs.get(id).ok_or(Refusal::JobNotFound(id))?;
        let state = job.state();
        // A finished job with cancelled tasks was cancelled before, so a repeated request succeeds.
        if state.is_terminal() && job.counts.of(TaskState::Cancelled) == 0 {
            return Err(Refusal::JobFinished {
                job: id,
                state: state.as_str().to_owned(),
            });
        }
        Ok(Reply::Done {
            tasks: self.cancel_unfinished(id, CancelCause::Asked, events),
        })
    }
}
