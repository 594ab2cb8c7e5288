//! The task and worker table: what the cluster remembers, and the only rules by which it changes.
//!
//! The table is a pure, deterministic state machine. It has no async, clock, randomness, IO, floats in decisions
//! or hash-map iteration: the same commands, in the same order, with the same stamps give the same table on every
//! replica, today and when replayed. Everything that changes it is a [`Command`]; everything that reacts to a change
//! hangs on the [`Event`]s that [`Table::apply`] returns; what it decides is told in the [`Reply`].
//!
//! What it deliberately does not do: it does not know who leads, does not act, and never looks at a clock. Time comes
//! in with each entry as [`Stamp::now_ms`]. Scheduling is a pure proposal ([`plan`]) that the leader sends back in as a
//! [`Command::Grant`], which apply verifies again.

#![forbid(unsafe_code)]

#[macro_use]
mod mutated;

mod apply;
mod concurrency;
mod crew;
mod dedup;
mod digest;
pub mod explain;
mod flow;
/// For `fuzz/` alone.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod invariants;
mod lease;
mod line;
mod paged;
mod quarantine;
pub mod restore;
mod retry;
mod shape;
mod staged;
mod table;
mod turns;

pub mod codec;
pub mod command;
pub mod event;
pub mod ids;
pub mod job;
pub mod limits;
pub mod list;
pub mod model;
pub mod plan;
pub mod queue;
pub mod reply;
pub mod schedule;
pub mod snapshot;
pub mod task;
pub mod worker;

pub use command::Command;
pub use event::Event;
pub use ids::{JobId, Stamp, TaskId, Token, WorkerId};
pub use job::Job;
pub use limits::Limits;
pub use list::{JobFilter, Listed, QueueView, TaskFilter};
pub use reply::Reply;
pub use schedule::Schedule;
pub use snapshot::{Frozen, SnapshotError};
pub use table::Table;
pub use task::Task;
pub use worker::Worker;
