//! Results of attempts: proposed as one command, with an acknowledgement of each.

use bytes::Bytes;
use triarch_raft::{Priority, ProposeOptions};
use triarch_sdk::wire;
use triarch_table::command::reply::{Reply, ReportDecision};
use triarch_table::command::{ReportedOutcome, TaskReport};
use triarch_table::types::state::TaskState;
use triarch_table::{Command, TaskId, Token, WorkerId};

use crate::leader_counters::ResultDecision;
use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::problem::{Code, Problem};

/// Maximum number of results in one request, and of attempts reported as running.
pub const RESULTS_MAX: usize = 10_000;

/// Proposes results. An invalid task id, or a result over its bound, costs only that result.
pub async fn record_results(
    app: &App,
    worker: WorkerId,
    results: Vec<wire::TaskResult>,
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
    for result in results {
        let refused = match result.task.parse::<TaskId>() {
            Err(_) => {
                app.table.counters.count_result(ResultDecision::NotFound);
                Some("not_found")
            }
            Ok(task) => match outcome(app, &result) {
                Err(code) => {
                    app.table.counters.count_result(ResultDecision::TooLarge);
                    Some(code)
                }
                Ok(outcome) => {
                    positions.push(acknowledgements.len());
                    reports.push(TaskReport {
                        task,
                        token: Token(result.token),
                        outcome,
                    });
                    None
                }
            },
        };
        acknowledgements.push(wire::ResultAcknowledgement {
            task: result.task,
            accepted: refused.is_none(),
            code: refused.map(str::to_string),
        });
    }
    if reports.is_empty() {
        return Ok((app.node.applied_index(), acknowledgements));
    }
    let report = Command::Report {
        worker,
        results: reports,
    };
    let options = ProposeOptions {
        priority: Priority::High,
        allow_piggyback: may_bring_work(app),
        ..ProposeOptions::default()
    };
    let (index, reply) = app.propose_with(&report, options).await?;
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
            | ResultDecision::TooLarge => Some(decision.into_str()),
        };
        acknowledgements[position].accepted = code.is_none();
        acknowledgements[position].code = code.map(str::to_string);
    }
    Ok((index, acknowledgements))
}

/// Returns whether a result may let a task start. It frees a slot, and dependents of its task may become ready.
fn may_bring_work(app: &App) -> bool {
    let table = app.table.read();
    let counts = table.counts();
    counts.of(TaskState::Queued) > 0 || counts.of(TaskState::Waiting) > 0
}

fn outcome(app: &App, result: &wire::TaskResult) -> Result<ReportedOutcome, &'static str> {
    let text = |given: &Option<Box<serde_json::value::RawValue>>| {
        let text = given.as_ref().map_or("null", |given| given.get());
        if text.len() > app.limits.payload_bytes_max {
            return Err("payload_too_large");
        }
        Ok(Bytes::copy_from_slice(text.as_bytes()))
    };
    Ok(match result.status {
        wire::ReportStatus::Succeeded => ReportedOutcome::Succeeded {
            result: text(&result.result)?,
        },
        wire::ReportStatus::Failed => ReportedOutcome::Failed {
            error: text(&result.error)?,
            retryable: result.retryable.unwrap_or(true),
        },
    })
}
