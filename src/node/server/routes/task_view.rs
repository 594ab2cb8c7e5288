//! Tasks as the interface shows them, whole or in part.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use triarch_sdk::json_text::{beginning, without_lone_surrogates};
use triarch_sdk::wire;
use triarch_table::command::DependencyCondition;
use triarch_table::records::task::{Attempt, AttemptEnd, Life, Task};
use triarch_table::{Table, TaskId};

use crate::server::app::App;
use crate::server::routes::present;

/// Maximum size in bytes of the errors of one task's attempts in an answer; earlier ones are shortened.
const ATTEMPT_ERRORS_BYTES_MAX: usize = 4 << 20;
/// Maximum length of the message of a shortened error, in bytes.
const MESSAGE_BYTES_MAX: usize = 200;

/// Fields of a task that rows of lists leave out or shorten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// Its payload.
    pub payload: bool,
    /// Its result.
    pub result: bool,
    /// Its error, whole.
    pub error: bool,
    /// Its attempts that are kept.
    pub attempts: bool,
    /// Keys of the tasks that it comes after.
    pub after: bool,
}

impl Fields {
    /// Those of a row.
    pub const ROW: Fields = Fields {
        payload: false,
        result: false,
        error: false,
        attempts: false,
        after: false,
    };
    /// Those of a task that is shown by itself.
    pub const ALL: Fields = Fields {
        payload: true,
        result: true,
        error: true,
        attempts: true,
        after: true,
    };
}

/// Converts a task to its wire type, with these fields. The error is always whole.
pub fn task_to_wire(app: &App, table: &Table, task: &Task, fields: Fields) -> wire::Task {
    let (policy, class) = (&task.spec.policy, &task.spec.class);
    let lease = task.lease();
    let progress = lease.and_then(|lease| {
        let lead = app.lead.borrow().clone()?;
        let state = lead.state.lock();
        state.leases.progress(lease.token).cloned()
    });
    let run_at = match task.life {
        Life::Delayed { until_ms } => Some(wire::Timestamp::from_unix_ms(until_ms)),
        Life::Waiting { .. }
        | Life::Queued { .. }
        | Life::Running { .. }
        | Life::Succeeded { .. }
        | Life::Failed { .. }
        | Life::Cancelled { .. }
        | Life::Expired { .. } => None,
    };
    wire::Task {
        id: task.id.to_string(),
        job: task.job.to_string(),
        key: task.key().map(str::to_string),
        kind: task.kind().to_string(),
        queue: task.queue().to_string(),
        state: present::task_state(task.state()),
        priority: policy.priority,
        attempt: task.attempt,
        max_attempts: policy.max_attempts,
        failures: task.failures,
        max_losses: policy.max_losses,
        losses: task.losses,
        worker: task.worker().map(|worker| worker.to_string()),
        result: task
            .result()
            .filter(|_| fields.result)
            .and_then(present::raw_json),
        error: task
            .error()
            .and_then(present::raw_json)
            .or_else(|| present::cancellation_error(task.cancel_cause()?)),
        timeout_ms: policy.timeout_ms,
        run_at,
        expires_at: task.expires_at_ms.map(wire::Timestamp::from_unix_ms),
        requires: Some(wire::Requires {
            labels: class.requires.labels.clone(),
            resources: class.requires.resources.clone(),
        })
        .filter(|requires| !requires.is_empty()),
        tags: policy.tags.clone(),
        after: match fields.after {
            true => after_of(table, task.dependencies()),
            false => Vec::new(),
        },
        unique_key: task.unique_key().map(|key| key.to_string()),
        concurrency_key: task
            .concurrency()
            .map(|concurrency| concurrency.key.to_string()),
        concurrency_limit: task.concurrency().map(|concurrency| concurrency.limit),
        progress: progress.as_ref().and_then(|progress| progress.progress),
        note: progress.and_then(|progress| progress.note),
        payload: Some(task.payload())
            .filter(|_| fields.payload)
            .and_then(present::raw_json),
        created_at: wire::Timestamp::from_unix_ms(task.created_ms),
        started_at: task.started_ms().map(wire::Timestamp::from_unix_ms),
        finished_at: task.finished_ms().map(wire::Timestamp::from_unix_ms),
        more: fields.attempts && attempt_errors_bytes(task) > ATTEMPT_ERRORS_BYTES_MAX,
        attempts: fields.attempts.then(|| attempts(task)),
    }
}

fn attempt_errors_bytes(task: &Task) -> usize {
    let errors = task
        .history
        .iter()
        .filter_map(|attempt| attempt.end.error());
    errors.map(Bytes::len).sum()
}

/// Returns the keys of these tasks, with the conditions on their ends.
pub fn after_of(
    table: &Table,
    dependencies: impl Iterator<Item = (TaskId, DependencyCondition)>,
) -> Vec<wire::After> {
    dependencies
        .filter_map(|(task, when)| {
            let key = table.task(task)?.key()?;
            Some(wire::After::when(key, present::condition_to_wire(when)))
        })
        .collect()
}

/// Returns the attempts that are kept. The errors of the latest are whole, up to a bound; those of earlier ones are
/// shortened.
fn attempts(task: &Task) -> Vec<wire::Attempt> {
    let mut left_bytes = ATTEMPT_ERRORS_BYTES_MAX;
    let mut whole_from = task.history.len();
    for (place, attempt) in task.history.iter().enumerate().rev() {
        let bytes = attempt.end.error().map_or(0, Bytes::len);
        let Some(left) = left_bytes.checked_sub(bytes) else {
            break;
        };
        left_bytes = left;
        whole_from = place;
    }
    let error = |place: usize, attempt: &Attempt| {
        let error = attempt.end.error().and_then(present::raw_json)?;
        match place >= whole_from {
            true => Some(error),
            false => short_error(&error),
        }
    };
    let present = |(place, attempt): (usize, &Attempt)| wire::Attempt {
        attempt: attempt.attempt,
        worker: attempt.worker.to_string(),
        token: attempt.token.0,
        started_at: wire::Timestamp::from_unix_ms(attempt.started_ms),
        ended_at: Some(wire::Timestamp::from_unix_ms(attempt.ended_ms)),
        outcome: Some(match &attempt.end {
            AttemptEnd::Succeeded => wire::AttemptOutcome::Succeeded,
            AttemptEnd::Failed { .. } => wire::AttemptOutcome::Failed,
            AttemptEnd::TimedOut => wire::AttemptOutcome::TimedOut,
            AttemptEnd::Lost | AttemptEnd::LeaseExpired => wire::AttemptOutcome::Lost,
            AttemptEnd::Returned => wire::AttemptOutcome::Returned,
            AttemptEnd::Cancelled => wire::AttemptOutcome::Cancelled,
        }),
        error: error(place, attempt),
    };
    let running = task
        .lease()
        .zip(task.started_ms())
        .map(|(lease, started_ms)| wire::Attempt {
            attempt: lease.attempt,
            worker: lease.worker.to_string(),
            token: lease.token.0,
            started_at: wire::Timestamp::from_unix_ms(started_ms),
            ended_at: None,
            outcome: None,
            error: None,
        });
    let ended = task.history.iter().enumerate().map(present);
    ended.chain(running).collect()
}

/// Fields that a shortened error keeps.
#[derive(Deserialize)]
struct ErrorSummary {
    #[serde(rename = "type", default)]
    kind: Option<Box<RawValue>>,
    #[serde(default)]
    message: Option<Box<RawValue>>,
}

/// Returns `{"type", "message"}` of an error, with the beginning of its message.
pub fn short_error(error: &RawValue) -> Option<Box<RawValue>> {
    let error = without_lone_surrogates(error.get());
    let summary: Option<ErrorSummary> = serde_json::from_str(&error).ok();
    let kind = summary
        .as_ref()
        .and_then(|summary| Some(text(summary.kind.as_ref()?)));
    let message = match &summary {
        Some(summary) => summary.message.as_ref().map(|message| text(message)),
        // Not an object: all of it is the message.
        None => Some(error.into_owned()),
    };
    let short = serde_json::json!({
        "type": kind.map(|kind| beginning(&kind, MESSAGE_BYTES_MAX).to_owned()),
        "message": message.map(|message| beginning(&message, MESSAGE_BYTES_MAX).to_owned()),
    });
    to_raw_value(&short).ok()
}

/// Returns the type of an error, if it has one.
pub fn error_type(error: &[u8]) -> Option<String> {
    let error = std::str::from_utf8(error).ok()?;
    let summary: ErrorSummary = serde_json::from_str(&without_lone_surrogates(error)).ok()?;
    Some(text(summary.kind.as_ref()?))
}

/// Returns a text, or the JSON of anything else.
fn text(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(error: &str) -> serde_json::Value {
        let error = RawValue::from_string(error.to_owned()).expect("JSON");
        let short = short_error(&error).expect("JSON");
        serde_json::from_str(short.get()).expect("JSON")
    }

    #[test]
    fn the_error_of_a_row_has_a_type_and_the_beginning_of_its_message() {
        let long = "é".repeat(1_000);
        let whole = format!(r#"{{"type":"boom","message":"{long}","traceback":"x"}}"#);
        let found = short(&whole);
        assert_eq!(found["type"], "boom");
        assert_eq!(found["message"], "é".repeat(MESSAGE_BYTES_MAX / 2));
        assert_eq!(found.as_object().map(serde_json::Map::len), Some(2));
        assert_eq!(short("\"lost\"")["message"], "\"lost\"");
        let surrogate = short(r#"{"type":"E","message":"no \ud800"}"#);
        assert_eq!(surrogate["message"], "no \u{fffd}");
        let odd = short(r#"{"type":7,"exit_code":1}"#);
        assert_eq!(
            (odd["type"].as_str(), odd["message"].as_str()),
            (Some("7"), None)
        );
    }
}
