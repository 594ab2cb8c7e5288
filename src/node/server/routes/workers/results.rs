//! Results of attempts: proposed as one command, with an acknowledgement of each.

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::value::RawValue;
use triarch_areas::envelope::encode_output;
use triarch_areas::task_output::KeptOutput;
use triarch_raft::{Level, Priority, ProposeOptions};
use triarch_sdk::wire::{self, exec};
use triarch_table::command::reply::{Reply, ReportDecision};
use triarch_table::command::{ReportedOutcome, TaskReport};
use triarch_table::types::state::TaskState;
use triarch_table::{Command, TaskId, Token, WorkerId};

use super::envelope::{self, PartProblems, RESULTS_MAX, ReportedResult};
use crate::leader_counters::ResultDecision;
use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::problem::{Code, Problem};

/// Maximum delay that a task may choose for its next attempt: ten years, as for other delays.
const RETRY_AFTER_MS_MAX: u64 = 10 * 366 * 24 * 3_600_000;

/// Proposes results. A result that is wrong, or over its bound, costs only itself.
pub async fn record_results(
    app: &App,
    worker: WorkerId,
    results: Vec<ReportedResult>,
    problems: &PartProblems,
) -> Result<(u64, Vec<wire::ResultAcknowledgement>), HandlerError> {
    if results.len() > RESULTS_MAX {
        return Err(Problem::new(
            Code::PayloadTooLarge,
            format!("{} results; the limit is {RESULTS_MAX}", results.len()),
        )
        .into());
    }
    let mut acknowledgements: Vec<wire::ResultAcknowledgement> = Vec::with_capacity(results.len());
    let mut reports: Vec<TaskReport> = Vec::with_capacity(results.len());
    let mut positions: Vec<usize> = Vec::with_capacity(results.len());
    for (result, position) in results.into_iter().zip(0..) {
        let (task, token, outcome) = match result {
            ReportedResult::Valid(result) => {
                let outcome = outcome(app, &result, position, problems);
                (result.task, Some(result.token), outcome)
            }
            ReportedResult::Refused {
                task,
                token,
                problem,
            } => (task, token, Err(problem)),
        };
        let refusal = match (task.parse::<TaskId>(), token, outcome) {
            (_, _, Err(problem)) => {
                let decision = match problem.code() {
                    Code::PayloadTooLarge => ResultDecision::TooLarge,
                    _ => ResultDecision::Invalid,
                };
                Some((decision, Some(problem)))
            }
            (Ok(task), Some(token), Ok(outcome)) => {
                positions.push(acknowledgements.len());
                reports.push(TaskReport {
                    task,
                    token: Token(token),
                    outcome,
                });
                None
            }
            (Err(_), _, Ok(_)) | (_, None, Ok(_)) => Some((ResultDecision::NotFound, None)),
        };
        if let Some((decision, _)) = &refusal {
            app.table.counters.count_result(*decision);
        }
        let (code, problem) = refusal.unzip();
        let problem = problem.flatten();
        let field = problem.as_ref().map(|problem| problem.field().to_owned());
        acknowledgements.push(wire::ResultAcknowledgement {
            task,
            accepted: code.is_none(),
            code: code.map(|code| code.into_str().to_owned()),
            field,
            detail: problem.map(|problem| problem.detail().to_owned()),
        });
    }
    if reports.is_empty() {
        return Ok((app.node.applied_index(), acknowledgements));
    }
    let outputs = kept_outputs(app, &reports);
    let report = Command::Report {
        worker,
        results: reports,
    };
    let options = ProposeOptions {
        priority: Priority::High,
        allow_piggyback: may_bring_work(app),
        ..ProposeOptions::default()
    };
    // The output comes first, so that a reader who finds the result finds it, too.
    let ((), reported) = tokio::join!(
        record_outputs(app, outputs),
        app.propose_with(&report, options)
    );
    let (index, reply) = reported?;
    let Reply::Reported { decisions } = reply else {
        return Err(app.unexpected_reply(&reply));
    };
    for (position, decision) in positions.into_iter().zip(decisions) {
        let decision = match decision {
            ReportDecision::Accepted => ResultDecision::Accepted,
            ReportDecision::StaleToken => ResultDecision::StaleToken,
            ReportDecision::AlreadyFinished => ResultDecision::AlreadyFinished,
            ReportDecision::NotFound => ResultDecision::NotFound,
        };
        app.table.counters.count_result(decision);
        let code = match decision {
            ResultDecision::Accepted => None,
            ResultDecision::StaleToken
            | ResultDecision::AlreadyFinished
            | ResultDecision::NotFound
            | ResultDecision::TooLarge
            | ResultDecision::Invalid => Some(decision.into_str()),
        };
        acknowledgements[position].accepted = code.is_none();
        acknowledgements[position].code = code.map(str::to_string);
    }
    Ok((index, acknowledgements))
}

/// Returns what is to be kept of the output of these attempts. The results of `exec` contain it.
fn kept_outputs(app: &App, reports: &[TaskReport]) -> Vec<KeptOutput> {
    if app.table.level() < Level::TWO {
        return Vec::new();
    }
    let Ok(lead) = app.leader_term() else {
        return Vec::new();
    };
    let table = app.table.read();
    let attempts: Vec<(TaskId, Token)> = reports
        .iter()
        .filter(|report| {
            let task = table.task(report.task);
            task.is_some_and(|task| task.kind() != exec::KIND)
        })
        .map(|report| (report.task, report.token))
        .collect();
    drop(table);
    let kept = attempts
        .into_iter()
        .filter_map(|(task, token)| lead.kept_output(task, token));
    kept.collect()
}

/// Records output, for readers after a change of leader. A result never fails for it.
async fn record_outputs(app: &App, outputs: Vec<KeptOutput>) {
    let options = ProposeOptions {
        priority: Priority::High,
        ..ProposeOptions::default()
    };
    let proposals = outputs.iter().map(|output| async move {
        let recorded = app.node.propose(encode_output(output), options).await;
        if let Err(error) = recorded {
            tracing::debug!(task = %output.task, %error, "the output of an attempt was not recorded: it is gone after a change of leader");
        }
    });
    join_all(proposals).await;
}

/// Returns whether a result may let a task start. It frees a slot, and dependents of its task may become ready.
fn may_bring_work(app: &App) -> bool {
    let table = app.table.read();
    let counts = table.counts();
    counts.of(TaskState::Queued) > 0 || counts.of(TaskState::Waiting) > 0
}

fn outcome(
    app: &App,
    result: &wire::TaskResult,
    position: usize,
    problems: &PartProblems,
) -> Result<ReportedOutcome, Problem> {
    let bytes_max = app.limits.payload_bytes_max;
    let text = |given: &Option<Box<RawValue>>| {
        let text = given.as_ref().map_or("null", |given| given.get());
        Bytes::copy_from_slice(text.as_bytes())
    };
    Ok(match result.status {
        wire::ReportStatus::Succeeded => {
            let bytes = result
                .result
                .as_ref()
                .map_or(0, |result| result.get().len());
            if bytes > bytes_max {
                let field = format!("results[{position}].result");
                return Err(envelope::too_large(&field, bytes, bytes_max));
            }
            ReportedOutcome::Succeeded {
                result: text(&result.result),
            }
        }
        wire::ReportStatus::Failed => {
            let bytes = result.error.as_ref().map_or(0, |error| error.get().len());
            let error = if bytes > bytes_max {
                let field = format!("results[{position}].error");
                problems.error_shortened(field, bytes, bytes_max);
                let error = text(&result.error);
                text(&Some(envelope::shortened_error(&error)))
            } else {
                text(&result.error)
            };
            let retryable = result.retryable.unwrap_or(true);
            match retry_after_ms(app, result, retryable, position, problems) {
                Some(retry_after_ms) => ReportedOutcome::FailedRetryAfter {
                    error,
                    retry_after_ms,
                },
                None => ReportedOutcome::Failed { error, retryable },
            }
        }
        wire::ReportStatus::Returned => ReportedOutcome::Returned,
    })
}

/// Returns the delay that a failed task chose for its next attempt. One that cannot be kept costs itself and not the failure.
fn retry_after_ms(
    app: &App,
    result: &wire::TaskResult,
    retryable: bool,
    position: usize,
    problems: &PartProblems,
) -> Option<u64> {
    let given_ms = result.retry_after_ms?;
    let field = || format!("results[{position}].retry_after_ms");
    if !retryable {
        let detail = "was dropped: the failure is not retryable";
        problems.add(field(), detail.to_owned());
        return None;
    }
    if app.table.level() == Level::ONE {
        let detail = "was dropped, and the back-off of the task applies: the cluster has level 1, and a delay needs \
                      level 2 (triarch cluster upgrade)";
        problems.add(field(), detail.to_owned());
        return None;
    }
    if given_ms > RETRY_AFTER_MS_MAX {
        let detail = format!("is {given_ms}; the limit is {RETRY_AFTER_MS_MAX}, which was taken");
        problems.add(field(), detail);
    }
    Some(given_ms.min(RETRY_AFTER_MS_MAX))
}
