//! Invariant: a linearizable read shows everything that was known before it began. An acknowledged task exists. A task
//! that was seen terminal is terminal with the same result. Attempts and the log index never go back.
//!
//! Source: linearizability (Herlihy and Wing, 1990), checked for each task as a register that only moves forward.
//! Typical bug: stale reads from a deposed leader, as an analysis of Redis-Raft found.

use std::collections::BTreeMap;

use crate::history::{History, Read};
use crate::invariants::is_terminal;

pub const RULE: &str = "reads are current";

pub fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let mut by_task: BTreeMap<&str, Vec<&Read>> = BTreeMap::new();
    for read in &history.reads {
        if !read.stale {
            by_task.entry(&read.task).or_default().push(read);
        } else if read.status == 200 && is_terminal(&read.state) {
            // A stale read too shows only what is true.
            let last = history.tasks.get(&read.task);
            if last.is_some_and(|last| last["state"] != read.state.as_str()) {
                broken.push(format!(
                    "node {} showed an end that was not the end, {read:?}: {last:?}",
                    read.node
                ));
            }
        }
    }
    let acknowledged: BTreeMap<&str, _> = history.acknowledged().collect();
    for (task, reads) in by_task {
        for read in &reads {
            if read.status == 404
                && acknowledged
                    .get(task)
                    .is_some_and(|made| made.at < read.invoked)
            {
                broken.push(format!("an acknowledged task was not there: {read:?}"));
            }
        }
        for later in &reads {
            let before = reads
                .iter()
                .filter(|earlier| earlier.returned < later.invoked && earlier.status == 200);
            for earlier in before {
                let ended = is_terminal(&earlier.state);
                let changed =
                    ended && (earlier.state != later.state || earlier.result != later.result);
                if changed || later.attempt < earlier.attempt || later.index < earlier.index {
                    broken.push(format!("{earlier:?}, and after it {later:?}"));
                    break;
                }
            }
        }
        for report in history.reports.iter().filter(|report| report.task == task) {
            if report.accepted != Some(true) || !report.succeeded {
                continue;
            }
            let stale = reads
                .iter()
                .find(|read| read.invoked > report.at && read.state != "succeeded");
            if let Some(read) = stale {
                broken.push(format!("{report:?} was accepted, and after it {read:?}"));
            }
        }
    }
    broken
}
