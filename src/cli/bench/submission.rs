//! Clients that submit, each one submission at a time.

use futures_util::future::try_join_all;
use triarch_sdk::wire::{SubmitJob, Submitted, TaskSpec};

use super::arrivals::{Arrivals, Turn};
use super::ledger::Mark;
use super::{Bench, Failure};

impl Bench<'_> {
    /// Has all clients submit until there is nothing more to submit.
    pub(super) async fn submit_all(&self) -> Result<(), Failure> {
        let arrivals = Arrivals::new(&self.settings);
        let client = async || {
            while let Some(turn) = arrivals.next().await {
                self.submit(turn).await?;
            }
            Ok::<(), Failure>(())
        };
        try_join_all((0..self.settings.clients).map(|_| client())).await?;
        Ok(())
    }

    /// Submits one job of no-op tasks.
    pub(super) async fn submit(&self, turn: Turn) -> Result<Submitted, Failure> {
        let due_us = self.ledger.at_us(turn.due);
        let tasks = (turn.first..turn.first + turn.count).map(|number| TaskSpec {
            payload: Some(Mark { number, due_us }.payload(self.settings.payload_bytes)),
            queue: Some(self.settings.queue.clone()),
            ..TaskSpec::new(self.settings.kind.clone())
        });
        self.submit_tasks(turn, tasks).await
    }

    pub(super) async fn submit_tasks(
        &self,
        turn: Turn,
        tasks: impl IntoIterator<Item = TaskSpec>,
    ) -> Result<Submitted, Failure> {
        let submitted = self.session.client.submit(&SubmitJob::new(tasks)).await?;
        self.ledger.submitted(turn.count, turn.due);
        Ok(submitted)
    }

    /// Submissions alone.
    pub(super) async fn submit_only(&self) -> Result<(), Failure> {
        self.submit_all().await
    }
}
