//! The conformance suite of [`LogStore`](crate::LogStore): one set of cases that every engine must pass.
//!
//! It knows an engine only through [`Harness`]. A crash in its sense may keep or lose unacknowledged writes, in the
//! order of the calls. Acknowledged writes must be there. Failures panic; random cases print the seed to replay.

pub(crate) mod harness;
mod random;
mod suite;

pub use self::harness::Harness;
pub use self::suite::check;
