//! `triarch`: the masters, the workers and the command line in one binary.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A master allocates small pieces on one thread and frees them on another, for weeks. The C library's memory comes to
/// pieces under that: see "Decisions that were measured" in docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    triarch::main()
}
