//! What clients and workers asked and were told, in the order of the one clock. The invariants judge it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::process::Ns;
use crate::world::Host;

/// One job that somebody wanted, under one idempotency key.
#[derive(Debug, Clone)]
pub struct Submission {
    pub key: String,
    pub invoked: Ns,
    pub body: Value,
    /// Every answer that named ids, in the order they came.
    pub answers: Vec<Submitted>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    pub at: Ns,
    pub index: u64,
    pub job: String,
    pub tasks: Vec<String>,
    pub duplicate: bool,
}

#[derive(Debug, Clone)]
pub struct Grant {
    pub at: Ns,
    pub worker: String,
    pub task: String,
    pub attempt: u64,
    pub token: u64,
    pub inputs: Value,
}

#[derive(Debug, Clone)]
pub struct Report {
    /// When the answer came.
    pub at: Ns,
    pub worker: String,
    pub task: String,
    pub token: u64,
    pub attempt: u64,
    pub of_tick: bool,
    pub succeeded: bool,
    pub result: Value,
    /// As the answer said; `None` while no answer came.
    pub accepted: Option<bool>,
}

#[derive(Debug, Clone)]
pub struct Read {
    pub task: String,
    pub node: Host,
    pub invoked: Ns,
    pub returned: Ns,
    pub index: u64,
    pub stale: bool,
    pub status: u16,
    pub state: String,
    pub attempt: u64,
    pub result: Value,
}

#[derive(Debug, Clone)]
pub struct Cancelled {
    pub task: String,
    pub invoked: Ns,
    pub returned: Ns,
}

/// What a master said of who leads.
#[derive(Debug, Clone)]
pub struct Leading {
    pub at: Ns,
    pub node: Host,
    pub term: u64,
    pub leader: u64,
}

#[derive(Debug, Default)]
pub struct History {
    pub submissions: Vec<Submission>,
    pub grants: Vec<Grant>,
    pub reports: Vec<Report>,
    pub reads: Vec<Read>,
    pub cancelled: Vec<Cancelled>,
    pub leading: Vec<Leading>,
    /// As the cluster tells them at the end: by id.
    pub tasks: BTreeMap<String, Value>,
    pub jobs: BTreeMap<String, Value>,
    /// Digests at the end: of which node, at which index.
    pub digests: Vec<(Host, u64, String)>,
    pub schedule: Value,
}

impl History {
    /// Whether a task is of the job submitted under this key.
    pub fn is_of(&self, task: &str, key: &str) -> bool {
        self.submissions
            .iter()
            .filter(|submission| submission.key == key)
            .flat_map(|submission| &submission.answers)
            .any(|answer| answer.tasks.iter().any(|id| id == task))
    }

    /// Tasks that somebody was told are there, with when.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&str, &Submitted)> {
        self.submissions.iter().flat_map(|submission| {
            let first = submission.answers.first();
            first
                .into_iter()
                .flat_map(|first| first.tasks.iter().map(move |task| (task.as_str(), first)))
        })
    }
}
