//! Test doubles and suites, for the tests of this crate and of the crates above it:
//!
//! - a [`MemoryLog`] that fails on request;
//! - the [`conformance`] suite that every log engine must pass;
//! - seeded random choices.

pub mod conformance;
pub mod memory_log;
pub mod seeded_random;

pub use self::memory_log::{MemoryLog, Unsynced};
