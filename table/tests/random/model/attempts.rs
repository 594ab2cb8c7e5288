//! Model of attempts: how they begin and end.

use bytes::Bytes;
use triarch_table::command::reply::{Lease, ReportDecision};
use triarch_table::command::{Grant, ReportedOutcome, TaskReport, WorkerDemand};
use triarch_table::plan::Demand;
use triarch_table::types::state::TaskState;
use triarch_table::{Reply, TaskId, Token, WorkerId};

use super::Model;

/// What follows a failure, while attempts are left.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Retry {
    AfterBackoff,
    AfterMs(u64),
    Never,
}

impl Model {
    pub(super) fn grant(&mut self, grants: &[Grant]) -> Reply {
        let mut leases = Vec::new();
        for grant in grants {
            if self.may_run(grant) {
                let token = Token::at(self.index, self.made[3]).expect("few grants");
                self.made[3] += 1;
                let task = self.tasks.get_mut(&grant.task).expect("may run");
                task.attempt += 1;
                task.state = TaskState::Running;
                task.holder = Some((grant.worker, token));
                let queue = self.queues.get_mut(&task.new.queue).expect("of a task");
                self.virtual_time = queue.start(self.virtual_time, self.now_ms);
                leases.push(Lease {
                    task: task.id,
                    worker: grant.worker,
                    token,
                    attempt: task.attempt,
                });
            }
        }
        Reply::Granted { leases }
    }

    pub(super) fn grant_next(&mut self, asks: &[WorkerDemand]) -> Reply {
        let demand = |worker| {
            let own = || asks.iter().filter(|ask| ask.worker == worker);
            let wanted = own().fold(0_u32, |sum, ask| sum.saturating_add(ask.wanted));
            Demand {
                wanted,
                overloaded: own().any(|ask| ask.overloaded),
            }
        };
        let plan = self.propose(&demand, self.now_ms, usize::MAX);
        self.grant(&plan.grants)
    }

    pub(super) fn may_run(&self, grant: &Grant) -> bool {
        let (Some(task), Some(worker)) =
            (self.tasks.get(&grant.task), self.workers.get(&grant.worker))
        else {
            return false;
        };
        let held = self.held_by(worker.id);
        let used = |name: &String| -> u64 {
            held.iter()
                .filter_map(|task| self.tasks[task].new.requires.resources.get(name))
                .sum()
        };
        let requires = &task.new.requires;
        let queue = &self.queues[&task.new.queue];
        let key = task.new.concurrency.as_ref().map(|it| &it.key);
        task.state == TaskState::Queued
            && !queue.settings.paused
            && self.queue_room(&task.new.queue) > 0
            && queue.rate_lets(self.now_ms)
            && key.is_none_or(|key| self.key_room(key) > 0)
            && (held.len() as u64) < worker.usable_slots()
            && worker.is.queues.contains(&task.new.queue)
            && worker.is.kinds.contains(&task.new.kind)
            && requires
                .labels
                .iter()
                .all(|(name, value)| worker.is.labels.get(name) == Some(value))
            && requires.resources.iter().all(|(name, amount)| {
                used(name) + amount <= worker.is.resources.get(name).copied().unwrap_or(0)
            })
    }

    pub(super) fn report(&mut self, worker: WorkerId, report: &TaskReport) -> ReportDecision {
        let Some(task) = self.tasks.get_mut(&report.task) else {
            return ReportDecision::NotFound;
        };
        let (word, error) = match &report.outcome {
            ReportedOutcome::Succeeded { .. } => ("succeeded", None),
            ReportedOutcome::Failed { error, .. }
            | ReportedOutcome::FailedRetryAfter { error, .. } => ("failed", Some(error.clone())),
            ReportedOutcome::Returned => ("returned", None),
        };
        if task.holder == Some((worker, report.token)) {
            if let ReportedOutcome::Succeeded { result } = &report.outcome {
                task.result = Some(result.clone());
            }
            let retry = match report.outcome {
                ReportedOutcome::Failed {
                    retryable: false, ..
                } => Retry::Never,
                ReportedOutcome::FailedRetryAfter { retry_after_ms, .. } => {
                    Retry::AfterMs(retry_after_ms)
                }
                ReportedOutcome::Failed { .. }
                | ReportedOutcome::Succeeded { .. }
                | ReportedOutcome::Returned => Retry::AfterBackoff,
            };
            self.end(report.task, word, error, retry);
            return ReportDecision::Accepted;
        }
        let same = |ended: &&(Token, WorkerId, &str, Option<Bytes>)| {
            ended.0 == report.token && ended.1 == worker
        };
        match task.history.iter().find(same) {
            Some(ended) if ended.2 == word => ReportDecision::Accepted,
            Some(ended)
                if ["succeeded", "failed", "cancelled"].contains(&ended.2)
                    && task.state.is_terminal() =>
            {
                ReportDecision::AlreadyFinished
            }
            Some(_) | None => ReportDecision::StaleToken,
        }
    }

    /// Ends an attempt; `word` names the outcome.
    pub(super) fn end(
        &mut self,
        id: TaskId,
        word: &'static str,
        error: Option<Bytes>,
        retry: Retry,
    ) {
        let (worker, _) = self.tasks[&id].holder.expect("it runs");
        self.close_attempt(id, word, error.clone());
        self.end_attempt(id, word, error, retry);
        match word {
            "succeeded" => self.record_success(id, worker),
            "failed" | "timed_out" | "lease_expired" => self.record_failure(id, worker),
            _ => {}
        }
    }

    /// Moves a task whose attempt has ended to its next state.
    fn end_attempt(&mut self, id: TaskId, word: &str, error: Option<Bytes>, retry: Retry) {
        let now_ms = self.now_ms;
        let task = self.tasks.get_mut(&id).expect("it runs");
        match word {
            "succeeded" => self.put(id, TaskState::Succeeded),
            "returned" => task.state = TaskState::Queued,
            "lost" | "lease_expired" => {
                task.losses += 1;
                if task.losses >= task.new.max_losses {
                    task.error = Some(lost_text(task.losses));
                    self.put(id, TaskState::Failed);
                } else {
                    task.state = TaskState::Queued;
                }
            }
            "failed" | "timed_out" => {
                task.failures += 1;
                if retry == Retry::Never || task.failures >= task.new.max_attempts {
                    task.error = Some(error.unwrap_or_else(|| timeout_text(task.new.timeout_ms)));
                    self.put(id, TaskState::Failed);
                    return;
                }
                let backoff = &task.new.backoff;
                let mut wait_ms = backoff.initial_ms.min(backoff.max_ms);
                for _ in 1..task.failures {
                    wait_ms =
                        (wait_ms * u64::from(backoff.factor_milli) / 1_000).min(backoff.max_ms);
                }
                if let Retry::AfterMs(chosen_ms) = retry {
                    wait_ms = chosen_ms;
                }
                if wait_ms == 0 {
                    self.queue(id);
                } else {
                    task.state = TaskState::Delayed;
                    task.until_ms = now_ms + wait_ms;
                }
            }
            _ => panic!("{word}"),
        }
    }

    /// Releases a task from its worker, and records the attempt.
    pub(super) fn close_attempt(&mut self, id: TaskId, word: &'static str, error: Option<Bytes>) {
        let task = self.tasks.get_mut(&id).expect("it runs");
        let (worker, token) = task.holder.take().expect("it runs");
        task.history.push((token, worker, word, error));
        if task.history.len() > self.limits.attempts_kept_max as usize {
            task.history.remove(0);
        }
        if word != "returned" {
            task.expires_ms = None;
        }
    }

    pub(super) fn held_by(&self, worker: WorkerId) -> Vec<TaskId> {
        let held = self
            .tasks
            .values()
            .filter(|task| task.holder.is_some_and(|holder| holder.0 == worker));
        held.map(|task| task.id).collect()
    }
}

pub(super) fn timeout_text(timeout_ms: Option<u64>) -> Bytes {
    let limit = timeout_ms.map_or(String::new(), |timeout_ms| format!(" of {timeout_ms} ms"));
    let text = r#"{"type":"timeout","message":"the attempt outlived its time limit* and its worker did not report"}"#;
    Bytes::from(text.replace('*', &limit))
}

pub(super) fn lost_text(losses: u32) -> Bytes {
    let text = r#"{"type":"worker_lost","message":"* attempts were lost with their workers: the task may be what kills them"}"#;
    Bytes::from(text.replace('*', &losses.to_string()))
}
