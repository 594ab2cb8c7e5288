//! Invariant: each tick of a schedule makes at most one job, and the schedule counts its jobs correctly.
//!
//! Source: Nomad #11052 and Chronos, where a failover fired a tick twice or lost it. Here the id of a tick consists of
//! the schedule and the time.

use std::collections::BTreeMap;

use crate::history::History;

pub const RULE: &str = "one job per tick";

pub fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let Some(jobs) = history.schedule["jobs"].as_array() else {
        return broken;
    };
    let mut by_key: BTreeMap<&str, u64> = BTreeMap::new();
    for job in jobs {
        if let Some(key) = job["idempotency_key"].as_str() {
            *by_key.entry(key).or_default() += 1;
        }
    }
    for (key, count) in by_key {
        if count > 1 {
            broken.push(format!("{key} made {count} jobs"));
        }
    }
    let fired = history.schedule["schedule"]["fired"].as_u64();
    if fired.is_some_and(|fired| fired != jobs.len() as u64) {
        broken.push(format!(
            "{} jobs of ticks are there: {}",
            jobs.len(),
            history.schedule["schedule"]
        ));
    }
    broken
}
