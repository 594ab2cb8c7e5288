//! Leaving nothing behind: what waits is cancelled, what has ended is forgotten, and then the queue goes by itself.

use std::time::Duration;

use triarch_sdk::wire::{
    Purge, ReadQuery, TaskSelection, TaskState, Worker, WorkerState, WorkersQuery,
};

use super::settings::Mode;
use super::{Bench, Failure};

/// Workers in one page.
const PAGE: u32 = 1_000;
/// How long one goodbye may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found when the run was cleaned up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Tasks that had not ended.
    pub unfinished: u64,
    /// Jobs that were forgotten.
    pub jobs_forgotten: u64,
}

impl Bench<'_> {
    /// After a run that did not come to its end, its workers are seen off, too.
    pub(super) async fn clean(&self, ended_well: bool) -> Result<Cleaned, Failure> {
        let client = &self.session.client;
        let queue = &self.settings.queue;
        if !ended_well {
            self.see_off_workers().await?;
        }
        if self.ledger.submitted_so_far() == 0 {
            return Ok(Cleaned::default());
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
        let mut cleaned = Cleaned {
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
            cleaned.jobs_forgotten += swept.count;
        }
        Ok(cleaned)
    }

    async fn see_off_workers(&self) -> Result<(), Failure> {
        let mut query = WorkersQuery {
            state: Some(WorkerState::Live),
            limit: Some(PAGE),
            ..WorkersQuery::default()
        };
        loop {
            let page = self.session.client.workers(&query).await?;
            let ours = |worker: &&Worker| worker.name.starts_with(&self.settings.name);
            for worker in page.workers.iter().filter(ours) {
                self.session.client.leave(&worker.id, PATIENCE).await?;
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

    /// How many tasks are meant to be unfinished at the end.
    pub(super) fn unfinished_wanted(&self, submitted: u64) -> u64 {
        match self.settings.mode {
            Mode::Submit => submitted,
            Mode::Whole | Mode::Exec | Mode::RoundTrip | Mode::Idle | Mode::Mixed => 0,
        }
    }
}
