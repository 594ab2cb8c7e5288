//! Workers that do nothing, as fast as it goes: what they are given they report as done with their next poll.
//!
//! Each is one connection with one request at a time. A poll is never held for so long that the leader would miss the
//! worker, so they need no heartbeats.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::value::RawValue;
use triarch_sdk::Error;
use triarch_sdk::wire::{
    LeasedTask, Poll, ProblemCode, Register, Registered, ReportStatus, TaskResult, Verdict,
};

use super::ledger::Mark;
use super::{Bench, Failure};

/// How long a poll or a goodbye may take beyond what it is held for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Results on their way, and what they are of.
#[derive(Debug, Default)]
struct Done {
    results: Vec<TaskResult>,
    marks: Vec<Option<Mark>>,
}

impl Bench<'_> {
    /// Has workers work until the run ends.
    pub(super) async fn work(&self) -> Result<(), Failure> {
        let workers =
            try_join_all((0..self.settings.workers).map(|nth| self.register(nth))).await?;
        try_join_all(workers.into_iter().map(|worker| self.work_as(worker))).await?;
        Ok(())
    }

    async fn register(&self, nth: u32) -> Result<Registered, Failure> {
        let register = Register {
            name: format!("{}-{nth}", self.settings.name),
            queues: vec![self.settings.queue.clone()],
            kinds: vec![self.settings.kind.clone()],
            slots: self.settings.slots,
            ..Register::default()
        };
        Ok(self.session.client.register(&register).await?)
    }

    async fn work_as(&self, mut worker: Registered) -> Result<(), Failure> {
        let client = &self.session.client;
        let mut done = Done::default();
        loop {
            let over = self.stop.is_cancelled();
            if over && done.results.is_empty() {
                break;
            }
            let poll = Poll {
                max: if over { 0 } else { self.settings.slots },
                wait_ms: if over { 0 } else { worker.lease_ms / 3 },
                results: done.results.clone(),
                running: Some(Vec::new()),
            };
            let polled = tokio::select! {
                polled = client.poll(&worker.id, &poll, PATIENCE) => polled,
                () = self.stop.cancelled(), if !over && done.results.is_empty() => continue,
            };
            let answer = match polled {
                Ok(answer) => answer,
                // It was silent for too long, by whatever pause: what it held is given to others.
                Err(Error::Api(problem)) if problem.is(ProblemCode::UnknownWorker) => {
                    self.ledger.refused("worker lost");
                    done = Done::default();
                    worker = self.register(rand::random()).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.book(&done, &answer.results);
            done = self.run(answer.tasks);
        }
        match client.leave(&worker.id, PATIENCE).await {
            Ok(_) => Ok(()),
            Err(Error::Api(problem)) if problem.is(ProblemCode::UnknownWorker) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Does nothing, once for each task.
    fn run(&self, tasks: Vec<LeasedTask>) -> Done {
        let now_us = self.ledger.at_us(std::time::Instant::now());
        let mut done = Done::default();
        for task in tasks {
            done.marks.push(Mark::read(task.payload.as_deref()));
            done.results.push(TaskResult {
                task: task.id,
                token: task.token,
                status: ReportStatus::Succeeded,
                result: None::<Box<RawValue>>,
                error: None,
                retryable: None,
            });
        }
        let marks = done.marks.iter().flatten();
        self.ledger
            .start
            .add_all(marks.map(|mark| now_us.saturating_sub(mark.due_us)));
        done
    }

    /// Notes what the cluster said of results.
    fn book(&self, done: &Done, verdicts: &[Verdict]) {
        if done.results.is_empty() {
            return;
        }
        if verdicts.len() != done.results.len() {
            self.ledger.refused("a result without a verdict");
            return;
        }
        let mut accepted = Vec::with_capacity(done.marks.len());
        for (mark, verdict) in done.marks.iter().zip(verdicts) {
            match (mark, verdict.accepted) {
                (Some(mark), true) => accepted.push(*mark),
                (None, true) => self.ledger.refused("a payload that is not ours"),
                (_, false) => self
                    .ledger
                    .refused(verdict.code.as_deref().unwrap_or("refused")),
            }
        }
        self.ledger.accepted(&accepted);
    }
}
