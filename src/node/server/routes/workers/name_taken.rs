//! Refusal of a worker's name that another worker has: it says for how long that one has been silent, and when the name is
//! free at the earliest.

use std::time::Duration;

use triarch_table::WorkerId;
use triarch_table::command::reply::Refusal;

use crate::leader::LeaderTerm;
use crate::leader::lease_tracker::LeaseTiming;
use crate::server::protocol::problem::{Code, Problem};

/// Refuses a registration whose name `holder` has. From now on the leader records the silence of the holder, so that later
/// leaders count on from it.
pub fn refuse(lead: Option<&LeaderTerm>, timing: LeaseTiming, holder: WorkerId) -> Problem {
    match lead.map(|lead| lead.record_claim(holder)) {
        Some(silence) => held_by(holder, silence, timing),
        None => Refusal::WorkerNameTaken { worker: holder }.into(),
    }
}

fn held_by(holder: WorkerId, silence: Duration, timing: LeaseTiming) -> Problem {
    let silent_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
    let seconds = |ms: u64| format!("{}.{} s", ms / 1_000, ms % 1_000 / 100);
    let detail = format!(
        "the name is in use by worker {holder}, which was last heard from {} ago; it is free again when that worker leaves, \
         or has been silent for its whole lease of {}: nothing was done. Repeat the request, or choose another name",
        seconds(silent_ms),
        seconds(timing.lease_ms),
    );
    Problem::new(Code::Conflict, detail)
        .with("field", "name")
        .with("worker", holder.to_string())
        .with("silent_for_ms", silent_ms)
        .with("lease_ms", timing.lease_ms)
        .with("retry_after_ms", timing.lease_ms.saturating_sub(silent_ms))
}
