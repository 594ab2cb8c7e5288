//! Cleanup after a run: cancels waiting tasks and forgets ended ones. The empty queue then disappears by itself.

use std::time::Duration;

use triarch_sdk::Error;
use triarch_sdk::wire::{
    Purge, ReadQuery, TaskSelection, TaskState, Worker, WorkerState, WorkersQuery,
};

use super::bench_run::BenchRun;
use super::mode::Mode;
use crate::error::CommandError;

/// Number of workers in one page.
const PAGE_SIZE: u32 = 1_000;
/// Maximum wait for one worker to leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Counts of a cleanup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// Number of tasks that had not ended.
    pub unfinished: u64,
    /// Number of jobs that were forgotten.
    pub jobs_forgotten: u64,
}

impl BenchRun<'_> {
    /// Cleans up. After a failed or interrupted run, its workers are deregistered too.
    pub async fn clean_up(&self, ended_well: bool) -> Result<CleanupReport, CommandError> {
        let client = &self.context.client;
        let queue = &self.settings.queue;
        if !ended_well {
            self.deregister_workers().await?;
        }
        if self.recorder.submitted_so_far() == 0 {
            return Ok(CleanupReport::default());
        }
        let list = client.queues(&ReadQuery::default()).await?;
        let found = list.queues.iter().find(|found| found.name == *queue);
        let unfinished = found.map_or(0, |found| {
            found.depth + found.delayed + found.waiting + found.running
        });
        if unfinished > 0 {
            client.purge_queue(queue, Purge::default()).await?;
            let running = self.selection(None);
            client.cancel_tasks(&running).await?;
        }
        let mut cleanup = CleanupReport {
            unfinished,
            jobs_forgotten: 0,
        };
        for state in [
            TaskState::Succeeded,
            TaskState::Failed,
            TaskState::Cancelled,
            TaskState::Expired,
        ] {
            let swept = client.forget_tasks(&self.selection(Some(state))).await?;
            cleanup.jobs_forgotten += swept.count;
        }
        Ok(cleanup)
    }

    async fn deregister_workers(&self) -> Result<(), CommandError> {
        let mut query = WorkersQuery {
            state: Some(WorkerState::Live),
            limit: Some(PAGE_SIZE),
            ..WorkersQuery::default()
        };
        loop {
            let page = self.context.client.workers(&query).await?;
            let ours = |worker: &&Worker| worker.name.starts_with(&self.settings.name);
            for worker in page.workers.iter().filter(ours) {
                match self.context.client.leave(&worker.id, LEAVE_TIMEOUT).await {
                    // The process of this worker is held to its secret. Its lease ends by itself.
                    Err(Error::Api(problem)) if problem.status == 403 => {}
                    left => drop(left?),
                }
            }
            query.after = page.next;
            if query.after.is_none() {
                return Ok(());
            }
        }
    }

    fn selection(&self, state: Option<TaskState>) -> TaskSelection {
        TaskSelection {
            queue: Some(self.settings.queue.clone()),
            state,
            ..TaskSelection::default()
        }
    }

    /// Returns the number of tasks that the mode leaves unfinished.
    pub fn expected_unfinished(&self, submitted: u64) -> u64 {
        match self.settings.mode {
            Mode::Submit => submitted,
            Mode::Lifecycle | Mode::Exec | Mode::RoundTrip | Mode::Idle | Mode::Mixed => 0,
        }
    }
}
