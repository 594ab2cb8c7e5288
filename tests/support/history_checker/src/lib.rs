//! Histories of a cluster under use, and the checker that says whether the promises were kept in one.
//!
//! A history is what clients, workers and whoever injects faults wrote down: who asked what of which node, when, what the
//! answer was, and at which log index. [`check`] judges it by itself; it asks no cluster, knows no code of the product
//! and believes no counter of it. The format is in [`record`] (and, for people, in `docs/internals/history-format.md`).
//!
//! # Recording
//!
//! ```
//! use triarch_check::record::{Op, Submitted};
//! use triarch_check::{Recorder, check};
//!
//! let recorder = Recorder::in_memory(); // or Recorder::to_file(path); in_memory_by(clock) for simulated time
//! let asked = Op::Submit {
//!     key: Some("order-1".to_owned()),
//!     tasks: vec![Submitted { kind: "exec".to_owned(), ..Submitted::default() }],
//!     job: None,
//!     duplicate: false,
//!     fail_fast: false,
//! };
//! let mut call = recorder.invoke("client-1", 2, asked); // before the request is sent, to node 2
//! if let Op::Submit { job, tasks, .. } = call.op() {
//!     // What the answer told.
//!     *job = Some("j7-0".to_owned());
//!     tasks[0].id = Some("t7-0".to_owned());
//! }
//! call.ok(Some(7)); // or fail("queue_full"), or unknown("timeout"); dropped: unknown
//!
//! recorder.expect("kill-9", 1); // this run is about a kill …
//! recorder.fault("kill-9", "leader", Some("pid 4242 is gone")); // … which took effect
//! recorder.settled(); // the load is over and everything was waited for
//! let verdict = check(&recorder.history());
//! // Nobody looked at the task after it was acknowledged: nothing is proved.
//! assert!(!verdict.is_kept());
//! ```
//!
//! What a recorder has to hold to:
//! - `invoke` before a request is sent, the end after the answer is read. Times are of one monotonic clock.
//! - A timeout, a broken connection, `503` and `504` are *unknown*, never a failure. `fail` is for refusals that promise
//!   that nothing was done.
//! - A request that is sent again is another operation. A submission keeps its `key`.
//! - One name for each client that does one thing after the other.
//! - [`Submitted::observed`](record::Submitted::observed) only when *all* workers that may run the task write this history:
//!   then a result that nobody reported is from nowhere. Attempts that other workers make are inferred from reads.
//! - Side effects of a sink in the order of the sink.
//! - Payloads and results by [`digest`].
//!
//! # Judging
//!
//! Each [rule](rules::RULES) holds one promise and stands in a file of its own. The [`Verdict`] is the worst that any of
//! them found: [`Judgement::Broken`], [`Judgement::Undecided`] (a bound was hit, or the history says too little),
//! [`Judgement::NotExercised`] (nothing was acknowledged, or an expected fault was not shown to take effect), or
//! [`Judgement::Kept`]. Only the last is good.
//!
//! The checker is pure: no clock, no threads, no randomness, and bounds in steps instead of seconds, so that it says the
//! same of the same history everywhere, also inside a simulation.

mod digest;
mod history;
pub mod index;
pub mod record;
mod recorder;
pub mod rules;
mod summary;
mod verdict;

pub use digest::digest;
pub use history::{History, ReadError};
pub use record::Record;
pub use recorder::{Call, Recorder, header};
pub use summary::summarize;
pub use verdict::{Counts, Finding, Findings, Judgement, MAX_FINDINGS_PER_RULE, Verdict};

/// How much is done before it is said that it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Steps of the search for an order of one task's operations. Each may keep some two hundred bytes until the task is
    /// judged.
    pub steps_max: u64,
    /// Steps of all these searches together.
    pub steps_total_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            steps_max: 300_000,
            steps_total_max: 50_000_000,
        }
    }
}

/// Judges a history within the usual bounds.
pub fn check(history: &History) -> Verdict {
    check_within(history, Bounds::default())
}

/// Judges a history.
pub fn check_within(history: &History, bounds: Bounds) -> Verdict {
    let indexed = index::HistoryIndex::of(history);
    let mut findings = Findings::default();
    for rule in rules::RULES {
        findings.begin_rule(rule.name);
        (rule.judge)(&indexed, bounds, &mut findings);
    }
    findings.into_verdict(indexed.counts)
}
