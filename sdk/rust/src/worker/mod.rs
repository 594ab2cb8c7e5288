//! The worker runtime: registers, leases tasks, runs them through an [`Executor`], reports their outcomes.
//!
//! What it guarantees to the code it runs: an attempt whose lease may have passed to another is stopped, be it because
//! the cluster says so or because the cluster has been silent for a whole lease. What it guarantees to the cluster:
//! a result is reported until it is accepted or refused, and only under the token of its own lease.
//!
//! What it deliberately does not do: it keeps nothing on disk. A worker that dies is lost, and its attempts are run by
//! others; execution is at least once, and exactly one result is accepted.

mod attempt_registry;
mod attempt_runner;
mod config;
mod executor;
mod host_load;
mod run;
mod session;
mod shutdown;
mod spool;

pub use config::WorkerConfig;
pub use executor::{Executor, Outcome, StopReason, TaskContext, TaskHandle};
pub use run::{WorkerError, run};
pub use shutdown::Shutdown;
pub use spool::OutputWriter;
