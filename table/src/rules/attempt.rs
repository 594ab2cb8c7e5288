//! Attempt lifecycle: the start and the end of a lease.
//!
//! # Invariants
//!
//! - A task is leased exactly while it is `Running`.
//! - No other code in the crate begins or ends a lease.

use bytes::Bytes;

use crate::command::event::Event;
use crate::command::reply::Lease;
use crate::records::task::{Attempt, AttemptEnd, CancelCause, Life};
use crate::rules::backoff::backoff_ms;
use crate::rules::dependency_effect::DependencyEffect;
use crate::table::Table;
use crate::types::ids::{TaskId, Token, WorkerId};

/// Effects of the end of an attempt.
#[derive(Debug)]
pub(crate) struct EndedAttempt {
    /// The worker that made it.
    pub worker: WorkerId,
    /// Whether it counts for or against the worker, if it does.
    pub worker_succeeded: Option<bool>,
    /// The effect on other tasks.
    pub effect: Option<DependencyEffect>,
}

/// What follows a failure, while attempts are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Another attempt, after the back-off.
    AfterBackoff,
    /// Another attempt, after a delay that the task chose.
    AfterMs(u64),
    /// No other attempt.
    Never,
}

/// Outcome with which an attempt ends.
#[derive(Debug)]
pub(crate) enum AttemptOutcome {
    Succeeded { result: Bytes },
    Failed { error: Bytes, retry: Retry },
    TimedOut,
    Lost,
    LeaseExpired,
    Returned,
    Cancelled { cause: CancelCause },
}

impl Table {
    /// Leases a queued task. The caller has checked that the worker has room for it.
    pub(crate) fn begin_attempt(
        &mut self,
        task: TaskId,
        worker: WorkerId,
        token: Token,
        events: &mut Vec<Event>,
    ) -> Lease {
        let started_ms = self.now_ms;
        let mut attempt = 0;
        self.count_start_for_queue(task);
        events.push(Event::LeaseGranted {
            task,
            worker,
            token,
        });
        self.change_task(task, events, |task| {
            let Life::Queued { position } = task.life else {
                panic!("{} is leased while {}", task.id, task.state().as_str())
            };
            let last = task.history.last();
            assert!(
                last.is_none_or(|last| last.token < token),
                "{}: {token} after {last:?}",
                task.id
            );
            task.attempt += 1;
            attempt = task.attempt;
            task.life = Life::Running {
                worker,
                token,
                started_ms,
                position,
            };
        });
        Lease {
            task,
            worker,
            token,
            attempt,
        }
    }

    /// Counts a start for the task's queue.
    fn count_start_for_queue(&mut self, task: TaskId) {
        let task = self.tasks.get(task).expect("the caller found it");
        let queue = self.queues.get_mut(task.queue());
        let queue = queue.expect("a task's queue has a record");
        self.virtual_time = queue
            .record_start(self.virtual_time, self.now_ms)
            .max(self.virtual_time);
        self.index.set_queue(queue);
    }

    /// Ends the lease of a running task, moves the task to the state that follows from the outcome, and propagates the
    /// effects.
    pub(crate) fn end_attempt(
        &mut self,
        id: TaskId,
        outcome: AttemptOutcome,
        events: &mut Vec<Event>,
    ) {
        let ended = self.end_attempt_only(id, outcome, events);
        if let Some(effect) = ended.effect {
            self.propagate(effect, events);
        }
        match ended.worker_succeeded {
            Some(true) => self.record_success(id, ended.worker, events),
            Some(false) => self.record_failure(id, ended.worker, events),
            None => {}
        }
    }

    /// As [`Table::end_attempt`], but returns the effects instead of propagating them.
    pub(crate) fn end_attempt_only(
        &mut self,
        id: TaskId,
        outcome: AttemptOutcome,
        events: &mut Vec<Event>,
    ) -> EndedAttempt {
        let now_ms = self.now_ms;
        let task = self.tasks.get(id).expect("the caller found it");
        let Life::Running {
            worker,
            token,
            started_ms,
            position,
        } = task.life
        else {
            panic!("{id} has no lease to end: it is {}", task.state().as_str())
        };
        let policy = task.spec.policy.clone();
        let (mut failures, mut losses) = (task.failures, task.losses);
        let tried = !matches!(outcome, AttemptOutcome::Returned);
        let mut chosen_delay_ms = None;

        let (attempt_end, life) = match outcome {
            AttemptOutcome::Succeeded { result } => (
                AttemptEnd::Succeeded,
                Some(Life::Succeeded {
                    result,
                    finished_ms: now_ms,
                }),
            ),
            AttemptOutcome::Failed { error, retry } => {
                failures += 1;
                if let Retry::AfterMs(delay_ms) = retry {
                    chosen_delay_ms = Some(delay_ms);
                }
                let given_up = retry == Retry::Never || failures >= policy.max_attempts;
                let life = given_up.then(|| Life::Failed {
                    error: error.clone(),
                    finished_ms: now_ms,
                });
                (AttemptEnd::Failed { error }, life)
            }
            AttemptOutcome::TimedOut => {
                failures += 1;
                let given_up = failures >= policy.max_attempts;
                let error = timeout_error(policy.timeout_ms);
                (
                    AttemptEnd::TimedOut,
                    given_up.then_some(Life::Failed {
                        error,
                        finished_ms: now_ms,
                    }),
                )
            }
            AttemptOutcome::Lost | AttemptOutcome::LeaseExpired => {
                losses += 1;
                failures += u32::from(mutated!(LossCountedAsFailure));
                let life = if losses < policy.max_losses {
                    Life::Queued { position }
                } else {
                    Life::Failed {
                        error: worker_lost_error(losses),
                        finished_ms: now_ms,
                    }
                };
                let lost = matches!(outcome, AttemptOutcome::Lost);
                (
                    if lost {
                        AttemptEnd::Lost
                    } else {
                        AttemptEnd::LeaseExpired
                    },
                    Some(life),
                )
            }
            AttemptOutcome::Returned => (AttemptEnd::Returned, Some(Life::Queued { position })),
            AttemptOutcome::Cancelled { cause } => (
                AttemptEnd::Cancelled,
                Some(Life::Cancelled {
                    finished_ms: now_ms,
                    cause,
                }),
            ),
        };
        let delay_ms =
            || chosen_delay_ms.unwrap_or_else(|| backoff_ms(&policy.backoff, id, failures));
        let life = life.unwrap_or_else(|| self.ready_from(now_ms.saturating_add(delay_ms())));

        let worker_succeeded = match &attempt_end {
            AttemptEnd::Succeeded => Some(true),
            AttemptEnd::Failed { .. } | AttemptEnd::TimedOut | AttemptEnd::LeaseExpired => {
                Some(false)
            }
            AttemptEnd::Lost | AttemptEnd::Returned | AttemptEnd::Cancelled => None,
        };
        let kept_max = self.limits.attempts_kept_max as usize;
        events.push(Event::LeaseEnded {
            task: id,
            worker,
            token,
        });
        let effect = self.change_task_only(id, events, |task| {
            let attempt = task.attempt;
            if task.history.len() >= kept_max {
                task.history.drain(..=task.history.len() - kept_max);
            }
            task.history.reserve_exact(1);
            task.history.push(Attempt {
                attempt,
                worker,
                token,
                started_ms,
                ended_ms: now_ms,
                end: attempt_end,
            });
            task.failures = failures;
            task.losses = losses;
            if tried {
                task.expires_at_ms = None;
            }
            task.life = life;
        });
        EndedAttempt {
            worker,
            worker_succeeded,
            effect,
        }
    }
}

/// Returns an error object of the table itself. Kind and message must need no JSON escaping.
pub(crate) fn error_object(kind: &str, message: &str) -> Bytes {
    Bytes::from(format!(r#"{{"type":"{kind}","message":"{message}"}}"#))
}

fn timeout_error(timeout_ms: Option<u64>) -> Bytes {
    let limit = timeout_ms.map_or_else(String::new, |limit| format!(" of {limit} ms"));
    let message =
        format!("the attempt outlived its time limit{limit} and its worker did not report");
    error_object("timeout", &message)
}

fn worker_lost_error(losses: u32) -> Bytes {
    let message =
        format!("{losses} attempts were lost with their workers: the task may be what kills them");
    error_object("worker_lost", &message)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{timeout_error, worker_lost_error};

    #[test]
    fn errors_of_the_table_are_error_objects() {
        let errors = [
            (timeout_error(Some(50)), "timeout"),
            (timeout_error(None), "timeout"),
            (worker_lost_error(5), "worker_lost"),
        ];
        for (error, kind) in errors {
            let error: Value = serde_json::from_slice(&error).expect("JSON");
            assert_eq!(error["type"], kind);
            assert!(error["message"].is_string());
        }
    }
}
