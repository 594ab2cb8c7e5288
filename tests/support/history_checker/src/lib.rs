//! Recorder and checker of histories. A history lists all requests to a cluster and their answers; the checker decides
//! from it whether the guarantees were kept.
//!
//! Clients, workers and the injector of faults record a history: each request with its sender, node and time, its
//! answer, and the log index of the answer. [`check`] needs nothing but the history. It calls no cluster, uses no code
//! of the product, and trusts none of its counters. The format is in [`record`], and in
//! `docs/internals/history-format.md`.
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
//!     // The content of the answer.
//!     *job = Some("j7-0".to_owned());
//!     tasks[0].id = Some("t7-0".to_owned());
//! }
//! call.ok(Some(7)); // or fail("queue_full"), or unknown("timeout"); dropped: unknown
//!
//! recorder.expect("kill-9", 1); // this run expects a kill …
//! recorder.fault("kill-9", "leader", Some("pid 4242 is gone")); // … which took effect
//! recorder.settled(); // the load has ended and the cluster has recovered
//! let verdict = check(&recorder.history());
//! // No client read the task after it was acknowledged, so nothing is proved.
//! assert!(!verdict.is_kept());
//! ```
//!
//! Rules for a recorder:
//! - `invoke` is called before a request is sent, and the end is recorded after the answer is read. All times are from
//!   one monotonic clock.
//! - A timeout, a broken connection, `503` and `504` are *unknown*, never a failure. `fail` is only for refusals that
//!   guarantee that nothing was done.
//! - A request that is sent again is another operation. A submission keeps its `key`.
//! - Each client that does one operation after the other has a name of its own.
//! - [`Submitted::observed`](record::Submitted::observed) is set only if *all* workers that may run the task record to
//!   this history. Then a result without a report is a phantom. Attempts of other workers are inferred from reads.
//! - Side effects of a sink are recorded in the order of the sink.
//! - Payloads and results are recorded by [`digest`].
//!
//! # Judging
//!
//! Each [rule](rules::RULES) checks one guarantee and is in a file of its own. The [`Verdict`] is the worst finding of
//! all rules: [`Judgement::Broken`], [`Judgement::Undecided`] (a bound was reached, or the history contains too
//! little), [`Judgement::NotExercised`] (nothing was acknowledged, or an expected fault did not demonstrably take
//! effect), or [`Judgement::Kept`]. Only the last is a success.
//!
//! The checker is pure: no clock, no threads, no randomness, and bounds in steps instead of seconds. The same history
//! therefore gives the same verdict everywhere, also inside a simulation.

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

/// Bounds of the search. Beyond them the verdict is undecided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Maximum steps of the search for an order of one task's operations. Each step may take about 200 bytes of memory
    /// until the task is decided.
    pub steps_max: u64,
    /// Maximum steps of all these searches together.
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

/// Checks a history within the default bounds.
pub fn check(history: &History) -> Verdict {
    check_within(history, Bounds::default())
}

/// Checks a history within these bounds.
pub fn check_within(history: &History, bounds: Bounds) -> Verdict {
    let indexed = index::HistoryIndex::of(history);
    let mut findings = Findings::default();
    for rule in rules::RULES {
        findings.begin_rule(rule.name);
        (rule.judge)(&indexed, bounds, &mut findings);
    }
    findings.into_verdict(indexed.counts)
}
