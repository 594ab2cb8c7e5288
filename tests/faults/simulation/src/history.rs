//! History of a run: the requests of clients and workers and their answers, in the order of the one simulated clock.
//! The invariants check it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::process::Ns;
use crate::world::Host;

/// One job that a client submits, under one idempotency key.
#[derive(Debug, Clone)]
pub struct Submission {
    pub key: String,
    pub invoked: Ns,
    pub body: Value,
    /// Every answer with ids, in the order of arrival.
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
    /// Time at which the answer arrived.
    pub at: Ns,
    pub worker: String,
    pub task: String,
    pub token: u64,
    pub attempt: u64,
    pub of_tick: bool,
    pub succeeded: bool,
    pub result: Value,
    /// Content of the answer; `None` without an answer.
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

/// A master's report of the leader.
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
    /// Final tasks of the cluster, by id.
    pub tasks: BTreeMap<String, Value>,
    pub jobs: BTreeMap<String, Value>,
    /// Final digests: node and log index.
    pub digests: Vec<(Host, u64, String)>,
    pub schedule: Value,
}

impl History {
    /// Returns whether a task belongs to the job submitted under this key.
    pub fn is_of(&self, task: &str, key: &str) -> bool {
        self.submissions
            .iter()
            .filter(|submission| submission.key == key)
            .flat_map(|submission| &submission.answers)
            .any(|answer| answer.tasks.iter().any(|id| id == task))
    }

    /// Tasks that were acknowledged to a client, with the time.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&str, &Submitted)> {
        self.submissions.iter().flat_map(|submission| {
            let first = submission.answers.first();
            first
                .into_iter()
                .flat_map(|first| first.tasks.iter().map(move |task| (task.as_str(), first)))
        })
    }
}
