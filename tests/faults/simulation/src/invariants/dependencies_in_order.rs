//! Invariant: a task starts when all tasks that it depends on have succeeded, and receives their results.
//!
//! Source: Celery's chords, whose callbacks ran twice or never when the counter was separate from the results. Here one
//! log entry makes a task ready.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::history::History;

pub const RULE: &str = "dependencies are in order";

pub fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    // By task: the key of each task that it depends on, and the id of that task.
    let mut after: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for submission in &history.submissions {
        let (Some(answer), Some(tasks)) = (
            submission.answers.first(),
            submission.body["tasks"].as_array(),
        ) else {
            continue;
        };
        let ids: BTreeMap<&str, &str> = tasks
            .iter()
            .zip(&answer.tasks)
            .filter_map(|(task, id)| Some((task["key"].as_str()?, id.as_str())))
            .collect();
        for (task, id) in tasks.iter().zip(&answer.tasks) {
            let keys = task["after"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str);
            after.insert(
                id,
                keys.filter_map(|key| Some((key, *ids.get(key)?))).collect(),
            );
        }
    }
    for grant in &history.grants {
        for (key, id) in after.get(grant.task.as_str()).into_iter().flatten() {
            let Some(shown) = history.tasks.get(*id) else {
                continue;
            };
            if shown["state"] != json!("succeeded") {
                broken.push(format!(
                    "{grant:?} began, and {id} before it ended as {shown}"
                ));
            } else if grant.inputs[*key] != shown["result"] {
                broken.push(format!(
                    "{grant:?} was not given the result of {id}: {shown}"
                ));
            }
        }
    }
    broken
}
