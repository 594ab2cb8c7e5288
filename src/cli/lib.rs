//! Client commands of the command line: arguments of users and scripts, and the output for them.
//!
//! Data goes to stdout and everything else to stderr, so that output can be piped. There is one file per noun in
//! `commands`; the parts they share are here.
//!
//! # Exit codes
//!
//! - 0: success.
//! - 1: the operation failed.
//! - 2: usage error.
//! - 3: no cluster reachable.
//! - 130: a wait was interrupted.

mod args;
mod bench;
mod client_command;
mod commands;
pub mod completion;
mod confirmation;
mod context;
mod dev;
pub mod duration;
mod error;
mod hints;
mod ids;
pub mod manual;
mod output;
mod shell;
mod submitted;
mod task_output;
mod time_format;
mod wait;
mod watch;

pub use args::{GlobalArgs, label, resource};
pub use client_command::ClientCommand;
pub use commands::dev::DevArgs;
pub use commands::worker::WorkerAdministration;
pub use error::{CommandError, EXIT_FAILED, EXIT_USAGE, usage_error};
pub use hints::hint;
pub use output::{print_error, print_note};
