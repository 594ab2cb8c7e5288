//! Invariant: at most one result of each task is accepted, and it stays.
//!
//! Source: fencing (Kleppmann, "How to do distributed locking", 2016). Typical bug: a lease without fencing, where a
//! paused worker overwrites the result of its successor.

use std::collections::BTreeMap;

use serde_json::json;

use crate::history::History;

pub const RULE: &str = "exactly one result is accepted";

pub fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    // By task: the token of the accepted success.
    let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
    for report in &history.reports {
        if report.accepted != Some(true) || !report.succeeded {
            continue;
        }
        match accepted.insert(&report.task, report.token) {
            Some(before) if before != report.token => broken.push(format!(
                "{}: results of two leases were accepted, {before} and {} of {}",
                report.task, report.token, report.worker
            )),
            _ => {}
        }
    }
    for (task, token) in &accepted {
        let Some(shown) = history.tasks.get(*task) else {
            continue;
        };
        if shown["state"] != json!("succeeded") || shown["result"]["by"] != json!(token) {
            broken.push(format!(
                "{task}: the result of lease {token} was accepted, and it is {shown}"
            ));
        }
    }
    for (task, shown) in &history.tasks {
        if shown["state"] != json!("succeeded") {
            continue;
        }
        let by = shown["result"]["by"].as_u64();
        let reported = history
            .reports
            .iter()
            .any(|report| &report.task == task && Some(report.token) == by);
        if !reported {
            broken.push(format!(
                "{task}: succeeded with a result that nobody reported: {shown}"
            ));
        }
    }
    broken
}
