//! Mode `exec`: runs the command `true` with the worker that `triarch worker` runs.

use std::time::Duration;

use futures_util::future::try_join_all;
use triarch_sdk::wire::{Register, Task, TaskSpec, TaskState, TasksQuery};
use triarch_sdk::{Executor, Shutdown, WorkerConfig};
use triarch_worker::exec_executor;

use super::arrivals::Arrivals;
use super::bench_run::BenchRun;
use crate::error::CommandError;

/// Maximum wait for one job.
const JOB_TIMEOUT: Duration = Duration::from_secs(600);
/// Number of tasks in one page.
const PAGE_SIZE: u32 = 1_000;

impl BenchRun<'_> {
    pub async fn exec(&self) -> Result<(), CommandError> {
        let shutdown = Shutdown::new();
        let workers = async {
            let workers = (0..self.settings.workers)
                .map(|nth| Ok(self.sdk_worker(nth, exec_executor()?, shutdown.clone())));
            let workers = workers.collect::<Result<Vec<_>, CommandError>>()?;
            try_join_all(workers).await?;
            Ok(())
        };
        let submitting = async {
            self.submit_and_wait().await?;
            shutdown.finish();
            Ok::<(), CommandError>(())
        };
        tokio::try_join!(submitting, workers)?;
        self.record_from_table().await
    }

    /// Runs one worker on the SDK's worker runtime.
    pub async fn sdk_worker<E: Executor>(
        &self,
        nth: u32,
        executor: E,
        shutdown: Shutdown,
    ) -> Result<(), CommandError> {
        let config = WorkerConfig::new(Register {
            name: format!("{}-{nth}", self.settings.name),
            queues: vec![self.settings.queue.clone()],
            kinds: vec![self.settings.kind.clone()],
            slots: self.settings.slots,
            ..Register::default()
        });
        let client = self.context.client.clone();
        triarch_sdk::worker::run(client, config, executor, shutdown)
            .await
            .map_err(|error| CommandError::Failed(error.to_string()))
    }

    async fn submit_and_wait(&self) -> Result<(), CommandError> {
        let arrivals = Arrivals::new(&self.settings);
        let client = async || {
            let mut jobs = Vec::new();
            while let Some(arrival) = arrivals.next().await {
                let task = || TaskSpec {
                    max_attempts: Some(1),
                    ..TaskSpec::exec(["true"]).in_queue(&self.settings.queue)
                };
                let submitted = self
                    .submit_tasks(arrival, (0..arrival.count).map(|_| task()))
                    .await?;
                jobs.push(submitted.id);
            }
            for job in &jobs {
                let job = self.context.client.wait_job(job, Some(JOB_TIMEOUT)).await?;
                if !job.state.is_terminal() {
                    return Err(CommandError::Failed(format!(
                        "job {} has not finished within {} s",
                        job.id,
                        JOB_TIMEOUT.as_secs()
                    )));
                }
            }
            Ok(())
        };
        try_join_all((0..self.settings.clients).map(|_| client())).await?;
        self.recorder.all_ended();
        Ok(())
    }

    /// Records the end of every task from the cluster, for modes whose workers do not record it.
    pub async fn record_from_table(&self) -> Result<(), CommandError> {
        let mut query = TasksQuery {
            queue: Some(self.settings.queue.clone()),
            limit: Some(PAGE_SIZE),
            ..TasksQuery::default()
        };
        let mut number = 0;
        loop {
            let page = self.context.client.tasks(&query).await?;
            for task in &page.tasks {
                self.record_task(number, task);
                number += 1;
            }
            query.after = page.next;
            if query.after.is_none() {
                return Ok(());
            }
        }
    }

    fn record_task(&self, number: u64, task: &Task) {
        let took_us = |until: Option<triarch_sdk::wire::Timestamp>| {
            let since = task.created_at.unix_ms();
            until.map(|until| until.unix_ms().saturating_sub(since) * 1_000)
        };
        self.recorder.start.add_all(took_us(task.started_at));
        match task.state {
            TaskState::Succeeded => {
                let life_us = took_us(task.finished_at).unwrap_or_default();
                self.recorder.found(number, life_us);
            }
            TaskState::Waiting
            | TaskState::Delayed
            | TaskState::Queued
            | TaskState::Running
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Expired => self.recorder.refused(task.state.as_str()),
        }
    }
}
