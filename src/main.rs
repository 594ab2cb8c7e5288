//! `triarch`: the masters, the workers and the command line in one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    triarch::main()
}
