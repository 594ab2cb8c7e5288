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
pub use query::list::{JobFilter, ListPage, QueueView, TaskFilter};
pub use records::job::Job;
pub use records::schedule::Schedule;
pub use records::task::Task;
pub use records::worker::Worker;
pub use snapshot::{Frozen, SnapshotError};
pub use table::Table;
pub use types::ids::{JobId, Stamp, TaskId, Token, WorkerId};
pub use types::limits::Limits;
