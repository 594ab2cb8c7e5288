//! Bulk operations on tasks or jobs that the leader found by a filter. Each is checked separately. Tasks and jobs to
//! which the operation no longer applies are skipped.

use crate::command::event::Event;
use crate::command::reply::Reply;
use crate::records::task::CancelCause;
use crate::table::Table;
use crate::types::ids::{JobId, TaskId};
use crate::types::state::TaskState;

impl Table {
    /// Cancels the unfinished tasks; running ones only if `include_running`.
    pub(super) fn cancel_tasks(
        &mut self,
        tasks: &[TaskId],
        include_running: bool,
        events: &mut Vec<Event>,
    ) -> Reply {
        let mut cancelled = 0;
        for &task in tasks {
            let state = self.tasks.get(task).map(|task| task.state());
            if include_running || state != Some(TaskState::Running) {
                cancelled += u64::from(self.cancel_task(task, CancelCause::Asked, events));
            }
        }
        Reply::Done { tasks: cancelled }
    }

    /// Retries the terminal tasks that can be retried.
    pub(super) fn retry_tasks(&mut self, tasks: &[TaskId], events: &mut Vec<Event>) -> Reply {
        let mut retried = 0;
        for &task in tasks {
            let state = self.tasks.get(task).map(|task| task.state());
            if state.is_some_and(TaskState::is_terminal) {
                retried += u64::from(self.retry_terminal_task(task, events).is_ok());
            }
        }
        Reply::Done { tasks: retried }
    }

    /// Forgets the finished jobs.
    pub(super) fn forget_jobs(&mut self, jobs: &[JobId]) -> Reply {
        let mut forgotten = 0;
        for &id in jobs {
            if self
                .jobs
                .get(id)
                .is_some_and(|job| job.finished_ms.is_some())
            {
                self.forget_job(id);
                forgotten += 1;
            }
        }
        Reply::Done { tasks: forgotten }
    }
}
