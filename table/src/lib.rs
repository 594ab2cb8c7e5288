//! The task and worker table: the replicated state of the cluster, and the only rules by which it changes.
//!
//! The table is a pure, deterministic state machine. It has no async, clock, randomness, IO, floats in decisions or
//! hash-map iteration. The same commands, in the same order, with the same stamps give the same table on every replica,
//! today and when replayed. Every change is a [`Command`]. Every reaction to a change starts from the [`Event`]s that
//! [`Table::apply`] returns; its decisions are in the [`Reply`].
//!
//! The table deliberately does not know which node leads, does not act, and never looks at a clock. Time arrives with
//! each entry as [`Stamp::now_ms`]. Scheduling is a pure proposal ([`plan`]) that the leader sends back as a
//! [`Command::Grant`], which apply verifies again.
//!
//! # Example
//!
//! The same two entries, applied on two replicas, give equal tables:
//!
//! ```
//! use triarch_table::command::{NewTask, OnFailure, RegisterWorker, SubmitJob};
//! use triarch_table::{Command, Limits, Reply, Stamp, Table};
//!
//! let task = NewTask {
//!     key: None,
//!     kind: "exec".to_owned(),
//!     payload: br#"{"argv":["true"]}"#.as_slice().into(),
//!     queue: "default".to_owned(),
//!     priority: 4,
//!     not_before_ms: None,
//!     delay_ms: 0,
//!     expires_ms: None,
//!     timeout_ms: None,
//!     max_attempts: 3,
//!     max_losses: 5,
//!     backoff: Default::default(),
//!     requires: Default::default(),
//!     tags: Vec::new(),
//!     after: Vec::new(),
//!     unique: None,
//!     concurrency: None,
//! };
//! let submit = Command::SubmitJob(SubmitJob {
//!     request_id: None,
//!     idempotency_key: None,
//!     body_digest: [0; 32],
//!     part_digests: Vec::new(),
//!     after_jobs: Vec::new(),
//!     name: "nightly".to_owned(),
//!     on_failure: OnFailure::Continue,
//!     tasks: vec![task],
//! });
//! let register = Command::RegisterWorker(RegisterWorker {
//!     request_id: None,
//!     name: "worker-1".to_owned(),
//!     queues: vec!["default".to_owned()],
//!     kinds: vec!["exec".to_owned()],
//!     slots: 1,
//!     labels: Default::default(),
//!     resources: Default::default(),
//! });
//!
//! let mut replicas = [Table::new(Limits::default()), Table::new(Limits::default())];
//! for table in &mut replicas {
//!     let mut events = Vec::new();
//!     let replies = table.apply(Stamp { index: 1, now_ms: 1_000 }, vec![submit.clone()], &mut events);
//!     assert!(matches!(replies[..], [Reply::Submitted { .. }]));
//!     table.apply(Stamp { index: 2, now_ms: 1_001 }, vec![register.clone()], &mut events);
//!     assert_eq!(table.jobs_len(), 1);
//!     assert!(table.worker_named("worker-1").is_some());
//! }
//! let [first, second] = replicas;
//! assert_eq!(first.digest(), second.digest());
//! ```
//!
//! # Layers
//!
//! Each layer may use those above it in this list and none below. There is no import circle between files or folders.
//!
//! 1. [`types`]: identifiers, bounds, states, options of queues.
//! 2. [`command`]: log commands, replies, events, their validation and log format.
//! 3. [`records`]: the replicated state, as plain data.
//! 4. `index`: secondary indexes derived from the records.
//! 5. [`Table`]: the records with their indexes.
//! 6. `rules`, [`plan`], [`query`], `invariants`, [`snapshot`]: transitions, scheduler, reads, checks and format.
//! 7. `apply`: one file for each command.

#![forbid(unsafe_code)]

#[macro_use]
mod mutated;

mod apply;
mod index;
mod invariants;
mod rules;
mod table;

pub mod command;
pub mod plan;
pub mod query;
pub mod records;
pub mod snapshot;
/// Test support. Not compiled into the product.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod testing;
pub mod types;

pub use command::Command;
pub use command::event::Event;
pub use command::reply::Reply;
pub use query::list::{JobFilter, ListOrder, ListPage, QueueView, TaskFilter};
pub use records::job::Job;
pub use records::schedule::Schedule;
pub use records::task::Task;
pub use records::worker::Worker;
pub use snapshot::{Frozen, SnapshotError};
pub use table::Table;
pub use types::ids::{JobId, Stamp, TaskId, Token, WorkerId};
pub use types::limits::Limits;
