//! Command worker: `triarch worker` runs `exec` tasks on the worker runtime of the SDK.
//!
//! # Invariants
//!
//! - The first SIGTERM or SIGINT starts a graceful shutdown: attempts may finish, the rest is returned to the queues.
//!   The second stops the worker at once.
//! - An attempt leaves no process behind, however it ends: see [`process`] and [`orphan_reaper`].

mod captured_output;
mod exec;
mod options;
mod orphan_reaper;
mod process;
mod run;

pub use options::WorkerOptions;
pub use run::{exec_executor, run};
