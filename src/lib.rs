//! Triarch's program as a library: the nodes, the workers and the command line. `main.rs` runs it. Tests link it to put
//! whole nodes into one process, on a simulated network and disk.
//!
//! It has no stable interface for other programs. They use the HTTP interface, or the crate `triarch-sdk`.

#[macro_use]
mod mutated;

mod areas;
mod backup_format;
mod cli;
mod cron;
mod feed;
/// Fuzz targets, for `fuzz/` only.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod leader;
mod leader_counters;
mod log_writer;
mod panic_exit;
mod private_files;
mod schedule_times;
mod server;
mod signals;
mod state_machine;
mod terminal_text;
#[cfg(test)]
mod test_commands;
mod waiters;
mod worker;

pub use cli::main;
