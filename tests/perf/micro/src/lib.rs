//! What the micro-benchmarks stand on: a calibration loop, a table that lives through whole lives of tasks, a log.
//!
//! `scripts/micro.sh` runs them and holds each against the calibration of its group, in the same run, so that the speed of
//! the machine drops out. Nothing here is judged by how long it takes in seconds.

pub mod calibration;
pub mod life;
pub mod log;
