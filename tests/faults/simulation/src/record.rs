//! Recorder of the history in the format of `triarch-check`, whose rules check every run too: each request separately,
//! with its outcome.

use serde_json::{Value, json};
use triarch_check::digest;
use triarch_check::record::{
    Consistency, Lease, Op, Reported, SeenAttempt, SeenTask, Status, Submitted,
};

use crate::history::Report;
use crate::http::{Answer, Response};

/// Tasks of the schedule belong to no submission. They are checked by their ticks.
pub fn is_tick(payload: &Value) -> bool {
    payload["tick"] == json!(true)
}

/// Returns a submission before its answer.
pub fn submit(body: &Value) -> Op {
    let tasks = body["tasks"].as_array().map_or(&[][..], Vec::as_slice);
    let word = |value: &Value| value.as_str().map(str::to_string);
    Op::Submit {
        key: word(&body["idempotency_key"]),
        tasks: tasks
            .iter()
            .map(|task| Submitted {
                kind: word(&task["kind"]).unwrap_or_default(),
                observed: true,
                payload: Some(digest(&task["payload"])),
                key: word(&task["key"]),
                after: crate::client_load::words(&task["after"]),
                unique_key: word(&task["unique_key"]),
                ..Submitted::default()
            })
            .collect(),
        job: None,
        duplicate: false,
        fail_fast: false,
    }
}

/// Returns a poll, and a report if the request contains results.
pub fn poll(worker: &str, done: &[Report]) -> Vec<(&'static str, Op)> {
    let mut ops = Vec::new();
    let results: Vec<Reported> = done
        .iter()
        .filter(|report| !report.of_tick)
        .map(reported)
        .collect();
    if !results.is_empty() {
        let worker = worker.to_string();
        ops.push(("-reports", Op::Report { worker, results }));
    }
    let worker = worker.to_string();
    ops.push((
        "",
        Op::Poll {
            worker,
            leases: Vec::new(),
        },
    ));
    ops
}

fn reported(report: &Report) -> Reported {
    Reported {
        task: report.task.clone(),
        token: report.token,
        attempt: report.attempt,
        status: if report.succeeded {
            Status::Succeeded
        } else {
            Status::Failed
        },
        result: report.succeeded.then(|| digest(&report.result)),
        accepted: None,
        code: None,
    }
}

/// Returns a read of a task.
pub fn read(task: &str, stale: bool) -> Op {
    Op::ReadTask {
        task: task.to_string(),
        consistency: if stale {
            Consistency::Stale
        } else {
            Consistency::Linearizable
        },
        min_index: None,
        seen: None,
    }
}

/// Returns a task as an answer shows it.
pub fn seen(task: &Value) -> Option<SeenTask> {
    let attempts = task["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    Some(SeenTask {
        state: serde_json::from_value(task["state"].clone()).ok()?,
        attempt: task["attempt"].as_u64()?,
        result: (!task["result"].is_null()).then(|| digest(&task["result"])),
        attempts: attempts
            .iter()
            .filter_map(|attempt| {
                Some(SeenAttempt {
                    attempt: attempt["attempt"].as_u64()?,
                    token: attempt["token"].as_u64()?,
                    outcome: attempt["outcome"].as_str().map(str::to_string),
                })
            })
            .collect(),
    })
}

/// Returns the outcome of a request in the terms of the history; `None` if the request was not sent.
pub fn end(op: &mut Op, answer: &Answer) -> Option<Result<Option<u64>, (bool, String)>> {
    match answer {
        Answer::NotSent => None,
        Answer::Unknown => Some(Err((false, "no answer".into()))),
        // A leader that loses its leadership redirects a worker whose results it has read. They may be accepted.
        Answer::Received(response) if response.status == 307 && matches!(op, Op::Report { .. }) => {
            Some(Err((false, "redirected".into())))
        }
        Answer::Received(response) if response.status == 307 => None,
        Answer::Received(response) if response.ok() => {
            fill(op, &response.json());
            Some(Ok(response.index()))
        }
        Answer::Received(response) => Some(refused(op, response)),
    }
}

fn refused(op: &Op, response: &Response) -> Result<Option<u64>, (bool, String)> {
    let why = response.json()["code"]
        .as_str()
        .unwrap_or("no code")
        .to_string();
    // `not_found` is an answer too.
    if response.status == 404 && matches!(op, Op::ReadTask { .. }) {
        return Ok(response.index());
    }
    Err((!matches!(response.status, 503 | 504), why))
}

fn fill(op: &mut Op, reply: &Value) {
    match op {
        Op::Submit {
            tasks,
            job,
            duplicate,
            ..
        } => {
            *job = reply["id"].as_str().map(str::to_string);
            *duplicate = reply["duplicate"] == json!(true);
            for (task, id) in tasks
                .iter_mut()
                .zip(crate::client_load::words(&reply["tasks"]))
            {
                task.id = Some(id);
            }
        }
        Op::Poll { leases, .. } => {
            let given = reply["tasks"].as_array().map_or(&[][..], Vec::as_slice);
            leases.extend(
                given
                    .iter()
                    .filter(|task| !is_tick(&task["payload"]))
                    .filter_map(lease),
            );
        }
        Op::Report { results, .. } => {
            let acknowledgements = reply["results"].as_array().map_or(&[][..], Vec::as_slice);
            for one in results {
                let acknowledgement = acknowledgements
                    .iter()
                    .find(|acknowledgement| acknowledgement["task"] == json!(one.task));
                one.accepted = acknowledgement
                    .map(|acknowledgement| acknowledgement["accepted"] == json!(true));
                one.code = acknowledgement.and_then(|acknowledgement| {
                    acknowledgement["code"].as_str().map(str::to_string)
                });
            }
        }
        Op::ReadTask {
            seen: seen_here, ..
        } => *seen_here = seen(reply),
        Op::CancelTask { .. }
        | Op::CancelJob { .. }
        | Op::RetryTask { .. }
        | Op::ReadJob { .. }
        | Op::Due { .. }
        | Op::Tick { .. }
        | Op::Effect { .. }
        | Op::Fault { .. }
        | Op::Expect { .. }
        | Op::Settled {} => {}
    }
}

fn lease(task: &Value) -> Option<Lease> {
    let inputs = task["inputs"].as_object();
    Some(Lease {
        task: task["id"].as_str()?.to_string(),
        token: task["token"].as_u64()?,
        attempt: task["attempt"].as_u64()?,
        payload: Some(digest(&task["payload"])),
        inputs: inputs
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), digest(value)))
            .collect(),
    })
}
