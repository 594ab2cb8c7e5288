//! Invariant: everything that was acknowledged exists at the end and is terminal.
//!
//! Source: durability of committed entries (Ongaro and Ousterhout, "In Search of an Understandable Consensus
//! Algorithm", section 5.4, Leader Completeness); Jepsen's total-queue checker. Typical bug: an acknowledgement before
//! the data is on disk, as an analysis of NATS JetStream 2.12.1 found.

use crate::history::History;
use crate::invariants::is_terminal;

pub const RULE: &str = "what was acknowledged is found";

pub fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    for submission in &history.submissions {
        let Some(first) = submission.answers.first() else {
            continue;
        };
        if !first.job.is_empty() && !history.jobs.contains_key(&first.job) {
            broken.push(format!(
                "{}, asked for at {} ms, became {} and is not there",
                submission.key,
                submission.invoked / 1_000_000,
                first.job
            ));
        }
    }
    for (task, submitted) in history.acknowledged() {
        match history.tasks.get(task) {
            None => broken.push(format!(
                "{task} of {} was acknowledged at {} ms, log index {}, and is not there",
                submitted.job,
                submitted.at / 1_000_000,
                submitted.index
            )),
            Some(shown) => {
                let state = shown["state"].as_str().unwrap_or_default();
                if !is_terminal(state) {
                    broken.push(format!("{task} is still {state}: {shown}"));
                }
            }
        }
    }
    broken
}
