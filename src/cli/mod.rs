//! Command line: arguments of users and scripts, and the output for them.
//!
//! Data goes to stdout and everything else to stderr, so that output can be piped. There is one file per noun in
//! [`commands`]; the parts they share are here.
//!
//! # Exit codes
//!
//! - 0: success.
//! - 1: the operation failed.
//! - 2: usage error.
//! - 3: no cluster reachable.
//! - 130: a wait was interrupted.

mod address;
mod args;
mod bench;
mod commands;
mod completion;
mod confirmation;
mod context;
mod dev;
mod dispatch;
mod duration;
mod error;
mod hints;
mod ids;
mod logging;
mod manual;
mod output;
mod shell;
mod submitted;
mod task_output;
mod time_format;
mod wait;
mod watch;

pub use dispatch::main;
