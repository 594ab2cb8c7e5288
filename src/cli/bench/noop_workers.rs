//! No-op workers: they report each task as succeeded with their next poll, as fast as possible.
//!
//! Each is one connection with one request at a time. A poll is never held long enough for the leader to miss the
//! worker, so they need no heartbeats.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::value::RawValue;
use triarch_sdk::Error;
use triarch_sdk::wire::{
    LeasedTask, Poll, ProblemCode, Register, Registered, ReportStatus, ResultAcknowledgement,
    TaskResult,
};

use super::bench_run::BenchRun;
use super::recorder::PayloadHeader;
use crate::error::CommandError;

/// Maximum wait for an answer, in addition to the wait of a long poll.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Results to be reported, with the payload headers of their tasks.
#[derive(Debug, Default)]
struct PendingResults {
    results: Vec<TaskResult>,
    headers: Vec<Option<PayloadHeader>>,
}

impl BenchRun<'_> {
    /// Runs workers until the run ends.
    pub async fn run_workers(&self) -> Result<(), CommandError> {
        let workers =
            try_join_all((0..self.settings.workers).map(|nth| self.register(nth))).await?;
        try_join_all(workers.into_iter().map(|worker| self.run_worker(worker))).await?;
        Ok(())
    }

    async fn register(&self, nth: u32) -> Result<Registered, CommandError> {
        let register = Register {
            name: format!("{}-{nth}", self.settings.name),
            queues: vec![self.settings.queue.clone()],
            kinds: vec![self.settings.kind.clone()],
            slots: self.settings.slots,
            ..Register::default()
        };
        Ok(self.context.client.register(&register).await?)
    }

    async fn run_worker(&self, mut worker: Registered) -> Result<(), CommandError> {
        let client = &self.context.client;
        let mut pending = PendingResults::default();
        loop {
            let over = self.stop.is_cancelled();
            if over && pending.results.is_empty() {
                break;
            }
            let poll = Poll {
                max: if over { 0 } else { self.settings.slots },
                wait_ms: if over { 0 } else { worker.lease_ms / 3 },
                results: pending.results.clone(),
                running: Some(Vec::new()),
            };
            let polled = tokio::select! {
                polled = client.poll(&worker.id, &poll, ANSWER_TIMEOUT) => polled,
                () = self.stop.cancelled(), if !over && pending.results.is_empty() => continue,
            };
            let answer = match polled {
                Ok(answer) => answer,
                // The worker was silent for too long, whatever paused it. Its leases are granted to others.
                Err(Error::Api(problem)) if problem.is(ProblemCode::UnknownWorker) => {
                    self.recorder.refused("worker lost");
                    pending = PendingResults::default();
                    worker = self.register(rand::random()).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.record_acknowledgements(&pending, &answer.results);
            pending = self.run(answer.tasks);
        }
        match client.leave(&worker.id, ANSWER_TIMEOUT).await {
            Ok(_) => Ok(()),
            Err(Error::Api(problem)) if problem.is(ProblemCode::UnknownWorker) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Completes each task without doing anything.
    fn run(&self, tasks: Vec<LeasedTask>) -> PendingResults {
        let now_us = self.recorder.at_us(std::time::Instant::now());
        let mut pending = PendingResults::default();
        for task in tasks {
            pending
                .headers
                .push(PayloadHeader::read(task.payload.as_deref()));
            pending.results.push(TaskResult {
                task: task.id,
                token: task.token,
                status: ReportStatus::Succeeded,
                result: None::<Box<RawValue>>,
                error: None,
                retryable: None,
                retry_after_ms: None,
            });
        }
        let headers = pending.headers.iter().flatten();
        self.recorder
            .start
            .add_all(headers.map(|header| now_us.saturating_sub(header.due_us)));
        pending
    }

    /// Records the cluster's acknowledgements of results.
    fn record_acknowledgements(
        &self,
        pending: &PendingResults,
        acknowledgements: &[ResultAcknowledgement],
    ) {
        if pending.results.is_empty() {
            return;
        }
        if acknowledgements.len() != pending.results.len() {
            self.recorder.refused("a result without a verdict");
            return;
        }
        let mut accepted = Vec::with_capacity(pending.headers.len());
        for (header, acknowledgement) in pending.headers.iter().zip(acknowledgements) {
            match (header, acknowledgement.accepted) {
                (Some(header), true) => accepted.push(*header),
                (None, true) => self.recorder.refused("an unexpected payload"),
                (_, false) => self
                    .recorder
                    .refused(acknowledgement.code.as_deref().unwrap_or("refused")),
            }
        }
        self.recorder.accepted(&accepted);
    }
}
