//! Triarch's program as a library: the masters, the workers and the command line. `main.rs` runs it; tests that put whole
//! masters into one process, on a network and a disk of their own making, link it.
//!
//! It promises nothing to other programs: those use the HTTP interface, or the crate `triarch-sdk`.

#[macro_use]
mod mutated;

mod backup_format;
mod cli;
mod cron;
mod feed;
/// For `fuzz/` alone.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod leader;
mod leader_counters;
mod log_writer;
mod panic_exit;
mod server;
mod state_machine;
mod waiters;
mod worker;

pub use cli::main;
