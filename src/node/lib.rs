//! Node of a cluster: the replicated state machine over [`triarch_raft`], the decisions of a leader, and the HTTP interface.
//!
//! It has no stable interface for other programs. They use the HTTP interface, or the crate `triarch-sdk`.

#[macro_use]
mod mutated;

mod cron;
mod feed;
/// Fuzz targets, for `fuzz/` only.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod leader;
mod leader_counters;
mod schedule_times;
mod server;
mod state_machine;
#[cfg(test)]
#[path = "../areas/test_commands.rs"]
mod test_commands;
mod waiters;

pub use server::{MemoryBounds, ServerLimits, ServerOptions, Timing, memory_limit, run};
