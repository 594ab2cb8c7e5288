//! `triarch`: the nodes, the workers and the command line in one binary.

mod address;
mod dispatch;
mod logging;
mod server_args;
mod worker_args;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Global allocator. A node allocates small pieces on one thread and frees them on another, for weeks. The C library's
/// heap fragments under that load: see "Decisions that were measured" in docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    dispatch::main()
}
