//! The registry of a worker's attempts: those that run, and those whose result is not settled yet.
//!
//! # Invariants
//!
//! - An attempt is identified by its task *and* its token. So an answer about an old lease never touches a new one of
//!   the same task.
//! - A result leaves only when the cluster has acknowledged it or has disowned the lease.
//! - A heartbeat reports results that wait for their acknowledgement as running, because their leases are still held.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::executor::{Outcome, StopReason, TaskContext, TaskHandle, error_object};
use super::poll_pause::PollPause;
use super::spool::OutputSignal;
pub(super) use super::task_result::LeaseKey;
use super::task_result::{failure, size_of_result, task_result};
use crate::wire::{
    Problem, ProblemCode, ReportStatus, ResultAcknowledgement, RunningTask, TaskResult,
};

/// Maximum number of results in one report, and of bytes, unless a single result is larger.
const RESULTS_PER_REPORT_MAX: usize = 1000;
const RESULT_BYTES_PER_REPORT_MAX: usize = 4 << 20;

/// Bytes of output kept for all slots together, but never less than the minimum for each.
const OUTPUT_BYTES_MAX: usize = 32 << 20;
const OUTPUT_BYTES_PER_SLOT_MIN: usize = 8 << 10;

#[derive(Debug)]
enum Phase {
    Running(TaskHandle),
    Ended {
        result: TaskResult,
        /// Whether a report that carries it is in flight.
        sent: bool,
        /// Whether it is reported alone, because a report that carried it was refused as a whole.
        alone: bool,
        /// Whether the refusal has replaced the result. A second refusal is final.
        replaced: bool,
    },
}

#[derive(Debug)]
struct Attempt {
    phase: Phase,
    /// Whether the lease is gone: then nothing of the attempt is reported any more.
    disowned: bool,
}

/// The attempts of one worker.
#[derive(Debug)]
pub(super) struct AttemptRegistry {
    slots: usize,
    held: Mutex<BTreeMap<LeaseKey, Attempt>>,
    changed: Notify,
    output_signal: Arc<OutputSignal>,
    pause: Mutex<PollPause>,
}

impl AttemptRegistry {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slots: usize::try_from(slots).unwrap_or(usize::MAX),
            held: Mutex::default(),
            changed: Notify::new(),
            output_signal: Arc::default(),
            pause: Mutex::default(),
        }
    }

    /// Returns when the worker may take tasks again after one that it could not begin; `None` if it may.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.pause().until(Instant::now())
    }

    fn pause(&self) -> MutexGuard<'_, PollPause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the signal that there is output to send.
    pub(super) fn output_signal(&self) -> &OutputSignal {
        &self.output_signal
    }

    /// Calls `each` with every running attempt, in the order of their keys, until it returns `false`.
    pub(super) fn for_each_running(&self, mut each: impl FnMut(&LeaseKey, &TaskHandle) -> bool) {
        for (key, attempt) in self.lock().iter() {
            match &attempt.phase {
                Phase::Running(handle) if !attempt.disowned && !each(key, handle) => return,
                Phase::Running(_) | Phase::Ended { .. } => {}
            }
        }
    }

    /// Calls `one` with an attempt, if it runs.
    pub(super) fn with_running(&self, key: &LeaseKey, one: impl FnOnce(&TaskHandle)) {
        match self.lock().get(key).map(|attempt| &attempt.phase) {
            Some(Phase::Running(handle)) => one(handle),
            Some(Phase::Ended { .. }) | None => {}
        }
    }

    /// Waits until an attempt has ended or been settled since the last wait. For one waiter at a time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Begins an attempt. Returns `None` when it is held already.
    pub(super) fn begin(&self, key: LeaseKey) -> Option<TaskContext> {
        let mut held = self.lock();
        if held.contains_key(&key) {
            return None;
        }
        for (other, attempt) in held.iter_mut().filter(|(other, _)| other.task == key.task) {
            tracing::warn!(
                task = key.task,
                old = other.token,
                new = key.token,
                "the task was leased to this worker again: stopping the earlier attempt"
            );
            attempt.disown(StopReason::Lost);
        }
        let room = (OUTPUT_BYTES_MAX / self.slots.max(1)).max(OUTPUT_BYTES_PER_SLOT_MIN);
        let (handle, context) = TaskContext::with_output_limit(room, self.output_signal.clone());
        held.insert(
            key,
            Attempt {
                phase: Phase::Running(handle),
                disowned: false,
            },
        );
        Some(context)
    }

    /// Records the outcome of an attempt.
    pub(super) fn end(&self, key: &LeaseKey, outcome: Outcome) {
        match &outcome {
            Outcome::Returned { reason } => {
                let pause = self.pause().begin(Instant::now());
                if let Some(pause) = pause {
                    let pause_ms = pause.as_millis();
                    tracing::warn!(
                        task = key.task,
                        reason,
                        "an attempt could not begin, so its task goes back to its queue; this worker takes no tasks for {pause_ms} ms"
                    );
                }
            }
            Outcome::Succeeded(_) | Outcome::Failed { .. } | Outcome::RetryAfter { .. } => {
                self.pause().reset(Instant::now());
            }
            Outcome::Stopped => {}
        }
        let mut held = self.lock();
        let Some(attempt) = held.get_mut(key) else {
            return;
        };
        let reason = match &attempt.phase {
            Phase::Running(handle) => handle.stop_reason(),
            Phase::Ended { .. } => return,
        };
        match task_result(key, outcome, reason) {
            Some(result) if !attempt.disowned => {
                attempt.phase = Phase::Ended {
                    result,
                    sent: false,
                    alone: false,
                    replaced: false,
                };
            }
            Some(_) | None => {
                held.remove(key);
            }
        }
        self.changed.notify_one();
    }

    /// Returns how many attempts may run at once.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Returns how many more attempts may begin.
    pub(super) fn free(&self) -> usize {
        self.slots.saturating_sub(self.running())
    }

    /// Returns how many attempts run.
    pub(super) fn running(&self) -> usize {
        let held = self.lock();
        held.values()
            .filter(|attempt| matches!(attempt.phase, Phase::Running(_)))
            .count()
    }

    /// Returns whether nothing runs and every result is settled.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().is_empty()
    }

    /// Returns every lease held, as a heartbeat confirms it.
    pub(super) fn held_leases(&self) -> Vec<RunningTask> {
        let held = self.lock();
        held.iter()
            .filter(|(_, attempt)| !attempt.disowned || attempt.is_running())
            .map(|(key, attempt)| {
                let progress = match &attempt.phase {
                    Phase::Running(handle) => handle.progress(),
                    Phase::Ended { .. } => Default::default(),
                };
                RunningTask {
                    task: key.task.clone(),
                    token: key.token,
                    progress: progress.share,
                    note: progress.note,
                }
            })
            .collect()
    }

    /// Disowns the attempts of these tasks that were confirmed in `sent`. The answer to a confirmation concerns its
    /// leases only, never one that began after it.
    pub(super) fn disown(&self, tasks: &[String], sent: &[RunningTask], reason: StopReason) {
        if tasks.is_empty() {
            return;
        }
        let mut held = self.lock();
        for one in sent.iter().filter(|one| tasks.contains(&one.task)) {
            let key = LeaseKey {
                task: one.task.clone(),
                token: one.token,
            };
            let Some(attempt) = held.get_mut(&key) else {
                continue;
            };
            if !attempt.disowned && attempt.is_running() {
                tracing::info!(
                    task = key.task,
                    token = key.token,
                    ?reason,
                    "stopping an attempt"
                );
            }
            attempt.disown(reason);
            if attempt.is_over() {
                held.remove(&key);
            }
        }
        self.changed.notify_one();
    }

    /// Stops every running attempt and returns how many there were. Results stay, because the cluster accepts or
    /// refuses them by their tokens.
    pub(super) fn stop_running(&self, reason: StopReason) -> usize {
        let mut stopped = 0;
        for attempt in self.lock().values_mut().filter(|one| one.is_running()) {
            match reason {
                StopReason::Cancelled | StopReason::Lost => attempt.disown(reason),
                StopReason::TimedOut | StopReason::ShuttingDown => attempt.stop(reason),
            }
            stopped += 1;
        }
        stopped
    }

    /// Stops one attempt, which this worker still reports.
    pub(super) fn stop_one(&self, key: &LeaseKey, reason: StopReason) {
        if let Some(attempt) = self.lock().get(key) {
            attempt.stop(reason);
        }
    }

    /// Disowns everything: the cluster no longer knows this worker, so every lease is gone, and every result with it.
    pub(super) fn disown_all(&self) {
        let mut held = self.lock();
        held.retain(|_, attempt| {
            attempt.disown(StopReason::Lost);
            attempt.is_running()
        });
        self.changed.notify_one();
    }

    /// Takes results to report. Those not settled when the [`ResultBatch`] is dropped can be taken again.
    pub(super) fn take_results(self: &Arc<Self>, kind: BatchKind) -> ResultBatch {
        let mut held = self.lock();
        let mut keys = Vec::new();
        let mut results = Vec::new();
        let mut bytes = 0;
        for (key, attempt) in held.iter_mut() {
            let Phase::Ended {
                result,
                sent: sent @ false,
                alone,
                ..
            } = &mut attempt.phase
            else {
                continue;
            };
            let size = size_of_result(result);
            let fits = results.is_empty()
                || (results.len() < RESULTS_PER_REPORT_MAX
                    && bytes + size <= RESULT_BYTES_PER_REPORT_MAX
                    && !*alone);
            if !fits || (*alone && kind == BatchKind::Poll) {
                continue;
            }
            *sent = true;
            bytes += size;
            keys.push(key.clone());
            results.push(result.clone());
            if *alone {
                break;
            }
        }
        drop(held);
        ResultBatch {
            attempts: self.clone(),
            keys,
            results,
        }
    }

    /// Returns whether a result waits to be taken.
    pub(super) fn has_results(&self) -> bool {
        let held = self.lock();
        held.values()
            .any(|attempt| matches!(attempt.phase, Phase::Ended { sent: false, .. }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseKey, Attempt>> {
        // A panic under this lock leaves the map consistent: the invariants hold between any two of its changes.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Codes of results that the cluster cannot take. The lease is still held, so another result has to follow.
const TOO_LARGE: &str = "payload_too_large";
const INVALID: &str = "invalid_request";

/// The request that results are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchKind {
    /// A report.
    Report,
    /// A poll, which also asks for work. Results that were refused once must not come between the worker and its work.
    Poll,
}

/// Results in flight. Unsettled ones go back to the registry on drop, so that no path can lose one.
#[derive(Debug)]
pub(super) struct ResultBatch {
    attempts: Arc<AttemptRegistry>,
    keys: Vec<LeaseKey>,
    results: Vec<TaskResult>,
}

impl ResultBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns whether the result of this attempt is among them.
    pub(super) fn holds(&self, attempt: &RunningTask) -> bool {
        let is_it = |key: &LeaseKey| key.token == attempt.token && key.task == attempt.task;
        self.keys.iter().any(is_it)
    }

    /// Takes the results to send.
    pub(super) fn results(&mut self) -> Vec<TaskResult> {
        std::mem::take(&mut self.results)
    }

    /// Applies the cluster's acknowledgements, in order.
    pub(super) fn settle(mut self, acknowledgements: &[ResultAcknowledgement]) {
        let keys = std::mem::take(&mut self.keys);
        let mut held = self.attempts.lock();
        for (at, key) in keys.into_iter().enumerate() {
            match acknowledgements
                .get(at)
                .filter(|acknowledgement| acknowledgement.task == key.task)
            {
                Some(ResultAcknowledgement { accepted: true, .. }) => {
                    held.remove(&key);
                }
                Some(ResultAcknowledgement { code, .. })
                    if code.as_deref() == Some(INVALID)
                        && held.get_mut(&key).is_some_and(Attempt::without_delay) =>
                {
                    self.keys.push(key);
                }
                Some(ResultAcknowledgement { code, detail, .. })
                    if matches!(code.as_deref(), Some(TOO_LARGE | INVALID)) =>
                {
                    // The lease is still this worker's. Without an outcome, the task would be leased again for ever.
                    let too_large = code.as_deref() == Some(TOO_LARGE);
                    let detail = detail.as_deref().unwrap_or_default();
                    tracing::warn!(
                        task = key.task,
                        code,
                        detail,
                        "the cluster cannot take a result: the attempt is reported as failed"
                    );
                    let failed = if too_large {
                        let message = "the result exceeds the limit of the cluster; store it where others can reach \
                                       it and return its address";
                        failure(&key, error_object("result_too_large", message), false)
                    } else {
                        let message =
                            format!("the cluster refused the result of this attempt: {detail}");
                        failure(&key, error_object("result_refused", &message), false)
                    };
                    let known = held
                        .get_mut(&key)
                        .is_some_and(|attempt| attempt.replace(failed));
                    if known {
                        self.keys.push(key);
                    } else {
                        held.remove(&key);
                    }
                }
                Some(ResultAcknowledgement { code, .. }) => {
                    let code = code.as_deref().unwrap_or("without a code");
                    tracing::warn!(
                        task = key.task,
                        token = key.token,
                        code,
                        "a result was not accepted"
                    );
                    held.remove(&key);
                }
                None => {
                    tracing::error!(task = key.task, "the cluster gave no verdict on a result");
                    self.keys.push(key);
                }
            }
        }
        drop(held);
        self.attempts.changed.notify_one();
        // Unsettled results, if any, go back on drop.
    }

    /// Handles the refusal of a whole poll, which would be refused again. Nothing says that a result is to blame, so each
    /// is reported again by itself.
    pub(super) fn refused_with_poll(self) {
        let mut held = self.attempts.lock();
        for key in &self.keys {
            if let Some(Phase::Ended { alone, .. }) = held.get_mut(key).map(|one| &mut one.phase) {
                *alone = true;
            }
        }
    }

    /// Handles the refusal of a whole report, which would be refused again. Each result is then reported alone. One
    /// that is refused alone is replaced by a failure with the reason. When even that is refused, it is given up. A
    /// refusal that is not about the report, such as a lack of permission, changes nothing: the results are kept.
    pub(super) fn refused(self, problem: &Problem) {
        if !problem.is(ProblemCode::InvalidRequest) && problem.status != 413 {
            return;
        }
        let mut held = self.attempts.lock();
        let single = self.keys.len() == 1;
        for key in &self.keys {
            let Some(attempt) = held.get_mut(key) else {
                continue;
            };
            if single && attempt.without_delay() {
                continue;
            }
            let Phase::Ended {
                result,
                alone,
                replaced,
                ..
            } = &mut attempt.phase
            else {
                continue;
            };
            let is_returned = result.status == ReportStatus::Returned;
            if !single {
                *alone = true;
            } else if !*replaced && !is_returned {
                tracing::warn!(task = key.task, %problem, "a result was refused");
                *alone = true;
                *replaced = true;
                let message = format!("the cluster refused the result of this attempt: {problem}");
                *result = failure(key, error_object("result_refused", &message), false);
            } else {
                // The lease ends by itself.
                tracing::error!(task = key.task, %problem, "a result is discarded");
                held.remove(key);
            }
        }
    }
}

impl Drop for ResultBatch {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let mut held = self.attempts.lock();
        for key in &self.keys {
            let Some(attempt) = held.get_mut(key) else {
                continue;
            };
            if let Phase::Ended { sent, .. } = &mut attempt.phase {
                *sent = false;
            }
            if attempt.is_over() {
                held.remove(key);
            }
        }
        drop(held);
        self.attempts.changed.notify_one();
    }
}

impl Attempt {
    /// Removes the delay before the next attempt from a refused result. Masters of versions before the delay refuse it, and
    /// the failure counts with the back-off then.
    fn without_delay(&mut self) -> bool {
        match &mut self.phase {
            Phase::Ended { result, .. } => result.retry_after_ms.take().is_some(),
            Phase::Running(_) => false,
        }
    }

    /// Replaces a result that cannot be kept by a failure, once only.
    fn replace(&mut self, failure: TaskResult) -> bool {
        match &mut self.phase {
            Phase::Ended {
                result, replaced, ..
            } if !*replaced => {
                *result = failure;
                *replaced = true;
                true
            }
            Phase::Ended { .. } | Phase::Running(_) => false,
        }
    }

    fn is_running(&self) -> bool {
        match self.phase {
            Phase::Running(_) => true,
            Phase::Ended { .. } => false,
        }
    }

    /// Returns whether there is no reason to keep it: nothing runs, nothing is in flight, nothing is to be reported.
    fn is_over(&self) -> bool {
        match self.phase {
            Phase::Running(_) => false,
            Phase::Ended { sent, .. } => self.disowned && !sent,
        }
    }

    fn stop(&self, reason: StopReason) {
        match &self.phase {
            Phase::Running(handle) => handle.stop(reason),
            Phase::Ended { .. } => {}
        }
    }

    fn disown(&mut self, reason: StopReason) {
        self.disowned = true;
        self.stop(reason);
    }
}

#[cfg(test)]
mod tests;
