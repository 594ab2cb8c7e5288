//! Command worker: `triarch worker` runs `exec` tasks on the worker runtime of the SDK.
//!
//! # Invariants
//!
//! - The first SIGTERM or SIGINT starts a graceful shutdown: attempts may finish, the rest is returned to the queues.
//!   The second stops the worker at once.
//! - An attempt leaves no process behind, however it ends: see `process`, `orphan_reaper` and `child_reaper`.
//! - Commands have the default actions of all signals, none of them blocked, and none of the worker's credentials.

mod captured_output;
mod cgroup;
mod child_reaper;
mod environment;
mod exec;
mod file_limit;
mod options;
mod orphan_reaper;
mod process;
mod run;
mod run_as;
mod signal_names;

pub use cgroup::TaskLimits;
pub use environment::PassedEnvironment;
pub use options::WorkerOptions;
pub use run::{exec_executor, run};
