//! Processes: `true`, over and over, by the worker that `triarch worker` runs.

use std::time::Duration;

use futures_util::future::try_join_all;
use triarch_sdk::wire::{Register, Task, TaskSpec, TaskState, TasksQuery};
use triarch_sdk::{Executor, Shutdown, WorkerConfig};

use super::arrivals::Arrivals;
use super::{Bench, Failure};
use crate::worker::exec_executor;

/// Longest wait for one job.
const PATIENCE: Duration = Duration::from_secs(600);
/// Tasks in one page.
const PAGE: u32 = 1_000;

impl Bench<'_> {
    pub(super) async fn exec(&self) -> Result<(), Failure> {
        let shutdown = Shutdown::new();
        let workers = async {
            let workers = (0..self.settings.workers)
                .map(|nth| Ok(self.real_worker(nth, exec_executor()?, shutdown.clone())));
            let workers = workers.collect::<Result<Vec<_>, Failure>>()?;
            try_join_all(workers).await?;
            Ok(())
        };
        let submitting = async {
            self.submit_and_wait().await?;
            shutdown.finish();
            Ok::<(), Failure>(())
        };
        tokio::try_join!(submitting, workers)?;
        self.book_from_the_table().await
    }

    /// Runs one worker of the kind that programs are made of.
    pub(super) async fn real_worker<E: Executor>(
        &self,
        nth: u32,
        executor: E,
        shutdown: Shutdown,
    ) -> Result<(), Failure> {
        let config = WorkerConfig::new(Register {
            name: format!("{}-{nth}", self.settings.name),
            queues: vec![self.settings.queue.clone()],
            kinds: vec![self.settings.kind.clone()],
            slots: self.settings.slots,
            ..Register::default()
        });
        let client = self.session.client.clone();
        triarch_sdk::worker::run(client, config, executor, shutdown)
            .await
            .map_err(|error| Failure::Failed(error.to_string()))
    }

    async fn submit_and_wait(&self) -> Result<(), Failure> {
        let arrivals = Arrivals::new(&self.settings);
        let client = async || {
            let mut jobs = Vec::new();
            while let Some(turn) = arrivals.next().await {
                let task = || TaskSpec {
                    max_attempts: Some(1),
                    ..TaskSpec::exec(["true"]).in_queue(&self.settings.queue)
                };
                let submitted = self
                    .submit_tasks(turn, (0..turn.count).map(|_| task()))
                    .await?;
                jobs.push(submitted.id);
            }
            for job in &jobs {
                let job = self.session.client.wait_job(job, Some(PATIENCE)).await?;
                if !job.state.is_terminal() {
                    return Err(Failure::Failed(format!(
                        "job {} has not finished within {} s",
                        job.id,
                        PATIENCE.as_secs()
                    )));
                }
            }
            Ok(())
        };
        try_join_all((0..self.settings.clients).map(|_| client())).await?;
        self.ledger.all_ended();
        Ok(())
    }

    /// Reads from the cluster what became of every task, where no worker of this run has told.
    pub(super) async fn book_from_the_table(&self) -> Result<(), Failure> {
        let mut query = TasksQuery {
            queue: Some(self.settings.queue.clone()),
            limit: Some(PAGE),
            ..TasksQuery::default()
        };
        let mut number = 0;
        loop {
            let page = self.session.client.tasks(&query).await?;
            for task in &page.tasks {
                self.book_task(number, task);
                number += 1;
            }
            query.after = page.next;
            if query.after.is_none() {
                return Ok(());
            }
        }
    }

    fn book_task(&self, number: u64, task: &Task) {
        let took_us = |until: Option<triarch_sdk::wire::Timestamp>| {
            let since = task.created_at.unix_ms();
            until.map(|until| until.unix_ms().saturating_sub(since) * 1_000)
        };
        self.ledger.start.add_all(took_us(task.started_at));
        match task.state {
            TaskState::Succeeded => {
                let life_us = took_us(task.finished_at).unwrap_or_default();
                self.ledger.found(number, life_us);
            }
            TaskState::Waiting
            | TaskState::Delayed
            | TaskState::Queued
            | TaskState::Running
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Expired => self.ledger.refused(task.state.as_str()),
        }
    }
}
