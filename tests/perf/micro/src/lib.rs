//! Support for the micro-benchmarks: a calibration loop, a table with complete task lifecycles, and a log.
//!
//! `scripts/micro.sh` runs the benchmarks and compares each to the calibration of its group in the same run, so that
//! the speed of the machine has no effect. No benchmark is judged by its time in seconds.

pub mod calibration;
pub mod life;
pub mod log;
