//! Commands for the unit tests of this crate and of the node, which includes this file.

use bytes::Bytes;
use triarch_table::Command;
use triarch_table::command::{Backoff, NewTask, OnFailure, Requires, SubmitJob};

/// Returns the submission of a job with one plain task of this kind, in the queue `default`.
pub fn submit_task(kind: &str) -> Command {
    let task = NewTask {
        key: None,
        kind: kind.into(),
        payload: Bytes::from_static(b"1"),
        queue: "default".into(),
        priority: 0,
        not_before_ms: None,
        delay_ms: 0,
        expires_ms: None,
        timeout_ms: None,
        max_attempts: 1,
        max_losses: 1,
        backoff: Backoff::default(),
        requires: Requires::default(),
        tags: Vec::new(),
        after: Vec::new(),
        unique: None,
        concurrency: None,
    };
    Command::SubmitJob(SubmitJob {
        request_id: None,
        idempotency_key: None,
        body_digest: [0; 32],
        part_digests: Vec::new(),
        after_jobs: Vec::new(),
        name: String::new(),
        on_failure: OnFailure::Continue,
        tasks: vec![task],
    })
}
