//! The worker runtime: registers, leases tasks, runs them through an [`Executor`], reports their outcomes.
//!
//! # Invariants
//!
//! - An attempt whose lease may have passed to another worker is stopped. The cluster says so, or has been silent for a
//!   whole lease.
//! - A result is reported until it is accepted or refused, and only under the token of its own lease.
//!
//! The worker keeps nothing on disk. A worker that dies is lost, and its attempts are run by others. Execution is at
//! least once, and exactly one result is accepted.

mod attempt_registry;
mod attempt_runner;
mod config;
mod executor;
mod host_load;
mod poll_pause;
mod run;
mod session;
mod shutdown;
mod spool;
mod task_result;

pub use config::WorkerConfig;
pub use executor::{Executor, Outcome, StopReason, TaskContext, TaskHandle};
pub use run::{WorkerError, run};
pub use shutdown::Shutdown;
pub use spool::OutputWriter;
