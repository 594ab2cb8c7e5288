//! Invariant: all submissions under one idempotency key make one job.
//!
//! Source: exactly-once by client sequence numbers (Ongaro, "Consensus: Bridging Theory and Practice", section 6.3).
//! Typical bug: a retry after an unknown outcome creates a second job, as FoundationDB's `commit_unknown_result` warns.

use crate::history::History;

pub const RULE: &str = "one job per idempotency key";

pub fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    for submission in &history.submissions {
        let Some(first) = submission.answers.first() else {
            continue;
        };
        for answer in &submission.answers[1..] {
            if answer.job != first.job || answer.tasks != first.tasks {
                broken.push(format!(
                    "{}: {} with {:?}, and later {} with {:?}",
                    submission.key, first.job, first.tasks, answer.job, answer.tasks
                ));
            }
        }
        let first_made = submission
            .answers
            .iter()
            .filter(|answer| !answer.duplicate)
            .count();
        if first_made > 1 {
            broken.push(format!("{} was made {first_made} times", submission.key));
        }
    }
    broken
}
