//! Fault injection in the environment of a process: wall clock, disk space, system calls.

pub mod fake_clock;
pub mod small_disk;
pub mod strace;
