//! Invariant: the fencing tokens of a task grow with every attempt, over all leaders, and no lease is granted to two
//! workers.
//!
//! Source: sequencers (Burrows, "The Chubby lock service", 2006). Typical bug: a token counter that a new leader, a
//! snapshot or a restart resets.

use std::collections::BTreeMap;

use crate::history::{Grant, History};

pub const RULE: &str = "tokens grow";

pub fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let mut by_task: BTreeMap<&str, Vec<&Grant>> = BTreeMap::new();
    let mut by_token: BTreeMap<u64, &Grant> = BTreeMap::new();
    for grant in &history.grants {
        by_task.entry(&grant.task).or_default().push(grant);
        match by_token.insert(grant.token, grant) {
            Some(before) if (&before.worker, &before.task) != (&grant.worker, &grant.task) => {
                broken.push(format!(
                    "one token for two leases: {before:?} and {grant:?}"
                ));
            }
            _ => {}
        }
    }
    for (task, grants) in by_task {
        let mut by_attempt: BTreeMap<u64, u64> = BTreeMap::new();
        for grant in grants {
            let before = by_attempt.insert(grant.attempt, grant.token);
            if before.is_some_and(|token| token != grant.token) {
                broken.push(format!("{task}: attempt {} has two tokens", grant.attempt));
            }
        }
        let tokens: Vec<u64> = by_attempt.into_values().collect();
        if tokens.windows(2).any(|two| two[0] >= two[1]) {
            broken.push(format!(
                "{task}: tokens of its attempts in order: {tokens:?}"
            ));
        }
    }
    broken
}
