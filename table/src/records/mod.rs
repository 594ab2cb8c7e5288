//! The records of the table: its replicated state, and the containers that hold it.
//!
//! Records are plain data with queries over themselves. The rules that change them are in `rules` and `apply`.

pub(crate) mod dedup;
pub(crate) mod paged;
pub(crate) mod staged_job;

pub mod job;
pub mod pending_restore;
pub mod queue;
pub mod schedule;
pub mod task;
pub mod worker;
