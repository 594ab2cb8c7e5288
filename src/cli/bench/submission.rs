//! Clients that submit, each with one submission at a time.

use futures_util::future::try_join_all;
use triarch_sdk::wire::{SubmitJob, Submitted, TaskSpec};

use super::arrivals::{Arrival, Arrivals};
use super::bench_run::BenchRun;
use super::recorder::PayloadHeader;
use crate::error::CommandError;

impl BenchRun<'_> {
    /// Runs all clients until there is nothing more to submit.
    pub async fn submit_all(&self) -> Result<(), CommandError> {
        let arrivals = Arrivals::new(&self.settings);
        let client = async || {
            while let Some(arrival) = arrivals.next().await {
                self.submit(arrival).await?;
            }
            Ok::<(), CommandError>(())
        };
        try_join_all((0..self.settings.clients).map(|_| client())).await?;
        Ok(())
    }

    /// Submits one job of no-op tasks.
    pub async fn submit(&self, arrival: Arrival) -> Result<Submitted, CommandError> {
        let due_us = self.recorder.at_us(arrival.due);
        let tasks = (arrival.first..arrival.first + arrival.count).map(|number| TaskSpec {
            payload: Some(PayloadHeader { number, due_us }.payload(self.settings.payload_bytes)),
            queue: Some(self.settings.queue.clone()),
            ..TaskSpec::new(self.settings.kind.clone())
        });
        self.submit_tasks(arrival, tasks).await
    }

    pub async fn submit_tasks(
        &self,
        arrival: Arrival,
        tasks: impl IntoIterator<Item = TaskSpec>,
    ) -> Result<Submitted, CommandError> {
        let submitted = self.context.client.submit(&SubmitJob::new(tasks)).await?;
        self.recorder.submitted(arrival.count, arrival.due);
        Ok(submitted)
    }

    /// Submits only; no worker runs the tasks.
    pub async fn submit_only(&self) -> Result<(), CommandError> {
        self.submit_all().await
    }
}
